"""What a checkpoint's configuration must say for an exact export."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from longserve.serving.runtime.manifest import ProblemType, Task

from .architectures import architecture_of
from .errors import TaskMismatch, UnsupportedModel

__all__ = ["check_config"]


def check_config(config: PretrainedConfig, source: str, task: Task) -> None:
    """Refuse configurations that have no exact export.

    Args:
        config: the checkpoint's configuration.
        source: the checkpoint, for messages.
        task: the task that its head must be made for.

    Raises:
        UnsupportedModel: another architecture, or a configuration without an exact export.
        TaskMismatch: its head is another task's.
    """
    architecture = architecture_of(config.model_type, source)
    wanted, named = architecture.head_class(config.model_type, task), tuple(config.architectures or ())
    if named and wanted not in named:
        raise TaskMismatch(
            f"{source} holds {', '.join(named)}, but the task {task.value} needs {wanted}; choose the task "
            "of its head, or a fine-tuned checkpoint"
        )
    if task is Task.QUESTION_ANSWERING and config.num_labels != 2:
        raise UnsupportedModel(
            f"{source} has {config.num_labels} question-answering outputs; only 2 (start, end) are supported"
        )
    if config.problem_type is not None and config.problem_type not in {kind.value for kind in ProblemType}:
        raise UnsupportedModel(f"{source} has the unknown problem_type {config.problem_type!r}")
    if task is Task.TEXT_CLASSIFICATION:
        _check_labels(dict(config.id2label or {}), source)
    if config.pad_token_id is None:
        raise UnsupportedModel(f"{source} has no pad_token_id; shorter rows of a batch are filled with it")
    architecture.check(config, source, task)


def _check_labels(names: dict[Any, Any], source: str) -> None:
    if sorted(names) != list(range(len(names))):
        raise UnsupportedModel(
            f"{source} names labels for the indices {sorted(names)}; id2label must name 0 to {len(names) - 1}"
        )
    if len({str(name) for name in names.values()}) != len(names):
        raise UnsupportedModel(
            f"{source} has {len(names)} labels with the names {list(names.values())}; give each its own"
        )
