"""`benchmarks/gpu.py` on a small bundle without a GPU: every cell is measured, or says why it was not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gpu
import numpy as np
import onnx
import pytest
from longformer_attention_graph import write_graph


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
    for engine in (gpu.REFERENCE, "onnxruntime", "LongformerAttention", "tensorrt"):
        options += ["--engine", engine]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options])
    gpu.main()
    report = json.loads(target.read_text(encoding="utf-8"))
    by_engine: dict[str, list[dict[str, object]]] = {}
    for one in report["results"]:
        by_engine.setdefault(one["engine"], []).append(one)
    for one in by_engine[gpu.REFERENCE] + by_engine["onnxruntime"]:
        assert one["seconds"] > 0 and one["error"] < 1e-5, one
    cases = [one["case"] for one in by_engine["onnxruntime"]]
    assert cases == ["1 x 64", "mixed packed", "mixed padded"]
    for one in by_engine["LongformerAttention"]:
        assert "LongformerAttention" in one["failed"], one  # no kernel on a CPU
    for one in by_engine["tensorrt"]:
        assert "TensorRT runs on GPUs only" in one["failed"], one
    ratios = {one["what"]: one["ratio"] for one in report["goals"]}
    assert ratios["mixed lengths, packed over padded"] > 0
    assert ratios["onnxruntime over torch fp16, 1 x 64"] is None
    text = capsys.readouterr().out
    assert "not measured" in text and "GPUs only" in text


def test_an_engine_that_takes_too_long_is_skipped(classification_bundle: Path, tmp_path: Path) -> None:
    told = gpu.Work(
        engine="onnxruntime",
        device="cpu",
        checkpoint="none",
        bundle=str(classification_bundle),
        logits=str(tmp_path),
        lengths=(64,),
        batches=(1,),
        mixed=(64, 32),
    )
    names = [case.name for case in told.cases()]
    for seconds, reason in ((0.5, "no time was left"), (1.0, "")):
        records = gpu.run_worker(told, seconds)
        assert [one["case"] for one in records] == names
        assert all("seconds" in one or reason in one.get("skipped", "?") for one in records)


def test_the_operators_own_graph_is_valid_and_has_one_per_layer(
    classification_checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    write_graph(classification_checkpoint, path)
    onnx.checker.check_model(str(path))
    model = onnx.load(str(path))
    nodes = [node for node in model.graph.node if node.op_type == "LongformerAttention"]
    windows = [attribute.i for node in nodes for attribute in node.attribute if attribute.name == "window"]
    assert windows == [8, 16, 8]
    shapes = {value.name: list(value.dims) for value in model.graph.initializer}
    for node in nodes:
        assert [shapes[name] for name in (*node.input[1:3], *node.input[4:6])] == [
            [3, 48, 48],
            [240],
            [3, 48, 48],
            [48],
        ]


def test_errors_are_against_the_reference_of_the_same_documents(tmp_path: Path) -> None:
    packed, padded = (gpu.Case(lengths=(3, 2), packed=packed) for packed in (True, False))
    assert gpu.difference(tmp_path, packed, np.ones(2), "onnxruntime") is None
    gpu.difference(tmp_path, padded, np.array([4.0, 1.0]), gpu.REFERENCE)
    assert gpu.difference(tmp_path, packed, np.array([4.0, 2.0]), "onnxruntime") == 0.25
    assert gpu.difference(tmp_path, packed, np.array([4.0, np.nan]), "onnxruntime") == float("inf")
