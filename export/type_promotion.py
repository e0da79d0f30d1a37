"""Tracing without PyTorch's pass that promotes types, where a graph has none to promote.

Before `torch.onnx.export` translates a traced program, it has every operator computed once more, on tensors
without data, in order to insert a cast wherever an operator's arguments are of different types. It takes a
fifth of an export's time, and our modules cast their tensors themselves.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.node import map_arg

from .patching import patched_here

__all__ = ["promotes_types", "without_type_promotion"]

_PASSES = "torch.onnx._internal.exporter._fx_passes"
_RULES = "torch.onnx._internal.fx.passes.type_promotion"
_NAME = "insert_type_promotion_nodes"
_TYPE_OF_NUMBERS = {
    bool: torch.bool,
    torch.SymBool: torch.bool,
    int: torch.int64,
    torch.SymInt: torch.int64,
    float: torch.float32,
    torch.SymFloat: torch.float32,
}


def without_type_promotion() -> AbstractContextManager[None]:
    """Let `torch.onnx.export` leave the pass out in this thread, where it would change nothing.

    The pass is no public part of PyTorch: where it is not found as expected, nothing is left out.
    """
    try:
        passes: Any = importlib.import_module(_PASSES)
        rules: Any = importlib.import_module(_RULES)
        rules.get_type_promotion_rule, rules.TypePromotionTable, getattr(passes, _NAME)
    except (ImportError, AttributeError):
        return contextlib.nullcontext()

    def where_needed(insert: Callable[[GraphModule], None]) -> Callable[[GraphModule], None]:
        def replace(module: GraphModule) -> None:
            if promotes_types(module, rules):
                insert(module)

        return replace

    return patched_here(passes, _NAME, where_needed)


def promotes_types(module: GraphModule, rules: Any) -> bool:
    """Say whether an operator of a traced module has an argument that is not yet of the type it computes in.

    Args:
        module: the module, whose nodes say what they yield (`meta["val"]`).
        rules: PyTorch's module of the rules. Where it cannot be asked, the answer is yes.
    """
    if any(isinstance(inner, GraphModule) and inner is not module for inner in module.modules()):
        return True
    try:
        table = rules.TypePromotionTable()
        for node in module.graph.nodes:
            rule = rules.get_type_promotion_rule(node, table) if node.op == "call_function" else None
            if rule is None:
                continue
            arguments, options = map_arg((node.args, node.kwargs), lambda used: used.meta["val"])
            wanted = rule.preview_type_promotion(arguments, options)
            if any(
                _differs(argument, wanted.args_dtypes.get(place)) for place, argument in enumerate(arguments)
            ) or any(_differs(value, wanted.kwargs_dtypes.get(name)) for name, value in options.items()):
                return True
    except (AttributeError, KeyError, TypeError):
        return True
    return False


def _differs(argument: Any, dtype: torch.dtype | None) -> bool:
    if dtype is None:
        return False
    if isinstance(argument, torch.Tensor):
        return argument.dtype is not dtype
    if isinstance(argument, list | tuple):
        return any(_differs(element, dtype) for element in argument)
    return _TYPE_OF_NUMBERS.get(type(argument)) is not dtype
