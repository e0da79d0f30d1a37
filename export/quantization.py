"""int8 for CPUs: the weights of the large matrix products, in one of two forms."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from longserve.serving.runtime.manifest import Precision, Quantization

from .errors import GraphError
from .graph import check_graph
from .rounding import (
    Calibration,
    Rounded,
    compensated_rounding,
    nearest_rounding,
    second_moments,
)
from .weights import save_models

__all__ = ["quantize_models"]

_QUANTIZED_WEIGHTS = (
    ".qkv_weight",
    ".kv_weight",
    ".attention_output.weight",
    ".intermediate.weight",
    ".output.weight",
)
"""The products over all tokens: over 99 % of the work. Global rows and heads stay float32."""
_EMBEDDINGS = "_embeddings.weight"


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
        calibration: for `Quantization.WEIGHTS`: round them so that the layers' results change least on these
            inputs. None: each weight to the nearest integer.

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
        source = Path(folder, "float")
        source.mkdir()
        save_models(models, source)
        if quantization is Quantization.WEIGHTS:
            rounded = None if calibration is None else _rounded_for(calibration, source)
            quantized = {name: _with_int8_weights(ir.load(source / name), rounded) for name in models}
        else:
            quantized = {name: _dynamic(source / name, models[name], Path(folder)) for name in models}
    for model in quantized.values():
        _halve_embeddings(model)
        check_graph(model, Precision.INT8)
    return quantized


def _products(model: ir.Model) -> list[ir.Node]:
    return [
        node
        for node in model.graph
        if node.op_type == "MatMul"
        and node.inputs[1] is not None
        and str(node.inputs[1].name).endswith(_QUANTIZED_WEIGHTS)
    ]


def _rounded_for(calibration: Calibration, source: Path) -> dict[str, Rounded]:
    """Return each weight of a graph, by its name, as it is best rounded for the inputs of the calibration."""
    model = ir.load(source / calibration.file)
    weights: dict[str, dict[str, ir.TensorProtocol]] = {}
    for product in _products(model):
        read, weight = product.inputs
        assert read is not None and weight is not None and weight.const_value is not None
        weights.setdefault(str(read.name), {})[str(weight.name)] = weight.const_value
    moments = second_moments(model, list(weights), calibration, source)
    rounded: dict[str, Rounded] = {}
    for read_name, reading in weights.items():  # what reads the same input goes together: one inverse for all
        integers, scale = compensated_rounding(
            np.concatenate([tensor.numpy() for tensor in reading.values()], axis=1), moments.pop(read_name)
        )
        ends = np.cumsum([tensor.shape[1] for tensor in reading.values()])
        parts = zip(np.split(integers, ends[:-1], axis=1), np.split(scale, ends[:-1]), strict=True)
        rounded.update(zip(reading, parts, strict=True))
    return rounded


def _with_int8_weights(model: ir.Model, rounded: Mapping[str, Rounded] | None) -> ir.Model:
    """Store each weight `[in, out]` as int8 with a float32 scale per column, as rounded or to the nearest."""
    graph = model.graph
    for product in _products(model):
        weight = product.inputs[1]
        assert weight is not None and weight.const_value is not None
        name = str(weight.name)
        if rounded is not None and name not in rounded:
            raise GraphError(f"{name} is not in the graph that was calibrated, so that it cannot be rounded")
        integers, scale = nearest_rounding(weight.const_value.numpy()) if rounded is None else rounded[name]
        stored = [
            _initializer(graph, f"{weight.name}_int8", integers),
            _initializer(graph, f"{weight.name}_scale", scale),
        ]
        restored = ir.node("DequantizeLinear", stored, {"axis": 1}, name=f"{weight.name}_restored")
        restored.outputs[0].name = f"{weight.name}_restored"
        restored.outputs[0].type, restored.outputs[0].shape = weight.type, weight.shape
        graph.insert_before(product, restored)
        product.replace_input_with(1, restored.outputs[0])
        if not weight.uses():
            del graph.initializers[str(weight.name)]
    for value in graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):  # the file that it is mapped from is about to go
            value.const_value = ir.tensor(tensor.numpy().copy(), name=str(value.name))
    return model


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
        halved = graph.initializers.get(f"{table.name}_half") or _initializer(
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


def _initializer(graph: ir.Graph, name: str, values: np.ndarray[Any, Any]) -> ir.Value:
    tensor = ir.tensor(values, name=name)
    value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype))
    value.const_value = tensor
    graph.register_initializer(value)
    return value


def _dynamic(file: Path, model: ir.Model, scratch: Path) -> ir.Model:
    """Quantize by ONNX Runtime's quantizer; activations become uint8 at run time, one scale per tensor.

    Weights use 7 of their 8 bits (`reduce_range`): on x86 CPUs without VNNI the 16-bit sums of two full-range
    products saturate.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = scratch / "int8"
    target.mkdir(exist_ok=True)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        quantize_dynamic(
            file,
            target / file.name,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=[str(node.name) for node in _products(model)],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
        )
    finally:
        root.setLevel(level)
    return ir.from_proto(onnx.load(target / file.name))
