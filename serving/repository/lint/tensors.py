"""Inputs, outputs and Triton's ragged batching of an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonclient.grpc import model_config_pb2 as triton

from ...runtime.manifest import Layout, Task
from ..config import SEQUENCE_ENDS, TRITON_TYPES
from ..warmup import INPUT_IDS
from .findings import Finding
from .models import Model, Surroundings, error

__all__ = ["check_batch_input", "check_batch_output", "check_ragged", "check_tensors"]

_REBUILD = "build the model again with `longserve repo`"


def check_tensors(model: Model, around: Surroundings) -> Iterator[Finding]:
    """An encoder's tensors must be those of its graph."""
    if model.is_text_model or model.manifest is None:
        return
    graph = model.manifest.graph(Layout.PACKED)
    for side, expected, given in (
        ("input", [t for t in graph.inputs if t.name != SEQUENCE_ENDS], model.config.input),
        ("output", list(graph.outputs), model.config.output),
    ):
        wanted = {tensor.name: TRITON_TYPES.get(tensor.dtype) for tensor in expected}
        found = {tensor.name: tensor.data_type for tensor in given}
        if found != wanted:
            yield error(
                "wrong-tensors",
                model.config_file,
                f"the {side}s are {_shown(found)}, but the graph has {_shown(wanted)}",
                _REBUILD,
            )


def check_ragged(model: Model, around: Surroundings) -> Iterator[Finding]:
    """Without ragged batching, requests of different lengths are not batched at all."""
    if model.is_text_model:
        return
    rigid = [tensor.name for tensor in model.config.input if not tensor.allow_ragged_batch]
    if rigid:
        yield error(
            "no-ragged-batching",
            model.config_file,
            f"allow_ragged_batch is not set on {', '.join(rigid)}: only requests of equal length share a run",
            "set allow_ragged_batch: true on every input",
        )


def check_batch_input(model: Model, around: Surroundings) -> Iterator[Finding]:
    """Triton's own backends must tell the graph where each sequence ends."""
    if model.is_text_model or not model.packs_in_triton:
        return
    entries = [entry for entry in model.config.batch_input if SEQUENCE_ENDS in entry.target_name]
    right = (
        len(entries) == 1
        and entries[0].kind == triton.BatchInput.BATCH_ACCUMULATED_ELEMENT_COUNT
        and entries[0].data_type == triton.TYPE_INT32
        and list(entries[0].source_input) == [INPUT_IDS]
    )
    if not right:
        yield error(
            "no-batch-input",
            model.config_file,
            f"there is no batch_input that gives {SEQUENCE_ENDS} as the accumulated lengths of {INPUT_IDS}, "
            "without which the graph cannot tell the sequences of a batch apart",
            "add batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT, "
            f'target_name: "{SEQUENCE_ENDS}", data_type: TYPE_INT32, source_input: "{INPUT_IDS}" }}',
        )


def check_batch_output(model: Model, around: Surroundings) -> Iterator[Finding]:
    """Triton's own backends must take a question-answering batch's outputs apart, one entry each."""
    if model.is_text_model or not model.packs_in_triton or model.manifest is None:
        return
    if model.manifest.task is not Task.QUESTION_ANSWERING:
        return
    scattering = [entry for entry in model.config.batch_output if _scatters(entry)]
    for tensor in model.manifest.graph(Layout.PACKED).outputs:
        if not any(tensor.name in entry.target_name for entry in scattering):
            yield error(
                "no-batch-output",
                model.config_file,
                f"no batch_output takes {tensor.name} apart by the lengths of {INPUT_IDS}: every request "
                "of a batch would get the logits of all",
                f'add batch_output {{ target_name: "{tensor.name}", kind: BATCH_SCATTER_WITH_INPUT_SHAPE, '
                f'source_input: "{INPUT_IDS}" }}',
            )
    for entry in scattering:
        if len(entry.target_name) > 1:
            yield error(
                "shared-batch-output",
                model.config_file,
                f"one batch_output names {', '.join(entry.target_name)}: Triton gives them wrong shapes",
                "give each output a batch_output of its own",
            )


def _scatters(entry: Any) -> bool:
    scatter = triton.BatchOutput.BATCH_SCATTER_WITH_INPUT_SHAPE
    return bool(entry.kind == scatter and list(entry.source_input) == [INPUT_IDS])


def _shown(tensors: dict[str, Any]) -> str:
    return ", ".join(f"{name} {triton.DataType.Name(kind or 0)}" for name, kind in tensors.items()) or "none"
