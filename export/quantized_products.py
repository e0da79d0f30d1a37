"""The nodes that multiply an input with int8 weights, in the two forms of `Quantization`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .rounding import FloatArray

__all__ = [
    "Int8Weight",
    "add_initializer",
    "divide_features",
    "multiply_integers",
    "restore_weight",
    "weight_name",
]

_LEAST_DIVISOR = np.float32(1e-30)
"""What a token is divided by whose values are all 0, as padding's are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Weight:
    """A layer's weight as it is stored.

    Attributes:
        integers: `[in, out]`.
        scale: `[out]`; the weight is the product of both.
        factors: `[in]`, by which the input's features are divided; they are in the weight already.
            None: the input stays as it is.
    """

    integers: npt.NDArray[np.int8]
    scale: FloatArray
    factors: FloatArray | None = None


class _Nodes:
    """Makes nodes in front of a product, named after its weight."""

    def __init__(self, product: ir.Node) -> None:
        graph = product.graph
        assert isinstance(graph, ir.Graph)
        self.graph, self._before, self._prefix = graph, product, weight_name(product)

    def add(self, operator: str, inputs: Sequence[ir.Value], *suffixes: str, **attributes: Any) -> ir.Value:
        """Add a node with an output for each suffix; return the first."""
        node = ir.node(
            operator,
            inputs,
            attributes,
            num_outputs=len(suffixes),
            name=f"{self._prefix}_{suffixes[0]}",
        )
        for output, suffix in zip(node.outputs, suffixes, strict=True):
            output.name = f"{self._prefix}_{suffix}"
        self.graph.insert_before(self._before, node)
        return node.outputs[0]

    def own(self, suffix: str, values: np.ndarray[Any, Any]) -> ir.Value:
        """Add an initializer of this weight's."""
        return add_initializer(self.graph, f"{self._prefix}_{suffix}", values)

    def stored(self, weight: Int8Weight) -> tuple[ir.Value, ir.Value]:
        """Add the integers and the scale of the weight."""
        return self.own("int8", weight.integers), self.own("scale", weight.scale)

    def constant(self, name: str, values: np.ndarray[Any, Any]) -> ir.Value:
        """Return the graph's initializer of that name, which all layers share."""
        return self.graph.initializers.get(name) or add_initializer(self.graph, name, values)


def add_initializer(graph: ir.Graph, name: str, values: np.ndarray[Any, Any]) -> ir.Value:
    """Add an initializer to a graph."""
    tensor = ir.tensor(values, name=name)
    value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype))
    value.const_value = tensor
    graph.register_initializer(value)
    return value


def divide_features(read: ir.Value, products: Sequence[ir.Node], factors: FloatArray) -> ir.Value:
    """Divide the features of an input by factors `[in]` in front of the products that read it."""
    nodes = _Nodes(products[0])
    smoothed = nodes.add("Mul", [read, nodes.own("inverse_factors", 1 / factors)], "smoothed_input")
    smoothed.type, smoothed.shape = read.type, read.shape
    return smoothed


def restore_weight(read: ir.Value, product: ir.Node, weight: Int8Weight) -> None:
    """Let a MatMul read its weight from behind a DequantizeLinear."""
    old = product.inputs[1]
    assert old is not None
    nodes = _Nodes(product)
    restored = nodes.add("DequantizeLinear", nodes.stored(weight), "restored", axis=1)
    restored.type, restored.shape = old.type, old.shape
    product.replace_input_with(0, read)
    product.replace_input_with(1, restored)


def multiply_integers(
    read: ir.Value, products: Sequence[ir.Node], weights: Sequence[Int8Weight], *, by_token: bool
) -> None:
    """Replace MatMuls that read the same by products of integers, their input's uint8 as it comes.

    There is one scale for the whole input, as ONNX Runtime's operators have it.

    Args:
        read: the input, `[..., in]`.
        products: the MatMuls, in the graph's order.
        weights: theirs; sums of two products of a weight and 255 must fit into 16 bits (see quantization.py).
        by_token: first divide each token by its largest value, and multiply its results with it: the one
            scale then serves every token as well as one of its own would.
    """
    nodes = _Nodes(products[0])
    largest = None
    if by_token:
        last = nodes.constant("last_axis", np.array([-1], np.int64))
        least = nodes.constant("least_divisor", np.array(_LEAST_DIVISOR))
        magnitudes = nodes.add("Abs", [read], "input_magnitudes")
        most = nodes.add("ReduceMax", [magnitudes, last], "largest_magnitude", keepdims=1)
        largest = nodes.add("Max", [most, least], "token_scale")
        read = nodes.add("Div", [read, largest], "scaled_input")
    quantized = nodes.add("DynamicQuantizeLinear", [read], "input_uint8", "input_scale", "input_zero")
    producer = quantized.producer()
    assert producer is not None
    _, input_scale, input_zero = producer.outputs
    for product, weight in zip(products, weights, strict=True):
        nodes = _Nodes(product)
        integers, weight_scale = nodes.stored(weight)
        sums = nodes.add("MatMulInteger", [quantized, integers, input_zero], "sums")
        sums = nodes.add("Cast", [sums], "float_sums", to=ir.DataType.FLOAT.value)
        scale = nodes.add("Mul", [input_scale, weight_scale], "both_scales")
        found = nodes.add("Mul", [sums, scale], "found")
        if largest is not None:
            found = nodes.add("Mul", [found, largest], "found_of_tokens")
        (old,) = product.outputs
        found.type, found.shape = old.type, old.shape
        old.replace_all_uses_with(found)
        nodes.graph.remove(product, safe=True)


def weight_name(product: ir.Node) -> str:
    """Return the name of what a MatMul multiplies its input with."""
    weight = product.inputs[1]
    assert weight is not None
    return str(weight.name)
