"""What a checkpoint's configuration must say for an exact export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from longserve.serving.runtime.manifest import ProblemType, Task

from .architectures import architecture_of
from .errors import TaskMismatch, UnsupportedModel

__all__ = ["check_config", "check_token_ids", "is_unicode"]

_SIZES = (
    "vocab_size",
    "type_vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)


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
    _check_quantization(config, source)
    for name in _SIZES:
        if getattr(config, name, 1) < 1:
            raise UnsupportedModel(f"{source} has {name} {getattr(config, name)}; it must be at least 1")
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
    check_token_ids({"pad": config.pad_token_id}, config, source)
    architecture.check(config, source, task)


def check_token_ids(tokens: Mapping[str, Any], config: PretrainedConfig, source: str) -> None:
    """Refuse special tokens of a configuration that are no token of its model.

    Args:
        tokens: role (`pad`, `sep`, ...) to what the configuration says.
        config: the checkpoint's configuration.
        source: the checkpoint, for messages.

    Raises:
        UnsupportedModel: one is no number, or outside of the vocabulary.
    """
    for role, number in tokens.items():
        if not isinstance(number, int):
            raise UnsupportedModel(
                f"{source} has {role}_token_id {number}; only one token of a kind is supported: name it in "
                "config.json, or give the checkpoint its tokenizer"
            )
        if not 0 <= number < config.vocab_size:
            raise UnsupportedModel(
                f"{source} has {role}_token_id {number}, but the ids of its vocabulary are 0 to "
                f"{config.vocab_size - 1}; correct config.json"
            )


def _check_quantization(config: PretrainedConfig, source: str) -> None:
    for name in ("quantization_config", "compression_config"):
        found = getattr(config, name, None)
        if found is not None:
            method = found.get("quant_method") if isinstance(found, dict) else None
            raise UnsupportedModel(
                f"{source} is quantized ({method or name}); longserve exports float weights and quantizes "
                "them itself (--precision int8): give the checkpoint that this one was made from"
            )


def _check_labels(names: dict[Any, Any], source: str) -> None:
    if not names:
        raise UnsupportedModel(f"{source} has no labels (id2label is empty); a classifier needs at least one")
    if sorted(names) != list(range(len(names))):
        raise UnsupportedModel(
            f"{source} names labels for the indices {sorted(names)}; id2label must name 0 to {len(names) - 1}"
        )
    if len({str(name) for name in names.values()}) != len(names):
        raise UnsupportedModel(
            f"{source} has {len(names)} labels with the names {list(names.values())}; give each its own"
        )
    for name in names.values():
        if not is_unicode(str(name)):
            raise UnsupportedModel(
                f"{source} has the label {str(name)!a}, which is no Unicode text; correct id2label in "
                "config.json"
            )


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: one half of a surrogate pair cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
