"""The engines' processes, for real: one awake at a time, and no failure without its reason."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longserve.export.bench import EngineKind, EngineSpec
from longserve.export.bench.engine_process import EngineProcess
from longserve.export.bench.errors import EngineFailed
from longserve.serving.runtime.manifest import Layout

CASE = {"length": 40, "batch": 2, "global_tokens": 1}


@pytest.fixture
def spec(classification_bundle: Path) -> EngineSpec:
    return EngineSpec(
        kind=EngineKind.ONNXRUNTIME,
        name="onnxruntime fp32 packed",
        bundle=str(classification_bundle),
        layout=Layout.PACKED,
    )


def state(process: EngineProcess) -> str:
    """The process's state as proc(5) has it, when it has settled: `T` is stopped."""
    time.sleep(0.05)
    return Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]


def test_a_process_is_stopped_between_its_turns(spec: EngineSpec) -> None:
    with EngineProcess(spec, timeout=60) as process:
        assert process.loaded["runs_on"] == "onnxruntime CPUExecutionProvider"
        assert state(process) == "T"
        prepared = process.ask("prepare", case=CASE, seed=0, warmup=2)
        assert len(prepared["seconds"]) == 2 and len(prepared["logits"]) == 2 * 5
        assert state(process) == "T"
        ran = process.ask("run", seconds=0.1, most=3)
        assert len(ran["seconds"]) == 3 and min(ran["seconds"]) > 0 and ran["paged"] <= 9
        memory = ran["memory"]
        assert 20e6 < memory["private"] <= memory["resident"] <= memory["peak"] < 400e6
    assert not Path(f"/proc/{process.pid}").exists()


def test_layouts_and_seeds(spec: EngineSpec) -> None:
    """Both layouts get the same rows, so that their logits can be compared."""
    padded = dataclasses.replace(spec, layout=Layout.PADDED)
    logits = []
    for one in (spec, padded):
        with EngineProcess(one, timeout=60) as process:
            logits.append([process.ask("prepare", case=CASE, seed=s, warmup=1)["logits"] for s in (0, 1)])
    assert logits[0][0] == pytest.approx(logits[1][0], abs=1e-4)
    assert logits[0][0] != pytest.approx(logits[0][1], abs=1e-2)


def test_an_engine_that_cannot_be_loaded_says_why(spec: EngineSpec, tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"BundleNotFound: .* is no bundle"):
        EngineProcess(dataclasses.replace(spec, bundle=str(tmp_path)), timeout=60)


def test_a_run_that_fails_says_why(spec: EngineSpec) -> None:
    with (
        EngineProcess(spec, timeout=60) as process,
        pytest.raises(EngineFailed, match=r"InvalidInput: .*513"),
    ):
        process.ask("prepare", case=CASE | {"length": 513}, seed=0, warmup=1)


def test_a_process_that_is_killed_is_told_from_one_that_failed(spec: EngineSpec) -> None:
    with EngineProcess(spec, timeout=60) as process:
        process.kill()
        with pytest.raises(EngineFailed, match="killed by SIGKILL"):
            process.ask("run", seconds=0.1, most=1)


def test_a_step_that_takes_too_long_ends(spec: EngineSpec) -> None:
    with EngineProcess(spec, timeout=60) as process:
        process.ask("prepare", case=CASE, seed=0, warmup=1)
        process.timeout = 0.2
        with pytest.raises(EngineFailed, match=r"no result within 0\.2 s"):
            process.ask("run", seconds=30, most=1_000_000)
        assert not Path(f"/proc/{process.pid}").exists()


def test_a_stopped_process_does_not_outlive_a_parent_that_was_killed(spec: EngineSpec) -> None:
    fields = json.dumps(json.dumps(spec.to_dict()))
    code = f"""
import json, time
from longserve.export.bench import EngineSpec
from longserve.export.bench.engine_process import EngineProcess
process = EngineProcess(EngineSpec.from_dict(json.loads({fields})), timeout=60)
print(process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = Path("/proc", parent.stdout.readline().strip())
        assert worker.exists()
        parent.kill()
    until = time.monotonic() + 10
    while worker.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not worker.exists()
