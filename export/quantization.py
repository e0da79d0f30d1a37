"""int8 for CPUs: the weights of the large matrix products, in one of two forms."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from longserve.serving.runtime.manifest import Quantization

from .errors import GraphError
from .graph import check_graph
from .quantized_products import (
    Int8Weight,
    add_initializer,
    divide_features,
    multiply_integers,
    restore_weight,
    weight_name,
)
from .rounding import Calibration, FloatArray, compensated_rounding, layer_inputs, nearest_rounding
from .smoothing import smoothing_factors
from .weights import save_models

__all__ = ["quantize_models"]

_NORMALIZED = (".qkv_weight", ".kv_weight", ".intermediate.weight")
"""Products that read a LayerNorm's results, of which a few features are far larger than the rest."""
_OTHERS = (".attention_output.weight", ".output.weight")
"""Products that read attention's or the activation function's results, of which tokens differ in size."""
_QUANTIZED_WEIGHTS = _NORMALIZED + _OTHERS
"""The products over all tokens: over 99 % of the work. Global rows and heads stay float32."""
_EMBEDDINGS = "_embeddings.weight"

_LEVELS = {Quantization.DYNAMIC: 64, Quantization.WEIGHTS: 127}
"""The largest integer of a weight. x86 CPUs without VNNI add two products of a uint8 and a weight in 16 bits,
which saturate: 2 · 255 · 64 fits."""


def quantize_models(
    models: Mapping[str, ir.Model],
    quantization: Quantization,
    scratch: Path,
    calibration: Calibration | None = None,
) -> dict[str, ir.Model]:
    """Quantize the weights of the encoder's linear layers to int8, one scale per output channel.

    Args:
        models: file name to float32 model.
        quantization: the form; see `Quantization`.
        scratch: directory for temporary files.
        calibration: inputs on which the layers' results are to change least: the features of their inputs are
            evened out (smoothing.py) and their weights rounded for it (rounding.py). None: neither; each
            weight goes to the nearest integer.

    Returns:
        File name to quantized model; `models` are left as they were.

    Raises:
        GraphError: a graph holds none of the expected products, or one that the calibrated graph lacks, or a
            quantized one an operator that `check_graph` refuses; or a layer's input is not finite.
    """
    for name, model in models.items():
        if not _products(model):
            raise GraphError(f"{name} holds no encoder's linear layer: nothing to quantize")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        source = Path(folder)
        save_models(models, source)
        weights = None if calibration is None else _calibrated(calibration, quantization, source)
        quantized = {name: _quantized(ir.load(source / name), quantization, weights) for name in models}
    for model in quantized.values():
        _halve_embeddings(model)
        check_graph(model)
    return quantized


def _products(model: ir.Model) -> dict[ir.Value, list[ir.Node]]:
    """Return each value that products of the encoder's layers read, with these in the graph's order."""
    found: dict[ir.Value, list[ir.Node]] = {}
    for node in model.graph:
        if node.op_type == "MatMul" and weight_name(node).endswith(_QUANTIZED_WEIGHTS):
            read = node.inputs[0]
            assert read is not None
            found.setdefault(read, []).append(node)
    return found


def _weight(product: ir.Node) -> FloatArray:
    weight = product.inputs[1]
    assert weight is not None and weight.const_value is not None
    return weight.const_value.numpy()


def _calibrated(calibration: Calibration, quantization: Quantization, source: Path) -> dict[str, Int8Weight]:
    """Return each weight of a graph, by its name, as it is best stored for the inputs of the calibration."""
    model = ir.load(source / calibration.file)
    layers = _products(model)
    inputs = layer_inputs(model, [str(read.name) for read in layers], calibration, source)
    found: dict[str, Int8Weight] = {}
    for read, products in layers.items():  # what reads the same input goes together: one inverse for all
        names = [weight_name(product) for product in products]
        weight = np.concatenate([_weight(product) for product in products], axis=1)
        layer, factors = inputs.pop(str(read.name)), None
        if names[0].endswith(_NORMALIZED):
            factors = smoothing_factors(weight, layer.largest)
            weight, layer = weight * factors[:, None], layer.divided_by(factors)
        integers, scale = compensated_rounding(weight, layer.moments, _LEVELS[quantization])
        ends = np.cumsum([_weight(product).shape[1] for product in products])[:-1]
        parts = zip(names, np.split(integers, ends, axis=1), np.split(scale, ends), strict=True)
        found |= {name: Int8Weight(integers=i, scale=s, factors=factors) for name, i, s in parts}
    return found


def _quantized(
    model: ir.Model, quantization: Quantization, calibrated: Mapping[str, Int8Weight] | None
) -> ir.Model:
    """Store the weights of all products as int8, as calibrated or to the nearest."""
    graph = model.graph
    for read, products in _products(model).items():
        old = [product.inputs[1] for product in products]
        weights = [_int8_weight(product, quantization, calibrated) for product in products]
        factors = weights[0].factors
        if factors is not None:
            read = divide_features(read, products, factors)
        if quantization is Quantization.DYNAMIC:
            by_token = weight_name(products[0]).endswith(_OTHERS)
            multiply_integers(read, products, weights, by_token=by_token)
        else:
            for product, weight in zip(products, weights, strict=True):
                restore_weight(read, product, weight)
        for value in old:
            if value is not None and not value.uses():
                del graph.initializers[str(value.name)]
    for value in graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):  # the file that it is mapped from is about to go
            value.const_value = ir.tensor(tensor.numpy().copy(), name=str(value.name))
    return model


def _int8_weight(
    product: ir.Node, quantization: Quantization, calibrated: Mapping[str, Int8Weight] | None
) -> Int8Weight:
    name = weight_name(product)
    if calibrated is None:
        integers, scale = nearest_rounding(_weight(product), _LEVELS[quantization])
        return Int8Weight(integers=integers, scale=scale)
    if name not in calibrated:
        raise GraphError(f"{name} is not in the graph that was calibrated, so that it cannot be rounded")
    return calibrated[name]


def _halve_embeddings(model: ir.Model) -> None:
    """Store embedding tables as float16, and cast the rows that are looked up: half the size, 11 bits each.

    A table with a value beyond float16's range stays as it is.
    """
    graph = model.graph
    for lookup in list(graph):
        table = lookup.inputs[0] if lookup.op_type == "Gather" else None
        if table is None or table.const_value is None or not str(table.name).endswith(_EMBEDDINGS):
            continue
        values = table.const_value.numpy()
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        halved = graph.initializers.get(f"{table.name}_half") or add_initializer(
            graph, f"{table.name}_half", values.astype(np.float16)
        )
        lookup.replace_input_with(0, halved)
        (rows,) = lookup.outputs
        widened = ir.node("Cast", [rows], {"to": ir.DataType.FLOAT.value}, name=f"{lookup.name}_widened")
        widened.outputs[0].name = f"{rows.name}_widened"
        widened.outputs[0].shape, widened.outputs[0].type = rows.shape, rows.type
        rows.type = ir.TensorType(ir.DataType.FLOAT16)
        rows.replace_all_uses_with(widened.outputs[0])
        widened.replace_input_with(0, rows)
        graph.insert_after(lookup, widened)
        if not table.uses():
            del graph.initializers[str(table.name)]
