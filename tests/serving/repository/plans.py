"""TensorRT plans as a repository takes them, with no engine in them, and what a configuration says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from fake_tensorrt import make_record

from longserve.serving import Bundle
from longserve.serving.runtime.manifest import FileRecord, Layout, Manifest
from longserve.serving.runtime.profiles import default_profiles
from longserve.serving.runtime.tensorrt_record import RECORD_NAME, EngineRecord

__all__ = ["parameters", "record_of", "write_plan"]


def record_of(manifest: Manifest, fingerprint: str = "b" * 64, **fields: Any) -> EngineRecord:
    graph = manifest.graph(Layout.PACKED)
    values: dict[str, Any] = {
        "task": manifest.task,
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "bundle": fingerprint,
        "profiles": default_profiles(Layout.PACKED, manifest.max_length, sequences=4),
        "global_capacity": 32,
    }
    return make_record(**{**values, **fields})


def write_plan(directory: Path, bundle: Bundle, **fields: Any) -> Path:
    directory.mkdir()
    (directory / "model.plan").write_bytes(b"plan")
    plan = FileRecord(name="model.plan", sha256=hashlib.sha256(b"plan").hexdigest(), size=4)
    record = record_of(bundle.manifest, bundle.fingerprint, plan=plan, **fields)
    (directory / RECORD_NAME).write_text(record.to_json(), encoding="utf-8")
    return directory


def parameters(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}
