"""`benchmarks/cached_bundles.py` with a stand-in for the export: what it makes, once, and its failures."""

from __future__ import annotations

import importlib.metadata
import sys
import time
from pathlib import Path

import cached_bundles
import pytest

TASK = "text-classification"


def stand_in(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Let a few lines of Python be the command that exports; `target` is the bundle's directory."""
    head = "import pathlib, sys, time; target = pathlib.Path(sys.argv[sys.argv.index('-o') + 1]); "
    monkeypatch.setattr(cached_bundles, "_COMMAND", [sys.executable, "-c", head + body])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that holds a checkpoint's directory."""
    checkpoint = tmp_path / f"longformer-base-4096-{TASK}"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}", encoding="utf-8")
    return tmp_path


def test_a_bundle_is_exported_once_for_each_form(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "target.mkdir(); (target / 'manifest.json').write_text(' '.join(sys.argv))")
    made = cached_bundles.cached_bundle(cache, "base", TASK, "fp16")
    fused = cached_bundles.cached_bundle(cache, "base", TASK, "fp16", fused_attention=True)
    assert made != fused
    assert "--fused-attention" in (fused / "manifest.json").read_text(encoding="utf-8")
    stand_in(monkeypatch, "sys.exit('it is exported again')")
    assert cached_bundles.cached_bundle(cache, "base", TASK, "fp16") == made


@pytest.mark.parametrize("installed", ["onnxruntime", "onnxruntime-gpu"])
def test_either_onnxruntime_names_the_bundle(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"torch": "2", "onnx": "1", "onnxscript": "0", installed: "1.31"}

    def version(name: str) -> str:
        if name not in known:
            raise importlib.metadata.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    first = cached_bundles.exporter_hash()
    known[installed] = "1.32"
    assert cached_bundles.exporter_hash() != first


def test_an_export_that_fails_gives_its_own_reason(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "print('loading'); sys.exit('error: no space is left')")
    with pytest.raises(cached_bundles.NotMade, match="failed with status 1: error: no space is left"):
        cached_bundles.cached_bundle(cache, "base", TASK, "fp16")


def test_an_export_that_takes_too_long_is_ended(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(
        monkeypatch, "target.with_name(f'.{target.name}.partial-1').mkdir(); time.sleep(2); target.mkdir()"
    )
    with pytest.raises(cached_bundles.NotMade, match="took more than its 1 seconds"):
        cached_bundles.cached_bundle(cache, "base", TASK, "fp16", seconds=1)
    time.sleep(2)
    assert [path.name for path in cache.iterdir()] == [f"longformer-base-4096-{TASK}"], (
        "it went on, or left its parts"
    )


def test_a_checkpoint_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(cached_bundles.NotMade, match="took more than its"):
        cached_bundles.cached_bundle(tmp_path, "base", TASK, "fp16", seconds=0.01)
