"""int8 of the architectures without a global attention mask, quantized as an export does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest

from longserve.export.checkpoint import load_checkpoint
from longserve.export.description import GRAPH_FILES
from longserve.export.parity import check_parity
from longserve.export.quantization import quantize_models
from longserve.export.rounding import drawn_calibration
from longserve.export.weights import save_models
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import OnnxRuntimeEngine
from longserve.serving.runtime.manifest import Layout, Precision, Quantization, Task

LENGTHS = {"bert": (1, 2, 63, 64, 65, 128), "bigbird": (2, 8, 9, 56, 57, 128)}


@pytest.mark.parametrize("quantization", Quantization)
@pytest.mark.parametrize("architecture", ["bert", "bigbird"])
def test_int8_is_within_its_tolerance(
    architecture: str, quantization: Quantization, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle: Path = request.getfixturevalue(f"{architecture}_bundle")
    checkpoint: Path = request.getfixturevalue(f"{architecture}_checkpoint")
    manifest = Bundle.open(bundle).manifest
    models = {file: ir.load(bundle / file) for file in GRAPH_FILES.values()}
    drawn = drawn_calibration(manifest, GRAPH_FILES[Layout.PACKED])
    quantized = quantize_models(models, quantization, tmp_path, drawn)
    operator = "MatMulInteger" if quantization is Quantization.DYNAMIC else "DequantizeLinear"
    for model in quantized.values():
        products = sum(node.op_type == operator for node in model.graph)
        # of each layer: queries, keys and values in two groups of heads; output; two pieces of feed-forward
        assert products == 2 * (2 + 1 + 2 * 2)
    save_models(quantized, tmp_path)
    manifest = replace(manifest, precision=Precision.INT8, quantization=quantization)
    engines = {layout: OnnxRuntimeEngine(tmp_path / file) for layout, file in GRAPH_FILES.items()}
    model = load_checkpoint(str(checkpoint), Task.QUESTION_ANSWERING).model
    report = check_parity(model, engines, manifest, lengths=LENGTHS[architecture])
    assert report.failures == ()
    assert report.worst.max_relative > 1e-4
