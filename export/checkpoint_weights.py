"""The stock model with a checkpoint's weights: all of them, and no others."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from longserve.serving.runtime.manifest import Task

from .checkpoint_files import UNREADABLE, Place, unreadable
from .errors import CheckpointError, CheckpointNotFound, TaskMismatch
from .exporter_config import model_class

__all__ = ["load_model"]


def load_model(place: Place, task: Task, model_type: str) -> PreTrainedModel:
    """Load the stock model with the head of a task, float32, in evaluation mode.

    Raises:
        CheckpointNotFound: the weights cannot be read.
        CheckpointError: some are missing, or of other shapes than the configuration says.
        TaskMismatch: there are none for the head.
    """
    source = place.source
    try:
        model, info = model_class(task, model_type).from_pretrained(
            place.path,
            revision=place.commit,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, by name
            trust_remote_code=False,
        )
    except UNREADABLE as error:
        raise CheckpointNotFound(unreadable(place, error)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        head = [name for name in missing if not name.startswith(f"{model.base_model_prefix}.")]
        if head:
            raise TaskMismatch(
                f"{source} has no weights for the head of {task.value} ({_some(head)}); "
                "fine-tune it for that task first"
            )
        raise CheckpointError(f"{source} lacks weights: {_some(missing)}; get the checkpoint again")
    mismatched = [
        f"{name} is {list(found)}, its configuration says {list(expected)}"
        for name, found, expected in sorted(info["mismatched_keys"])
    ]
    if mismatched:
        raise CheckpointError(
            f"{source} has weights of other shapes than its configuration: {_some(mismatched)}; "
            "get the checkpoint again"
        )
    loaded: PreTrainedModel = model.eval()
    return loaded


def _some(names: Iterable[str], limit: int = 3) -> str:
    listed = list(names)
    rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + rest
