"""`benchmarks/memory.py` on a small bundle."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import memory
import numpy as np
import pytest
from mixed_lengths import mixed_lengths


def test_peaks_and_growth_of_a_bundle(
    classification_bundle: Path,
    classification_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "memory.json"
    options = ["--bundle", str(classification_bundle), "--reference", str(classification_checkpoint)]
    options += ["--engines", "torch,onnxruntime", "--length", "300", "--soak", "25", "--json", str(target)]
    monkeypatch.setattr(sys, "argv", ["memory.py", *options])
    memory.main()
    report = json.loads(target.read_text(encoding="utf-8"))
    torch, ours = report["peaks"]
    assert torch["engine"] == "torch eager fp32" and torch["of_first"] == 1.0
    assert 0 < ours["loaded_bytes"] <= ours["peak_bytes"] and ours["of_first"] < 0.6 and ours["goal"] == 0.6
    assert [soak["keeps_memory"] for soak in report["soaks"]] == [False, True]
    for soak in report["soaks"]:
        assert [reading["runs"] for reading in soak["readings"]] == [3, 6, 9, 12, 15, 18, 21, 24, 25]
        assert abs(soak["growth_bytes_second_half"]) < 20e6
    text = capsys.readouterr().out
    assert "one session at 300 tokens" in text and "25 runs of mixed lengths" in text


def test_mixed_lengths_are_long_tailed_and_the_same_each_time() -> None:
    lengths = np.asarray(mixed_lengths(10_000))
    assert lengths.min() == 50 and lengths.max() == 4096
    assert 250 < np.median(lengths) < 350 and 450 < lengths.mean() < 520
    assert np.quantile(lengths, 0.99) > 2500
    assert mixed_lengths(10_000) == lengths.tolist() and mixed_lengths(100, seed=1) != mixed_lengths(100)
    assert max(mixed_lengths(1000, longest=512)) == 512
