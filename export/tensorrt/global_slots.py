"""Bounding the number of global tokens in a graph, which TensorRT needs for its memory.

A bundle's graphs find out how many slots the global tokens need: K, the largest number in any row. TensorRT
plans its memory for the largest K that it can derive, which is that of its TopK: 3840. With a bound in the
graph it plans for the bound. K either follows the input up to it, or is fixed to it, so that nothing in the
engine depends on the data.

More global tokens than that would be cut off, so the rewritten graph makes NaN of every logit of such a row
(of the run, in the packed layout). longserve checks the number before it runs an engine; the NaN is for
everybody else.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from enum import Enum

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from longserve.serving.runtime.manifest import Layout

from ..errors import GraphError

__all__ = ["GlobalSlots", "LARGEST_CAPACITY", "bound_global_tokens", "has_global_tokens"]

LARGEST_CAPACITY = 3840
"""The largest K of TensorRT's TopK (its operator documentation, 8.6 to 11.4)."""
_PREFIX = "longserve_bound_"
_SHAPING = frozenset({"Cast", "Gather", "Reshape", "Squeeze", "Unsqueeze"})
"""What may stand between the number of slots and the TopK that uses it."""


class GlobalSlots(str, Enum):
    """What decides about the number of slots K."""

    BOUNDED = "bounded"
    """K follows the input, up to the capacity."""
    FIXED = "fixed"
    """K is the capacity; unused slots cost time, and nothing depends on the data."""


def has_global_tokens(model: onnx.ModelProto) -> bool:
    """Whether the graph gathers global tokens: it then has a TopK."""
    return any(node.op_type == "TopK" for node in model.graph.node)


def bound_global_tokens(
    model: onnx.ModelProto, layout: Layout, capacity: int, slots: GlobalSlots = GlobalSlots.BOUNDED
) -> None:
    """Bound the number of global tokens of a bundle's graph, in place.

    Args:
        model: a graph whose number of slots depends on the data.
        layout: its layout.
        capacity: most global tokens of a padded row, or of a packed run.
        slots: see `GlobalSlots`.

    Raises:
        GraphError: the capacity is out of range, or the graph has no such number.
    """
    if not 1 <= capacity <= LARGEST_CAPACITY:
        raise GraphError(
            f"the engine's capacity would be {capacity} global tokens; TensorRT's TopK takes 1 to "
            f"{LARGEST_CAPACITY}: give another --max-global-tokens, or profiles of fewer sequences"
        )
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    topk = _only_topk(model)
    clip = _source_of(topk.input[1], producers)
    if clip.op_type != "Clip":
        raise GraphError(
            f"the TopK {topk.name} takes its K from a {clip.op_type} ({clip.name}) where a Clip is due; "
            "export the bundle again with this longserve"
        )
    _add_constant(model, "capacity", np.array(capacity, dtype=np.int64))
    over = _limit_mask(model, clip, producers)
    if slots is GlobalSlots.BOUNDED:
        minimum = clip.input[1] if len(clip.input) > 1 else ""
        del clip.input[1:]
        clip.input.extend([minimum, f"{_PREFIX}capacity"])
    else:
        _fix(model, clip, topk, capacity)
    _refuse_overflow(model, layout, over)


def _only_topk(model: onnx.ModelProto) -> NodeProto:
    found = [node for node in model.graph.node if node.op_type == "TopK"]
    if len(found) != 1:
        raise GraphError(
            f"the graph has {len(found)} TopK nodes where one, of its global tokens, is due; export the "
            "bundle again with this longserve"
        )
    only: NodeProto = found[0]
    return only


def _source_of(name: str, producers: dict[str, NodeProto]) -> NodeProto:
    """Return the node that computes a value, looking through what only changes its shape."""
    while name in producers:
        node = producers[name]
        if node.op_type not in _SHAPING:
            return node
        name = node.input[0]
    raise GraphError(
        f"the number of global tokens is the constant {name}: the bundle was exported with "
        "--max-global-tokens; leave it out here, or give the same number"
    )


def _limit_mask(model: onnx.ModelProto, clip: NodeProto, producers: dict[str, NodeProto]) -> str:
    """Take the global tokens of rows with too many away, so that no index points past the slots.

    Returns:
        The name of a value that says which rows those are: bool `[R]`.
    """
    largest = producers.get(clip.input[0])
    total = producers.get(largest.input[0]) if largest is not None else None
    flag = producers.get(total.input[0]) if total is not None else None
    found = [node.op_type if node is not None else "an input" for node in (largest, total, flag)]
    if largest is None or total is None or flag is None or found != ["ReduceMax", "ReduceSum", "Cast"]:
        raise GraphError(
            f"the number of global tokens comes from {', '.join(found)} where ReduceMax, ReduceSum, Cast are "
            "due; export the bundle again with this longserve"
        )
    graph, is_global = model.graph, flag.input[0]
    for node in graph.node:
        _rename(node.input, is_global, f"{_PREFIX}is_global")
    counted, sums = NodeProto(), NodeProto()
    counted.CopyFrom(flag)
    sums.CopyFrom(total)
    counted.input[0], counted.output[0], counted.name = is_global, f"{_PREFIX}flag", f"{_PREFIX}cast"
    sums.input[0], sums.output[0], sums.name = f"{_PREFIX}flag", f"{_PREFIX}counts", f"{_PREFIX}sum"
    _add_constant(model, "axis", np.array([1], dtype=np.int64))
    added = [counted, sums]
    for operator, inputs, output in (
        ("Greater", ("counts", "capacity"), "over"),
        ("Unsqueeze", ("over", "axis"), "over_rows"),
        ("Not", ("over_rows",), "fits"),
    ):
        names = [f"{_PREFIX}{name}" for name in inputs]
        added.append(
            helper.make_node(operator, names, [f"{_PREFIX}{output}"], name=f"{_PREFIX}make_{output}")
        )
    inputs_of_and = [is_global, f"{_PREFIX}fits"]
    added.append(
        helper.make_node("And", inputs_of_and, [f"{_PREFIX}is_global"], name=f"{_PREFIX}make_is_global")
    )
    place = _index(graph, producers[is_global]) + 1
    for offset, node in enumerate(added):
        graph.node.insert(place + offset, node)
    return f"{_PREFIX}over"


def _fix(model: onnx.ModelProto, clip: NodeProto, topk: NodeProto, capacity: int) -> None:
    """Make K a constant, and pad what TopK chooses from to at least K elements."""
    graph = model.graph
    slots = clip.output[0]
    graph.node.remove(clip)
    graph.initializer.append(numpy_helper.from_array(np.array(capacity, dtype=np.int64), slots))
    _add_constant(model, "pads", np.array([0, 0, 0, capacity], dtype=np.int64))
    padded = f"{_PREFIX}rank"
    pad = helper.make_node("Pad", [topk.input[0], f"{_PREFIX}pads"], [padded], name=f"{_PREFIX}pad")
    graph.node.insert(_index(graph, topk), pad)
    topk.input[0] = padded


def _refuse_overflow(model: onnx.ModelProto, layout: Layout, over: str) -> None:
    """Make NaN of the logits of rows with more global tokens than the capacity."""
    graph = model.graph
    _add_constant(model, "nan", np.array(np.nan, dtype=np.float32))
    # the packed layout has one row, whose [1] fits outputs of any rank
    rows = f"{_PREFIX}over_rows" if layout is Layout.PADDED else over
    added = []
    for output in graph.output:
        if output.type.tensor_type.elem_type != TensorProto.FLOAT:
            raise GraphError(f"the output {output.name} is no float32; export the bundle again")
        inner = f"{_PREFIX}{output.name}"
        for node in graph.node:
            _rename(node.input, output.name, inner)
            _rename(node.output, output.name, inner)
        added.append(
            helper.make_node(
                "Where", [rows, f"{_PREFIX}nan", inner], [output.name], name=f"{_PREFIX}where_{output.name}"
            )
        )
    graph.node.extend(added)


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    for index, name in enumerate(list(names)):
        if name == old:
            names[index] = new


def _index(graph: onnx.GraphProto, wanted: NodeProto) -> int:
    return next(index for index, node in enumerate(graph.node) if node.name == wanted.name)


def _add_constant(model: onnx.ModelProto, name: str, value: npt.NDArray[np.generic]) -> None:
    model.graph.initializer.append(numpy_helper.from_array(value, f"{_PREFIX}{name}"))
