"""PyTorch's pass that promotes types is left out of a trace that has none to promote, and only there."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from longserve.export import graph, type_promotion
from longserve.export.type_promotion import promotes_types, without_type_promotion

passes: Any = importlib.import_module("torch.onnx._internal.exporter._fx_passes")
rules: Any = importlib.import_module("torch.onnx._internal.fx.passes.type_promotion")


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, value: Tensor, count: Tensor) -> Tensor:
        return self.function(value, count)


VALUE, COUNT = torch.linspace(-2.0, 3.0, 12).reshape(3, 4), torch.arange(12).reshape(3, 4)
NONE_TO_PROMOTE = {
    "one type": lambda v, n: v * 2.0 + v / v.abs().amax(1, keepdim=True),
    "whole numbers": lambda v, n: n * 2 + n.cumsum(1) - n // 5,
    "cast by hand": lambda v, n: v + n.to(v.dtype),
    "compared": lambda v, n: torch.where((n > 3) & (v < 1.0), v, -v),
    "looked up": lambda v, n: torch.gather(v, 1, n % 4).softmax(1),
}
PROMOTED = {
    "whole numbers and floats": lambda v, n: v + n,
    "truth values and floats": lambda v, n: v * (n > 3),
    "a float and a whole number's tensor": lambda v, n: n * 0.5,
    "whole numbers divided": lambda v, n: n / (n + 1),
    "whole numbers under a root": lambda v, n: torch.sqrt(n),
    "a choice of two types": lambda v, n: torch.where(n > 3, v.double(), v),
    "a number of another type": lambda v, n: torch.where(n > 3, 0.0, v.half()),
}
FUNCTIONS = NONE_TO_PROMOTE | PROMOTED


@pytest.fixture
def promoted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The modules that PyTorch's pass was run on."""
    done = []
    insert = passes.insert_type_promotion_nodes

    def noted(module: Any) -> None:
        done.append(module)
        insert(module)

    monkeypatch.setattr(passes, "insert_type_promotion_nodes", noted)
    return done


def translated(function: Callable[[Tensor, Tensor], Tensor]) -> ir.Model:
    rows, columns = torch.export.Dim("rows"), torch.export.Dim("columns")
    program = graph._translated(
        Applied(function).eval(),
        (),
        kwargs={"value": VALUE, "count": COUNT},
        dynamic_shapes={key: {0: rows, 1: columns} for key in ("value", "count")},
        input_names=["value", "count"],
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    return program.model


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_pass_runs_where_it_is_needed(name: str, promoted: list[Any]) -> None:
    model = translated(FUNCTIONS[name])
    assert bool(promoted) == (name in PROMOTED)
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for rows in (3, 2):
        given = {"value": VALUE[:rows], "count": COUNT[:rows]}
        used = {one.name for one in session.get_inputs()}
        feeds = {key: value.numpy() for key, value in given.items() if key in used}
        (found,) = session.run(None, feeds)
        wanted = FUNCTIONS[name](v=given["value"], n=given["count"]).numpy()
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", NONE_TO_PROMOTE)
def test_where_it_is_left_out_it_would_change_nothing(name: str) -> None:
    axes = {0: torch.export.Dim("rows"), 1: torch.export.Dim("columns")}
    shapes = {"value": axes, "count": axes}
    traced = torch.export.export(Applied(FUNCTIONS[name]).eval(), (VALUE, COUNT), dynamic_shapes=shapes)
    before = str(traced.graph_module.graph)
    assert not promotes_types(traced.graph_module, rules)
    passes.insert_type_promotion_nodes(traced.graph_module)
    assert str(traced.graph_module.graph) == before


def test_in_other_threads_and_afterwards_the_pass_is_as_ever(promoted: list[Any]) -> None:
    traced = torch.export.export(Applied(FUNCTIONS["one type"]).eval(), (VALUE, COUNT)).graph_module
    before = passes.insert_type_promotion_nodes
    with ThreadPoolExecutor(1) as pool, without_type_promotion():
        passes.insert_type_promotion_nodes(traced)
        assert not promoted
        pool.submit(lambda: passes.insert_type_promotion_nodes(traced)).result()
        assert promoted == [traced]
    assert passes.insert_type_promotion_nodes is before


@pytest.mark.parametrize("missing", ["the pass", "the rules"])
def test_a_pytorch_that_has_other_names_is_left_alone(
    missing: str, promoted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "the pass":
        monkeypatch.setattr(type_promotion, "_PASSES", "torch.onnx._no_such_module")
    else:
        monkeypatch.delattr(rules, "TypePromotionTable")
        monkeypatch.setattr(passes, "insert_type_promotion_nodes", promoted.append)
    translated(FUNCTIONS["one type"])
    assert promoted


def test_rules_that_cannot_be_asked_mean_that_the_pass_is_needed() -> None:
    traced = torch.export.export(Applied(FUNCTIONS["one type"]).eval(), (VALUE, COUNT)).graph_module
    table = SimpleNamespace(TypePromotionTable=object, get_type_promotion_rule=lambda node, table: table)
    assert promotes_types(traced, table)
