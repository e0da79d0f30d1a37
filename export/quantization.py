"""int8 for CPUs: dynamic quantization of the large matrix products by ONNX Runtime's quantizer."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from longserve.serving.runtime.manifest import Precision

from .errors import GraphError
from .graph import check_graph
from .weights import save_models

__all__ = ["quantize_models"]

_QUANTIZED_WEIGHTS = (".qkv_weight", ".attention_output.weight", ".intermediate.weight", ".output.weight")
"""The products over all tokens: over 99 % of the work. Embeddings, global rows and heads stay float32."""


def quantize_models(models: Mapping[str, ir.Model], scratch: Path) -> dict[str, ir.Model]:
    """Quantize the weights of the encoder's linear layers to int8, one scale per output channel.

    Activations are quantized to uint8 at run time, one scale per tensor. Weights use 7 of their 8 bits
    (`reduce_range`): on x86 CPUs without VNNI the 16-bit sums of two full-range products saturate.

    Args:
        models: file name to float32 model.
        scratch: directory for temporary files.

    Returns:
        File name to quantized model; `models` are left as they were.

    Raises:
        GraphError: a graph holds none of the expected products, or a quantized one an operator that
            `check_graph` refuses.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantized: dict[str, ir.Model] = {}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        source, target = Path(folder, "float"), Path(folder, "int8")
        source.mkdir()
        target.mkdir()
        save_models(models, source)
        for name, model in models.items():
            products = [
                str(node.name)
                for node in model.graph
                if node.op_type == "MatMul"
                and node.inputs[1] is not None
                and str(node.inputs[1].name).endswith(_QUANTIZED_WEIGHTS)
            ]
            if not products:
                raise GraphError(f"{name} holds no encoder's linear layer: nothing to quantize")
            root = logging.getLogger()
            level = root.level
            root.setLevel(logging.ERROR)
            try:
                quantize_dynamic(
                    source / name,
                    target / name,
                    op_types_to_quantize=["MatMul"],
                    nodes_to_quantize=products,
                    per_channel=True,
                    reduce_range=True,
                    weight_type=QuantType.QInt8,
                    use_external_data_format=True,
                )
            finally:
                root.setLevel(level)
            made = ir.from_proto(onnx.load(target / name))
            check_graph(made, Precision.INT8)
            quantized[name] = made
    return quantized
