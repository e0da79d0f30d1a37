"""Tracing without PyTorch's decomposition, where a graph does not need it.

Before `torch.onnx.export` translates a traced program, it has the whole of it decomposed, which traces it
anew, twice, and takes half of an export's time. Our modules are traced to operators that are translated as
they are but for a few, which are replaced here one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from .patching import patched_here

__all__ = ["replaced_operators", "without_decomposition"]

_aten = torch.ops.aten
_SAME_ARGUMENTS = {
    _aten.__and__.Tensor: _aten.bitwise_and.Tensor,
    _aten.__or__.Tensor: _aten.bitwise_or.Tensor,
    _aten.item.default: _aten._local_scalar_dense.default,
}
_CHECKS = {_aten._assert_scalar.default, _aten._assert_tensor_metadata.default}
"""What is to raise where inputs are unlike those of the trace: nothing in an ONNX graph."""


def without_decomposition() -> AbstractContextManager[None]:
    """Let `ExportedProgram.run_decompositions`, in this thread, do no more than is needed."""

    def where_needed(decompose: Callable[..., ExportedProgram]) -> Callable[..., ExportedProgram]:
        def replace(program: ExportedProgram, *arguments: Any, **options: Any) -> ExportedProgram:
            if replaced_operators(program.graph):
                program.graph_module.recompile()
                return program
            return decompose(program, *arguments, **options)

        return replace

    return patched_here(ExportedProgram, "run_decompositions", where_needed)


def replaced_operators(graph: Graph) -> bool:
    """Replace a traced graph's operators by those that have a translation to ONNX, in place.

    Returns:
        Whether it was done. False, and the graph as it was: an operator writes into its argument, so that
        the graph has to be made functional first, or the graph has graphs of its own.
    """
    nodes = list(graph.nodes)
    if any(node.op == "get_attr" or _writes(node) for node in nodes):
        return False
    for node in nodes:
        if node.target in _CHECKS:
            graph.erase_node(node)
        elif node.target in _SAME_ARGUMENTS:
            node.target = _SAME_ARGUMENTS[node.target]
        elif node.target is _aten.to.dtype and len(node.args) > 1:
            value, dtype = node.args[:2]  # what else it takes is of places in memory
            node.target, node.args, node.kwargs = _aten._to_copy.default, (value,), {"dtype": dtype}
        elif node.target is _aten.rsub.Scalar and len(node.args) == 2 and not node.kwargs:
            value, minuend = node.args
            with graph.inserting_before(node):
                negated = graph.call_function(_aten.neg.default, (value,))
            negated.meta = dict(node.meta)
            node.target, node.args = _aten.add.Scalar, (negated, minuend)
        elif node.target is _aten.flatten.using_ints:
            sizes = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
            if sizes.count(-1) < 2:  # or its sizes would have to be computed, as the translation does
                node.target, node.args, node.kwargs = _aten.reshape.default, (node.args[0], sizes), {}
    graph.eliminate_dead_code()
    return True


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable
