"""fp16 and bf16: finite and close to PyTorch in float32 for any mask, outliers in the weights or not."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from checkpoints import add_outliers, make_checkpoint, make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from longserve.export import TOLERANCES, ExportError, ExportSettings, GraphError, export_bundle
from longserve.export.half import HALF_TYPES, HalfEngine, to_half
from longserve.export.model import PackedModel, PaddedModel
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import open_packed_engine
from longserve.serving.runtime.errors import EngineError
from longserve.serving.runtime.manifest import Layout, Precision, Task

ELEMENT = {Precision.FP16: TensorProto.FLOAT16, Precision.BF16: TensorProto.BFLOAT16}
TASKS = [task.value for task in Task]
HALVES = list(HALF_TYPES)


@functools.cache
def stock_model(task: str, outliers: bool) -> Any:
    model = make_model(task, seed=1, max_position_embeddings=302)
    return add_outliers(model) if outliers else model


@functools.cache
def engine(task: str, outliers: bool, precision: Precision, layout: Layout) -> HalfEngine:
    made = PaddedModel if layout is Layout.PADDED else PackedModel
    names = ("logits",) if task == Task.TEXT_CLASSIFICATION.value else ("start_logits", "end_logits")
    half = to_half(made(stock_model(task, outliers), block_size=16), precision)
    return HalfEngine(half, precision, names)


def _reference(task: str, outliers: bool, ids: Any, attention: Any, globals_: Any) -> list[Any]:
    with torch.inference_mode():
        result = stock_model(task, outliers)(
            *map(torch.from_numpy, (ids, attention)), global_attention_mask=torch.from_numpy(globals_)
        )
    names = ("logits",) if task == Task.TEXT_CLASSIFICATION.value else ("start_logits", "end_logits")
    return [getattr(result, name).numpy() for name in names]


@settings(max_examples=60, deadline=None)
@given(
    length=st.one_of(st.integers(1, 40), st.integers(41, 300)),
    seed=st.integers(0, 2**31),
    density=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    padding=st.sampled_from(["none", "right", "left", "all"]),
    task=st.sampled_from(TASKS),
    outliers=st.booleans(),
    precision=st.sampled_from(HALVES),
)
def test_any_mask_and_padding_is_finite_and_within_tolerance(
    length: int, seed: int, density: float, padding: str, task: str, outliers: bool, precision: Precision
) -> None:
    random = np.random.default_rng(seed)
    ids = random.integers(3, 320, (2, length))
    attention = np.ones_like(ids)
    kept = int(random.integers(1, length + 1))
    if padding == "right":
        attention[1, kept:] = 0
    elif padding == "left":
        attention[1, : length - kept] = 0
    elif padding == "all":
        attention[1] = 0
    globals_ = (random.random(ids.shape) < density).astype(np.int64)
    feeds = {"input_ids": ids, "attention_mask": attention, "global_attention_mask": globals_}
    found = engine(task, outliers, precision, Layout.PADDED).run(feeds)
    for wanted, got in zip(_reference(task, outliers, ids, attention, globals_), found.values(), strict=True):
        assert got.dtype == np.float32 and np.isfinite(got).all()
        rows = [0] if padding in ("left", "all") else [0, 1]  # the stock model is not defined there
        keep = attention[rows] > 0 if task == "question-answering" else slice(None)
        expected, actual = wanted[rows][keep], got[rows][keep]
        scale = max(1.0, float(np.abs(expected).max()))
        assert float(np.abs(expected - actual).max()) / scale <= TOLERANCES[precision].max_relative


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("task", TASKS)
def test_the_packed_layout_is_as_exact(task: str, precision: Precision) -> None:
    random = np.random.default_rng(3)
    lengths = (1, 40, 7, 130)
    ids = [random.integers(3, 320, length) for length in lengths]
    masks = [(random.random(length) < 0.1).astype(np.int64) for length in lengths]
    found = engine(task, True, precision, Layout.PACKED).run(
        {
            "input_ids": np.concatenate(ids),
            "global_attention_mask": np.concatenate(masks),
            "sequence_ends": np.cumsum(lengths, dtype=np.int32),
        }
    )
    alone = [
        _reference(task, True, one[None], np.ones_like(one)[None], mask[None])
        for one, mask in zip(ids, masks, strict=True)
    ]
    for index, got in enumerate(found.values()):
        expected = np.concatenate([outputs[index][0] for outputs in alone])
        scale = max(1.0, float(np.abs(expected).max()))
        difference = float(np.abs(expected - got.reshape(expected.shape)).max()) / scale
        assert 1e-6 < difference <= TOLERANCES[precision].max_relative


def test_the_stock_model_keeps_its_weights() -> None:
    stock = make_model(TASKS[0], num_hidden_layers=1, attention_window=[16])
    padded = PaddedModel(stock, block_size=16)
    half = to_half(padded, Precision.FP16)
    assert {p.dtype for p in stock.parameters()} == {torch.float32}
    assert {p.dtype for p in padded.parameters()} == {torch.float32}
    kept = {name.split(".")[0] for name, p in half.named_parameters() if p.dtype == torch.float32}
    assert kept == {"head"}


def test_a_weight_beyond_the_range_is_named() -> None:
    stock = make_model(TASKS[0], num_hidden_layers=1, attention_window=[16])
    with torch.no_grad():
        stock.longformer.encoder.layer[0].output.dense.weight[0, 0] = 1e5
    with pytest.raises(
        GraphError, match=r"layers\.0\.\S+\.output\.weight reaches 1e\+05, beyond fp16.*6.55e"
    ):
        to_half(PaddedModel(stock, block_size=16), Precision.FP16)
    to_half(PaddedModel(stock, block_size=16), Precision.BF16)


def test_an_overflow_on_the_way_is_seen() -> None:
    """ONNX Runtime computes fp16 graphs in float32 on a CPU and would not notice."""
    stock = make_model(TASKS[0], num_hidden_layers=1, attention_window=[16])
    with torch.no_grad():
        stock.longformer.encoder.layer[0].output.dense.weight *= 6e4
    feeds = {"input_ids": np.arange(3, 23)[None]}
    feeds |= {name: np.ones((1, 20), np.int64) for name in ("attention_mask", "global_attention_mask")}
    runs = HalfEngine(to_half(PaddedModel(stock, block_size=16), Precision.FP16), Precision.FP16, ("logits",))
    assert not np.isfinite(runs.run(feeds)["logits"]).all()


@pytest.mark.parametrize("precision", HALVES)
def test_a_half_bundle_stores_half_and_takes_and_gives_the_same_tensors(
    tmp_path: Path, precision: Precision
) -> None:
    if precision is Precision.BF16:
        pytest.importorskip("openvino", reason="ONNX Runtime has no bf16 kernels for CPUs")
    source = make_checkpoint(
        tmp_path / "checkpoint",
        "question-answering",
        num_hidden_layers=1,
        attention_window=[16],
        max_position_embeddings=66,
    )
    result = export_bundle(
        str(source),
        Task.QUESTION_ANSWERING,
        tmp_path / "bundle",
        settings=ExportSettings(precision=precision),
    )
    manifest, parity = result.manifest, result.manifest.parity
    assert manifest.precision is precision and parity is not None
    assert 1e-5 < parity.max_relative <= TOLERANCES[precision].max_relative
    assert parity.provider.endswith(f" and pytorch CPU {precision.value}")
    report = json.loads((result.path / "parity.json").read_text(encoding="utf-8"))
    assert len(report["results"]) == parity.cases and report["failures"] == []
    bundle = Bundle.open(result.path)
    for layout in Layout:
        path = bundle.model_path(layout)
        onnx.checker.check_model(str(path))
        graph = onnx.load(path, load_external_data=False).graph
        assert {t.type.tensor_type.elem_type for t in graph.output} == {TensorProto.FLOAT}
        assert {node.domain for node in graph.node} == {""}
        large = {t.name: t.data_type for t in graph.initializer if np.prod(t.dims) > 1000}
        assert len(large) >= 9 and set(large.values()) == {ELEMENT[precision]}
        for node in graph.node:
            if node.op_type == "LayerNormalization":
                assert [a.i for a in node.attribute if a.name == "stash_type"] == [TensorProto.FLOAT]
    if precision is Precision.BF16:
        with pytest.raises(EngineError, match=r"no kernel .* none for bf16, .* openvino"):
            open_packed_engine(bundle)


def test_bf16_without_openvino_is_an_error_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"openvino is not installed; install 'longserve\[openvino\]'"):
        export_bundle(
            str(tmp_path),
            Task.TEXT_CLASSIFICATION,
            tmp_path / "b",
            settings=ExportSettings(precision=Precision.BF16),
        )
