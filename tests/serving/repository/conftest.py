"""Bundles that need no export: a manifest of any kind with files that stand for the graph and its data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longserve.serving.runtime.manifest import (
    SCHEMA_VERSION,
    FileRecord,
    GlobalAttention,
    GraphSpec,
    Layout,
    Manifest,
    ParitySummary,
    Precision,
    ProblemType,
    Task,
    TensorSpec,
)

LABELS = ("alpha", "beta", "gamma")
FILES = {
    "model.onnx": b"padded graph",
    "model.packed.onnx": b"packed graph",
    "model.onnx.data": b"weights",
    "tokenizer.json": b"{}",
    "config.json": b"{}",
}
PARITY = ParitySummary(
    provider="CPUExecutionProvider",
    cases=10,
    worst_case="length 1",
    max_abs=1e-6,
    max_relative=1e-6,
    min_cosine=1.0,
    argmax_agreement=1.0,
    tolerance=1e-5,
)


def make_manifest(task: Task = Task.TEXT_CLASSIFICATION, **changes: Any) -> Manifest:
    """A manifest as the exporter writes it, with any field changed."""
    classifies = task is Task.TEXT_CLASSIFICATION
    token_types = changes.get("type_vocab_size", 1) > 1
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "task": task,
        "model_id": "test",
        "revision": None,
        "architecture": "longformer",
        "attention_window": (16, 16),
        "max_length": 1024,
        "block_size": 16,
        "max_global_tokens": None,
        "vocab_size": 300,
        "type_vocab_size": 1,
        "graphs": (_packed_graph(classifies, token_types),),
        "labels": LABELS if classifies else (),
        "problem_type": ProblemType.SINGLE_LABEL if classifies else None,
        "special_tokens": {"cls": 0, "bos": 0, "pad": 1, "sep": 2, "eos": 2, "unk": 3, "mask": 4},
        "global_attention": GlobalAttention.FIRST_TOKEN if classifies else GlobalAttention.QUESTION,
        "precision": Precision.FP32,
        "opset": 20,
        "tools": {"torch": "2.13.0"},
        "files": (),
        "parity": PARITY,
    }
    return Manifest(**{**fields, **changes})


def _packed_graph(classifies: bool, token_types: bool) -> GraphSpec:
    inputs = ["input_ids", "global_attention_mask", *(["token_type_ids"] if token_types else [])]
    outputs = ["logits"] if classifies else ["start_logits", "end_logits"]
    axes: tuple[str | int, ...] = ("batch", len(LABELS)) if classifies else ("tokens",)
    return GraphSpec(
        file="model.packed.onnx",
        layout=Layout.PACKED,
        inputs=(
            *(TensorSpec(name=name, dtype="int64", axes=("tokens",)) for name in inputs),
            TensorSpec(name="sequence_ends", dtype="int32", axes=("batch",)),
        ),
        outputs=tuple(TensorSpec(name=name, dtype="float32", axes=axes) for name in outputs),
    )


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a bundle; its keywords change the manifest."""

    def make(name: str = "bundle", task: Task = Task.TEXT_CLASSIFICATION, **changes: Any) -> Path:
        root = tmp_path / name
        root.mkdir()
        files = {
            k: v for k, v in FILES.items() if changes.get("has_tokenizer", True) or k != "tokenizer.json"
        }
        records = []
        for file, content in files.items():
            (root / file).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            records.append(FileRecord(name=file, sha256=digest, size=len(content)))
        manifest = make_manifest(task, files=tuple(records), **changes)
        (root / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
        return root

    return make
