"""One table of translations for all graphs is the table that each would have made."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.onnx._internal.exporter import _registration

from longserve.export import operator_registry
from longserve.export.operator_registry import with_kept_registry

Registry = _registration.ONNXRegistry


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The opset of each registry that PyTorch makes."""
    opsets: list[int] = []
    make = Registry._cleanup_registry_based_on_opset_version

    def noted(registry: Any) -> None:
        opsets.append(registry.opset_version)
        make(registry)

    monkeypatch.setattr(Registry, "_cleanup_registry_based_on_opset_version", noted)
    monkeypatch.setattr(operator_registry, "_kept", {})
    return opsets


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a registry have few translations: what is in it does not matter, and it is made sooner."""
    all_of_them = _registration.onnxscript_apis.get_torchlib_ops()
    monkeypatch.setattr(_registration.onnxscript_apis, "get_torchlib_ops", lambda: all_of_them[:9])


def content(registry: Any) -> dict[Any, list[tuple[Any, ...]]]:
    return {
        name: [(found.onnx_function, found.fx_target, found.is_custom, found.is_complex) for found in all_of]
        for name, all_of in registry.functions.items()
    }


def test_each_opset_is_made_once_and_is_what_it_would_be(made: list[int]) -> None:
    own = Registry.from_torchlib(opset_version=18)
    for _ in range(2):
        with with_kept_registry():
            # as PyTorch calls it, on an object
            given = [Registry().from_torchlib(opset_version=opset) for opset in (18, 23, 18)]
        assert [registry.opset_version for registry in given] == [18, 23, 18]
        assert len(content(own)) > 300
        assert content(given[0]) == content(given[2]) == content(own)
    assert made == [18, 18, 23]


def test_what_one_graph_adds_another_does_not_have(made: list[int]) -> None:
    target = torch.ops.aten.relu.default
    with with_kept_registry():
        first, second = Registry.from_torchlib(), Registry.from_torchlib()
        first.register_op(target, lambda value: value)
        assert [found.is_custom for found in first.get_decomps(target)] == [True, False]
        for other in (second, Registry.from_torchlib()):
            assert [found.is_custom for found in other.get_decomps(target)] == [False]


def test_in_other_threads_and_afterwards_each_is_made(made: list[int], few: None) -> None:
    with with_kept_registry(), ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            pool.submit(Registry.from_torchlib, 19).result(60)
    assert made == [19, 19]
    assert isinstance(inspect.getattr_static(Registry, "from_torchlib"), classmethod)


def test_a_pytorch_that_has_other_names_is_left_alone(
    made: list[int], few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator_registry, "_NAME", "from_somewhere_else")
    with with_kept_registry():
        for _ in range(2):
            Registry.from_torchlib(21)
    assert made == [21, 21]
