"""The local attention as one operator: the same results, in the form that a GPU's kernel takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checkpoints import make_checkpoint, make_model

from longserve.export import ExportError, ExportSettings, export_bundle
from longserve.export.attention import block_context, find_global_tokens
from longserve.export.fused_attention import COLUMN_MULTIPLE
from longserve.export.layers import mask_value
from longserve.export.model import PackedModel, PaddedModel
from longserve.export.tensorrt.global_slots import bound_global_tokens
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.manifest import Layout, Precision, Task

FUSED = ExportSettings(fused_attention=True)


@pytest.fixture(
    scope="module",
    params=[(Task.TEXT_CLASSIFICATION, Precision.FP32), (Task.QUESTION_ANSWERING, Precision.FP16)],
    ids=["classification-fp32", "qa-fp16"],
)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of two layers with a window each; the export compares it with PyTorch."""
    room, (task, precision) = tmp_path_factory.mktemp("fused"), request.param
    checkpoint = make_checkpoint(
        room / "checkpoint",
        task.value,
        max_position_embeddings=66,
    )
    settings = ExportSettings(fused_attention=True, precision=precision)
    result = export_bundle(str(checkpoint), task, room / "bundle", settings=settings)
    assert result.parity is not None
    assert {case.layout for case in result.parity.results} == {layout.value for layout in Layout}
    assert ("pytorch CPU fp16" in result.parity.runs_on) == (precision is Precision.FP16)
    return Bundle.open(result.path)


def test_every_layers_local_attention_is_the_operator(bundle: Bundle) -> None:
    assert bundle.manifest.fused_attention
    assert bundle.manifest.opset == 23
    layers = 2 - (bundle.manifest.task is Task.TEXT_CLASSIFICATION)  # whose last one is for its first token
    for layout in Layout:
        model = onnx.shape_inference.infer_shapes(onnx.load(str(bundle.model_path(layout))), strict_mode=True)
        found = [node for node in model.graph.node if node.op_type == "Attention"]
        assert len(found) == layers
        assert {(node.domain, len(node.input), len(node.output)) for node in found} == {("", 4, 1)}
        types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
        half = bundle.manifest.precision is Precision.FP16
        wanted = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
        assert {types[name] for node in found for name in node.input} == {wanted}
        operators = Counter(node.op_type for node in model.graph.node)
        # what is left are the global rows, and a classifier's last layer
        assert operators["Softmax"] == 2 + (bundle.manifest.task is Task.TEXT_CLASSIFICATION)


@pytest.mark.parametrize("globals_", [0, 1, 7, 8, 9, 30])
def test_columns_are_filled_up_with_keys_that_nobody_sees(globals_: int) -> None:
    segment = torch.ones(2, 32, dtype=torch.int64)
    is_global = torch.zeros(2, 32, dtype=torch.bool)
    is_global[0, :globals_] = True
    tokens = find_global_tokens(segment, is_global, None)
    plain, filled = (
        block_context(segment, is_global, tokens, 8, 8, torch.float16, column_multiple=multiple)
        for multiple in (1, COLUMN_MULTIPLE)
    )
    columns = plain.bias.shape[2]
    assert columns == max(globals_, 1) + 24
    assert filled.bias.shape[2] % COLUMN_MULTIPLE == 0
    assert 0 <= filled.bias.shape[2] - columns < COLUMN_MULTIPLE
    assert torch.equal(filled.bias[:, :, :columns], plain.bias)
    assert torch.equal(filled.index[:, :columns], plain.index)
    assert (filled.bias[:, :, columns:] == mask_value(torch.float16)).all()
    assert ((filled.index >= 0) & (filled.index < 64)).all()


@pytest.mark.parametrize("layout", [PaddedModel, PackedModel])
def test_outside_a_trace_a_fused_module_computes_the_same(layout: Any) -> None:
    """The half precisions are compared with PyTorch in it."""
    stock = make_model("question-answering")
    ids = torch.arange(10, 80)
    mask = (torch.arange(70) % 23 == 0).to(torch.int64)
    given = {"input_ids": ids, "global_attention_mask": mask}
    if layout is PaddedModel:
        given = {name: value[None] for name, value in given.items()}
        given["attention_mask"] = torch.ones(1, 70, dtype=torch.int64)
    else:
        given["sequence_ends"] = torch.tensor([30, 70], dtype=torch.int32)
    with torch.inference_mode():
        plain, fused = (layout(stock, block_size=8, fused=fused)(**given) for fused in (False, True))
    for one, other in zip(plain, fused, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_an_engine_with_a_bound_of_globals_takes_it(bundle: Bundle) -> None:
    """TensorRT's bound is written into the graph; the columns' number follows from it."""
    model = onnx.load(str(bundle.model_path(Layout.PACKED)))
    reference = onnxruntime.InferenceSession(model.SerializeToString())
    bound_global_tokens(model, Layout.PACKED, 3)
    bounded = onnxruntime.InferenceSession(model.SerializeToString())
    for marked in (0, 1, 3, 4):
        mask = np.zeros(60, dtype=np.int64)
        mask[5 : 5 + marked] = 1
        ids, ends = np.arange(10, 70), np.array([25, 60], dtype=np.int32)
        given = {"input_ids": ids, "global_attention_mask": mask, "sequence_ends": ends}
        for wanted, found in zip(reference.run(None, given), bounded.run(None, given), strict=True):
            if marked > 3:
                assert np.isnan(found).all()
            else:
                np.testing.assert_allclose(found, wanted, atol=2e-5)  # the same arithmetic


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"opset": 22}, "opset is 22, but the operator of fused_attention came with opset 23"),
        ({"precision": Precision.INT8}, "fused_attention is for GPUs, and int8 for CPUs"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        ExportSettings(fused_attention=True, **given)


def test_the_opset_follows_the_operator() -> None:
    assert (FUSED.graph_opset, ExportSettings().graph_opset) == (23, 20)
    assert [ExportSettings(opset=opset).graph_opset for opset in (18, 0)] == [18, 0], "what was asked for"


def test_another_architecture_is_refused_before_the_work(
    tmp_path: Path, longserve: Callable[..., tuple[object, str, str]]
) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    options = ("--task", "text-classification", "--fused-attention", "-o", tmp_path / "bundle")
    status, _, err = longserve("export", tmp_path / "bert", *options)
    assert status == 1
    assert "fused_attention is not there for bert, only for longformer; leave it out" in err
    assert not (tmp_path / "bundle").exists()
