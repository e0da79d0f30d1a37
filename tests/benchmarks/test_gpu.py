"""`benchmarks/gpu.py` on a small bundle without a GPU: every cell is measured, or says why it was not."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import gpu
import gpu_ways
import numpy as np
import onnx
import pytest
import torch
from longformer_attention_graph import write_graph
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


def test_what_cannot_be_measured_says_why(
    classification_bundle: Path,
    classification_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "gpu.json"
    options = ["--checkpoint", str(classification_checkpoint), "--bundle", str(classification_bundle)]
    options += ["--cpu", "--length", "64", "--batch", "1", "--mixed", "64", "32", "--json", str(target)]
    for engine in (gpu_ways.REFERENCE, "onnxruntime", "LongformerAttention", "tensorrt"):
        options += ["--engine", engine]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options])
    gpu.main()
    report = json.loads(target.read_text(encoding="utf-8"))
    by_engine: dict[str, list[dict[str, object]]] = {}
    for one in report["results"]:
        by_engine.setdefault(one["engine"], []).append(one)
    for one in by_engine[gpu_ways.REFERENCE] + by_engine["onnxruntime"]:
        assert one["seconds"] > 0 and one["error"] < 1e-5, one
    cases = [one["case"] for one in by_engine["onnxruntime"]]
    assert cases == ["mixed padded", "mixed packed", "1 x 64"]  # the padded graph is loaded once
    for one in by_engine["LongformerAttention"]:
        assert "LongformerAttention" in one["failed"], one  # no kernel on a CPU
    for one in by_engine["tensorrt"]:
        assert "TensorRT runs on GPUs only" in one["failed"], one
    ratios = {one["what"]: one["ratio"] for one in report["goals"]}
    assert ratios["onnxruntime, mixed lengths, packed over padded"] > 0
    assert ratios["onnxruntime over torch fp16, 1 x 64"] is None
    assert not any(gpu_ways.FUSED in what for what in ratios), "no bundle of that form was given"
    text = capsys.readouterr().out
    assert "not measured" in text and "GPUs only" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "model"], "--checkpoint and its bundles"),
        (["--bundle", "bundle"], "--checkpoint and its bundles"),
        (
            ["--checkpoint", "model", "--bundle", "bundle", "--engine", gpu_ways.FUSED],
            f"no bundle for {gpu_ways.FUSED}",
        ),
        (["--mixed", "64", "64"], "--mixed is 64 64; give at least two different lengths"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--cpu", *options])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_goals_are_of_both_forms_at_the_longest_length() -> None:
    seconds = {"torch fp16": 6.0, gpu_ways.FUSED: 1.5, "onnxruntime": 3.0, "LongformerAttention": None}
    results = [
        {"size": "base", "engine": engine, "case": case, "seconds": taken}
        for engine, taken in seconds.items()
        for case in ("1 x 4096", "8 x 4096", "1 x 512")
    ]
    results.append({"size": "base", "engine": "onnxruntime", "case": "mixed packed", "seconds": 1.0})
    results.append({"size": "base", "engine": "onnxruntime", "case": "mixed padded", "seconds": 2.5})
    ratios = {one["what"]: one["ratio"] for one in gpu.goals(results)}
    assert ratios[f"{gpu_ways.FUSED} over torch fp16, 8 x 4096"] == 4
    assert ratios["onnxruntime over torch fp16, 1 x 4096"] == 2
    assert ratios["onnxruntime over LongformerAttention, 1 x 4096"] is None
    assert ratios["onnxruntime, mixed lengths, packed over padded"] == 2.5
    assert ratios[f"{gpu_ways.FUSED}, mixed lengths, packed over padded"] is None
    assert not any("512" in what for what in ratios)


def test_an_engine_that_takes_too_long_is_skipped(classification_bundle: Path, tmp_path: Path) -> None:
    told = gpu_ways.Work(
        engine="onnxruntime",
        device="cpu",
        checkpoint="none",
        bundle=str(classification_bundle),
        folder=str(tmp_path),
        lengths=(64,),
        batches=(1,),
        mixed=(64, 32),
    )
    names = [case.name for case in told.cases()]
    for seconds, reason in ((0.5, "no time was left"), (1.0, "")):
        records = list(gpu.run_engine(told, seconds))
        assert [one["case"] for one in records] == names
        assert all("seconds" in one or reason in one.get("skipped", "?") for one in records)


def test_an_engine_that_cannot_be_loaded_leaves_its_reason(tmp_path: Path) -> None:
    told = gpu_ways.Work(
        engine="onnxruntime",
        device="cpu",
        checkpoint="none",
        bundle=str(tmp_path / "nothing"),
        folder=str(tmp_path),
        lengths=(64,),
        batches=(1,),
        mixed=(64, 32),
    )
    records = list(gpu.run_engine(told, 60))
    assert [one["case"] for one in records] == [case.name for case in told.cases()]
    assert "it has no manifest.json" in records[0]["failed"], records
    assert len({one["failed"] for one in records}) == 1, "it was not loaded again in vain"


def test_the_operators_own_graph_is_valid_and_has_one_per_layer(
    classification_checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    write_graph(classification_checkpoint, path)
    onnx.checker.check_model(str(path))
    model = onnx.load(str(path))
    nodes = [node for node in model.graph.node if node.op_type == "LongformerAttention"]
    windows = [attribute.i for node in nodes for attribute in node.attribute if attribute.name == "window"]
    assert windows == [8, 16]
    shapes = {value.name: list(value.dims) for value in model.graph.initializer}
    for node in nodes:
        assert [shapes[name] for name in (*node.input[1:3], *node.input[4:6])] == [
            [3, 48, 48],
            [240],
            [3, 48, 48],
            [48],
        ]


class _Attention(OpRun):
    """The operator from its definition: every pair of tokens, in NumPy."""

    op_domain = "com.microsoft"

    def _run(self, x, w, b, mask, gw, gb, flags, num_heads=None, window=None):  # type: ignore[no-untyped-def]
        rows, length, size = x.shape
        biases = b.reshape(5, size)

        def heads(value):  # type: ignore[no-untyped-def]
            return value.reshape(rows, length, num_heads, -1).transpose(0, 2, 1, 3)

        def attend(q, k, v, bias):  # type: ignore[no-untyped-def]
            scores = heads(q) @ heads(k).transpose(0, 1, 3, 2) / np.sqrt(size / num_heads) + bias[:, None]
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed = weights / weights.sum(axis=-1, keepdims=True) @ heads(v)
            return mixed.transpose(0, 2, 1, 3).reshape(x.shape)

        q, k, v = (x @ w[part] + biases[part] for part in range(3))
        near = np.abs(np.arange(length)[:, None] - np.arange(length)) <= window
        sees = near[None] | (flags[:, None] > 0)
        local = attend(q, k, v, np.where(sees, 0, -1e9) + mask[:, None])
        everywhere = attend(
            x @ gw[0] + gb, x @ gw[1] + biases[3], x @ gw[2] + biases[4], mask[:, None] + 0 * sees
        )
        return (np.where(flags[:, :, None] > 0, everywhere, local).astype(x.dtype),)


_Attention.__name__ = "LongformerAttention"  # onnx looks it up by this


def test_the_operators_own_graph_gives_the_models_logits(
    classification_checkpoint: Path, tmp_path: Path
) -> None:
    from transformers import LongformerForSequenceClassification

    path = tmp_path / "model.onnx"
    write_graph(classification_checkpoint, path, half=False)
    model = LongformerForSequenceClassification.from_pretrained(classification_checkpoint).eval()
    ids = np.random.default_rng(0).integers(5, 200, (2, 96))
    ids[1, 70:] = 1
    seen = (ids != 1).astype(np.int64)
    flags = np.zeros_like(ids)
    flags[:, :3] = 1
    feeds = {"input_ids": ids, "attention_mask": seen, "global_attention_mask": flags}
    with torch.inference_mode():
        wanted = model(**{name: torch.from_numpy(array) for name, array in feeds.items()}).logits.numpy()
    (found,) = ReferenceEvaluator(str(path), new_ops=[_Attention]).run(None, feeds)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_reason_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "[ONNXRuntimeError] : [/lib/x.so]"
    gpu.show([{"size": "base", "engine": "onnxruntime", "case": "1 x 64", "failed": reason}], [])
    assert "[ONNXRuntimeError]" in capsys.readouterr().out


def test_short_runs_warm_up_until_the_clock_is_up() -> None:
    runs: list[float] = []
    gpu_ways.timed(lambda: runs.append(time.perf_counter()))
    assert runs[-21] - runs[0] > 0.09, "the last twenty are timed"


def test_errors_are_against_the_reference_of_the_same_documents(tmp_path: Path) -> None:
    packed, padded = (gpu_ways.Case(lengths=(3, 2), packed=packed) for packed in (True, False))
    assert gpu_ways.difference(tmp_path, packed, np.ones(2), "onnxruntime") is None
    gpu_ways.difference(tmp_path, padded, np.array([4.0, 1.0]), gpu_ways.REFERENCE)
    assert gpu_ways.difference(tmp_path, packed, np.array([4.0, 2.0]), "onnxruntime") == 0.25
    assert gpu_ways.difference(tmp_path, packed, np.array([4.0, np.nan]), "onnxruntime") == float("inf")
