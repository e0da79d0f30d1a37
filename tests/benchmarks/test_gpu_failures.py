"""`benchmarks/gpu.py` where things go wrong on a GPU that is not there: no cell takes another one with it."""

from __future__ import annotations

import functools
import gc
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cached_bundles
import gpu
import gpu_ways
import pytest
import torch

from longserve.serving.runtime.onnxruntime_engine import OnnxRuntimeEngine


@pytest.fixture
def told(classification_bundle: Path, classification_checkpoint: Path, tmp_path: Path) -> gpu_ways.Work:
    """The cases 1 x 64, 1 x 32, mixed and 1 x 16 of an engine."""
    return gpu_ways.Work(
        engine="torch fp16",
        device="cpu",
        checkpoint=str(classification_checkpoint),
        bundle=str(classification_bundle),
        folder=str(tmp_path),
        lengths=(64, 32, 16),
        batches=(1,),
        mixed=(64, 32),
    )


class Spoiling:
    """An engine whose first case spoils the GPU context, and whose second one ends the process."""

    spoilt = False

    def __init__(self, told: gpu_ways.Work, manifest: Any) -> None:
        with Path(told.folder, "processes").open("a", encoding="utf-8") as file:
            file.write("one\n")

    def prepare(self, case: gpu_ways.Case) -> gpu_ways.Prepared:
        if case.name == "1 x 64":
            Spoiling.spoilt = True
            raise ValueError("its own reason")
        if case.name == "1 x 32":
            os.kill(os.getpid(), signal.SIGKILL)
        return (lambda: None), (lambda: torch.ones(1).numpy())

    def release(self, *, failed: bool) -> None:
        if self.spoilt:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


def serve_spoiling(theirs: Connection) -> None:
    gpu_ways.WAYS["torch fp16"] = Spoiling
    gpu.serve(theirs)


def test_another_process_goes_on_after_a_crash_and_a_spoilt_gpu(
    told: gpu_ways.Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "serve", serve_spoiling)
    records = {one["case"]: one for one in gpu.run_engine(told, 300)}
    assert list(records) == ["1 x 64", "1 x 32", "mixed padded", "1 x 16"]
    assert records["1 x 64"]["failed"] == "ValueError: its own reason"
    assert records["1 x 32"]["failed"] == "the process ended with -9"
    assert all("seconds" in records[name] for name in ("mixed padded", "1 x 16"))
    assert len(Path(tmp_path, "processes").read_text(encoding="utf-8").split()) == 3


def test_what_is_imported_before_the_fork_leaves_the_gpu_alone() -> None:
    """A child of a process that has used CUDA cannot use it."""
    script = f"""
import importlib, sys, torch
sys.path.insert(0, {str(Path(gpu.__file__).parent)!r})
def used(*_, **__): raise SystemExit("CUDA was asked for")
for name in ("is_available", "device_count", "init", "_lazy_init", "get_device_capability"):
    setattr(torch.cuda, name, used)
for name in {gpu_ways.IMPORTED!r}: importlib.import_module(name)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def serve_nothing(theirs: Connection) -> None:
    """End as a process does that crashes while it loads."""
    theirs.recv()
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_engine_that_crashes_as_it_loads_is_not_tried_again(
    told: gpu_ways.Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "serve", serve_nothing)
    records = list(gpu.run_engine(told, 300))
    assert [one["case"] for one in records] == [case.name for case in told.cases()]
    assert {one["failed"] for one in records} == {"the process ended with -9"}


def test_what_hangs_says_that_its_time_was_up(told: gpu_ways.Work) -> None:
    worker = object.__new__(gpu.Worker)  # without a process
    worker._ours, theirs = multiprocessing.Pipe()
    worker.ended = None
    theirs.send({"begun": "1 x 64"})
    theirs.send({"case": "1 x 64", "seconds": 1.0})
    theirs.send({"begun": "1 x 32"})
    assert list(worker.records(told, 1)) == [{"case": "1 x 64", "seconds": 1.0}]
    assert worker.ended == {"skipped": "its time was up after 1 seconds"}


@pytest.fixture
def run_main(
    classification_bundle: Path,
    classification_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., list[dict[str, Any]]]:
    """Return what runs the script for both sizes and gives what it wrote, with a stand-in for the export."""

    def run(make: Callable[[str, bool], None], *options: str) -> list[dict[str, Any]]:
        def bundle(cache: Path, size: str, *_: str, fused_attention: bool, seconds: float) -> Path:
            make(size, fused_attention)
            return classification_bundle

        monkeypatch.setattr(cached_bundles, "cached_bundle", bundle)
        monkeypatch.setattr(cached_bundles, "cached_checkpoint", lambda *_, **__: classification_checkpoint)
        target = tmp_path / "gpu.json"
        shape = ["--length", "64", "--batch", "1", "--mixed", "64", "32", "--json", str(target)]
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--cpu", *shape, *options])
        try:
            gpu.main()
        finally:
            results: list[dict[str, Any]] = json.loads(target.read_text(encoding="utf-8"))["results"]
        return results

    return run


def fail(size: str, fused: bool) -> None:
    if size == "large" and fused:
        raise cached_bundles.NotMade("exporting large failed with status 1: no space")


def test_an_export_that_fails_costs_the_cells_that_need_it(
    run_main: Callable[..., list[dict[str, Any]]],
) -> None:
    results = run_main(fail, "--engine", "onnxruntime", "--engine", gpu_ways.FUSED)
    assert len(results) == 12
    for one in results:
        if (one["size"], one["engine"]) == ("large", gpu_ways.FUSED):
            assert one["failed"] == "NotMade: exporting large failed with status 1: no space"
        else:
            assert one["seconds"] > 0, one


def test_pytorch_is_measured_without_any_bundle(run_main: Callable[..., list[dict[str, Any]]]) -> None:
    def refuse(size: str, fused: bool) -> None:
        raise cached_bundles.NotMade("no exporter")

    engines = ("--engine", gpu_ways.REFERENCE, "--engine", "onnxruntime")
    results = run_main(refuse, "--size", "base", *engines)
    for one in results:
        assert ("seconds" in one) == (one["engine"] == gpu_ways.REFERENCE), one
    assert {one["failed"] for one in results if "failed" in one} == {"NotMade: no exporter"}


def test_the_file_holds_what_was_measured_when_the_script_ends_early(
    run_main: Callable[..., list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> Any:
        yield {"size": "base", "engine": gpu_ways.REFERENCE, "case": "1 x 64", "seconds": 1.0}
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        run_main(lambda *_: None, "--size", "base")
    (one,) = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["results"]
    assert one["seconds"] == 1.0


def test_the_same_case_is_measured_once(run_main: Callable[..., list[dict[str, Any]]]) -> None:
    options = ("--length", "64", "--size", "base", "--size", "base", "--engine", "onnxruntime")
    cases = [one["case"] for one in run_main(lambda *_: None, *options)]
    assert cases == ["mixed padded", "mixed packed", "1 x 64"]


def test_exports_get_half_of_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def export(*_: Any) -> dict[str, gpu.Sources]:
        given.append(_[-1])
        return {"base": ("NotMade: no time", {})}

    monkeypatch.setattr(gpu, "export_all", export)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--cpu", "--size", "base", "--budget", "100"])
    gpu.main()
    assert 40 < given[0] <= 50


def test_exports_run_at_once_within_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ("base", "large"):
        (tmp_path / f"longformer-{size}-4096-{gpu_ways.TASK}").mkdir()
        (tmp_path / f"longformer-{size}-4096-{gpu_ways.TASK}" / "config.json").touch()
    monkeypatch.setattr(cached_bundles, "_COMMAND", [sys.executable, "-c", "import time; time.sleep(60)"])
    started = time.monotonic()
    sources = gpu.export_all(tmp_path, ["base", "large"], list(gpu.ENGINES), 2)
    assert time.monotonic() - started < 10
    for _, bundles in sources.values():
        assert list(bundles) == ["onnxruntime", gpu_ways.FUSED]
        assert all("took more than its" in str(reason) for reason in bundles.values())


def test_only_what_the_engines_need_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_bundles, "cached_checkpoint", lambda *_, **__: tmp_path)
    monkeypatch.setattr(cached_bundles, "cached_bundle", lambda *_, **__: tmp_path)
    for engine, forms in (
        ("torch fp16", []),
        ("tensorrt", ["onnxruntime"]),
        (gpu_ways.FUSED, [gpu_ways.FUSED]),
    ):
        assert gpu.export_all(tmp_path, ["base"], [engine], 9)["base"] == (
            tmp_path,
            dict.fromkeys(forms, tmp_path),
        )


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], weakref.WeakSet[Any]]:
    """How many sessions there were as each one was loaded, and those that there are."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    counts: list[int] = []
    load = OnnxRuntimeEngine.__init__

    def counted(self: OnnxRuntimeEngine, *arguments: Any, **options: Any) -> None:
        gc.collect()
        counts.append(len(alive))
        load(self, *arguments, **options)
        alive.add(self._session)

    monkeypatch.setattr(OnnxRuntimeEngine, "__init__", counted)
    return counts, alive


def records_of(told: gpu_ways.Work, engine: str, lengths: tuple[int, ...] = (16, 64)) -> list[dict[str, Any]]:
    work = replace(told, engine=engine, lengths=lengths, batches=(1, 8))
    return [one for one in gpu_ways.work(work) if "case" in one]


def test_one_session_at_a_time_and_one_of_each_graph(
    told: gpu_ways.Work, sessions: tuple[list[int], weakref.WeakSet[Any]]
) -> None:
    records = records_of(told, "onnxruntime")
    assert all(one["seconds"] > 0 for one in records), records
    assert sessions[0] == [0, 0]


def test_a_session_that_keeps_too_much_is_loaded_anew(
    told: gpu_ways.Work, sessions: tuple[list[int], weakref.WeakSet[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = itertools.count(0, gpu_ways._LEFT + 1)  # whatever happens, more is in use
    monkeypatch.setattr(gpu_ways, "used_memory", lambda device: next(used))
    records = records_of(told, "onnxruntime")
    assert all(one["memory_bytes"] > one["idle_bytes"] > 0 for one in records), records
    assert sessions[0] == [0] * len(records)


def test_a_session_whose_case_failed_is_loaded_anew(
    told: gpu_ways.Work, sessions: tuple[list[int], weakref.WeakSet[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(run: Any) -> float:
        raise MemoryError("no room")

    monkeypatch.setattr(gpu_ways, "timed", out_of_memory)
    records = records_of(told, "onnxruntime")
    assert {one["failed"] for one in records} == {"MemoryError: no room"}
    assert sessions[0] == [0] * len(records)


def test_every_shape_runs_compiled(told: gpu_ways.Work, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []

    def backend(graph: Any, _: Any) -> Any:
        def run(*inputs: Any) -> Any:
            runs[-1] += 1
            return graph.forward(*inputs)

        return run

    def count(run: Any) -> float:
        runs.append(0)
        for _ in range(2):
            run()
        return 1.0

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    monkeypatch.setattr(gpu_ways, "timed", count)
    low = {"recompile_limit": 1, "accumulated_recompile_limit": 2, "fail_on_recompile_limit_hit": False}
    with torch._dynamo.config.patch(low):
        records = records_of(told, "torch.compile fp16", (16,))
    assert not any("failed" in one for one in records), records
    assert len(runs) == len(records) == 3 and min(runs) > 0


def test_what_was_not_compiled_is_no_result_of_the_compiler(
    told: gpu_ways.Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    with torch._dynamo.config.patch(recompile_limit=1):
        records = records_of(told, "torch.compile fp16")
    assert all("compiled nothing" in one["failed"] for one in records), records
