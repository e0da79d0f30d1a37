"""The stock model with a checkpoint's weights: all of them, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel

from longserve.serving.runtime.manifest import Task

from .checkpoint_files import UNREADABLE, Place, unreadable
from .errors import CheckpointError, CheckpointNotFound, TaskMismatch
from .exporter_config import model_class

__all__ = ["load_model"]


_BUFFERS = ("position_ids", "token_type_ids")
"""Numbers that older releases of transformers saved beside the weights."""
_ADAPTERS = re.compile(r"lora_|adapter|\.base_layer\.")
"""In the names of weights that PEFT and adapter libraries put beside a model's own."""


def load_model(place: Place, task: Task, model_type: str) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Load the stock model with the head of a task, float32, in evaluation mode.

    Returns:
        The model, and the names of the checkpoint's weights that it does without: of another head, or of a
        pooler that the task's head does not read.

    Raises:
        CheckpointNotFound: the weights cannot be read.
        CheckpointError: some are missing, of other shapes than the configuration says, or of a larger model
            than it says.
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
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    _check_names(unexpected, missing, source)
    _check_missing(missing, model, source, task)
    mismatched = [
        f"{name} is {list(found)}, its configuration says {list(expected)}"
        for name, found, expected in sorted(info["mismatched_keys"])
    ]
    if mismatched:
        raise CheckpointError(
            f"{source} has weights of other shapes than its configuration: {_some(mismatched)}; "
            "get the checkpoint again"
        )
    left_out = [name for name in unexpected if _is_of_the_model(name, model)]
    if left_out:
        raise CheckpointError(
            f"{source} has weights for which the model of its config.json has no place: {_some(left_out)}; "
            f"an export would leave them out: correct config.json, or save the checkpoint "
            "again with save_pretrained"
        )
    loaded: PreTrainedModel = model.eval()
    return loaded, tuple(name for name in unexpected if name.rpartition(".")[2] not in _BUFFERS)


def _check_names(unexpected: list[str], missing: list[str], source: str) -> None:
    """Refuse what adapters and wrappers make of the names of weights."""
    adapters = [name for name in unexpected if _ADAPTERS.search(name)]
    if adapters:
        raise CheckpointError(
            f"{source} has an adapter's weights beside the model's own: {_some(adapters)}; "
            "merge them (with PEFT: merge_and_unload) and save the result with save_pretrained"
        )
    for name in unexpected:
        parts = name.split(".")
        for cut in range(1, len(parts)):
            if ".".join(parts[cut:]) in missing:
                raise CheckpointError(
                    f"{source} names its weights with {'.'.join(parts[:cut])}. in front, as in {name}: a "
                    "wrapper was saved, not the model in it; save that with save_pretrained (of PEFT after "
                    "merge_and_unload, of DistributedDataParallel .module, of torch.compile ._orig_mod)"
                )


def _check_missing(missing: list[str], model: PreTrainedModel, source: str, task: Task) -> None:
    head = [name for name in missing if not name.startswith(f"{model.base_model_prefix}.")]
    if head:
        raise TaskMismatch(
            f"{source} has no weights for the head of {task.value} ({_some(head)}); "
            "fine-tune it for that task first"
        )
    if missing:
        raise CheckpointError(f"{source} lacks weights: {_some(missing)}; get the checkpoint again")


def _is_of_the_model(name: str, model: PreTrainedModel) -> bool:
    """Whether a weight that found no place is of the encoder or of the task's head."""
    if name.rpartition(".")[2] in _BUFFERS:
        return False
    base = dict(model.base_model.named_children())
    prefix = f"{model.base_model_prefix}."
    part = name.removeprefix(prefix).partition(".")[0]
    if name.startswith(prefix):
        return part != "pooler" or part in base
    return part in base or part in dict(model.named_children())


def _some(names: Iterable[str], limit: int = 3) -> str:
    listed = list(names)
    rest = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + rest
