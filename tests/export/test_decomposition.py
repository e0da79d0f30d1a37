"""Graphs are traced without PyTorch's decomposition, unless they hold what cannot be translated without."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.onnx import OnnxExporterError

from longserve.export import graph
from longserve.export.checkpoint import load_checkpoint
from longserve.export.decomposition import without_decomposition
from longserve.export.description import describe_checkpoint
from longserve.export.exporter import layout_module
from longserve.export.exporter_config import exporter_config
from longserve.export.settings import ExportSettings
from longserve.serving.runtime.manifest import Layout, Task


@pytest.fixture
def decomposed(monkeypatch: pytest.MonkeyPatch) -> list[ExportedProgram]:
    """The programs that PyTorch decomposed."""
    done = []
    decompose = ExportedProgram.run_decompositions

    def noted(program: ExportedProgram, *arguments: Any) -> ExportedProgram:
        done.append(program)
        return decompose(program, *arguments)

    monkeypatch.setattr(ExportedProgram, "run_decompositions", noted)
    return done


def results(model: ir.Model, feeds: dict[str, Tensor]) -> list[Any]:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {name: value.numpy() for name, value in feeds.items()}))


def test_the_graph_is_equal_to_that_of_all_steps(
    quick_checkpoints: dict[str, Any],
    decomposed: list[ExportedProgram],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = load_checkpoint(str(quick_checkpoints["question-answering"]), Task.QUESTION_ANSWERING)
    manifest = describe_checkpoint(checkpoint, ExportSettings())
    layout = Layout.PACKED
    feeds = exporter_config(checkpoint.config, checkpoint.task, layout).dummy_inputs()

    def exported() -> ir.Model:
        module = layout_module(checkpoint.model, manifest, layout)
        return graph.export_graph(module, checkpoint.config, checkpoint.task, layout)

    found = results(exported(), feeds)
    assert not decomposed, "nothing in the module needs it"
    monkeypatch.setattr(graph, "without_decomposition", contextlib.nullcontext)
    monkeypatch.setattr(graph, "without_type_promotion", contextlib.nullcontext)
    monkeypatch.setattr(graph, "with_kept_registry", contextlib.nullcontext)
    wanted = results(exported(), feeds)
    assert len(decomposed) == 1
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


class _Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, value: Tensor) -> Tensor:
        return self.function(value)


def _written(value: Tensor) -> Tensor:
    result = value * 2.0
    result[:, 0] = 5.0  # changes what the next line reads
    return result + result[:, :1]


EXPORT = {"dynamo": True, "optimize": False, "verbose": False}
REPLACED = {
    "a cast": lambda v: (v > 0).to(torch.int64),
    "a cast by name": lambda v: v.to(dtype=torch.float64),
    "a cast and a copy": lambda v: v.to(torch.float64, copy=True),
    "and, or": lambda v: ((v > 0) & (v < 1)) | (v > 2),
    "a difference from a number": lambda v: 3.0 - v,
    "flattened, one axis dynamic": lambda v: v[:, :, None].flatten(1, 2),
    "flattened, both dynamic": lambda v: torch.stack([v, v]).flatten(0, 1),
}
DECOMPOSED = {
    "it writes into its argument": _written,
    "a difference of a multiple": lambda v: torch.rsub(v, 3.0, alpha=2),
    "an operator without translation": lambda v: (v > 0) ^ (v < 1),
}


@pytest.mark.parametrize("function", [*REPLACED.values(), *DECOMPOSED.values()], ids=[*REPLACED, *DECOMPOSED])
def test_operators_mean_the_same(
    function: Callable[[Tensor], Tensor], decomposed: list[ExportedProgram]
) -> None:
    value = torch.linspace(-2.0, 3.0, 12).reshape(3, 4)
    axes = {"value": {0: torch.export.Dim("rows"), 1: torch.export.Dim("columns")}}
    program = graph._translated(
        _Applied(function).eval(),
        (),
        kwargs={"value": value},
        dynamic_shapes=axes,
        input_names=["value"],
        **EXPORT,
    )
    assert program is not None
    assert bool(decomposed) == (function in DECOMPOSED.values())
    for rows in (3, 2):
        (found,) = results(program.model, {"value": value[:rows]})
        np.testing.assert_array_equal(found, function(value[:rows].clone()).numpy())


def test_an_operator_that_is_not_translated_at_all_is_an_error() -> None:
    module = _Applied(torch.linalg.eigvals).eval()
    with pytest.raises(OnnxExporterError):
        graph._translated(module, (torch.eye(3),), **EXPORT)


def test_afterwards_and_in_other_threads_pytorch_is_as_ever(decomposed: list[ExportedProgram]) -> None:
    before = ExportedProgram.run_decompositions
    program = torch.export.export(_Applied(REPLACED["a cast"]).eval(), (torch.ones(2),))
    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyError), without_decomposition():
        program.run_decompositions()
        assert not decomposed
        pool.submit(program.run_decompositions).result()
        assert decomposed == [program]

        def enter() -> None:
            with without_decomposition():
                pass

        waits = pool.submit(enter)
        with pytest.raises(TimeoutError):
            waits.result(0.2)
        raise KeyError
    assert waits.done()
    assert ExportedProgram.run_decompositions is before
