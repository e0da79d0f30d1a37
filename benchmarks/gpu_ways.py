"""What runs on the GPU in `gpu.py`: one engine and its cases, in a process of its own."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FUSED", "IMPORTED", "OURS", "REFERENCE", "TASK", "WAYS", "Case", "Work", "shortened", "work"]

REFERENCE, FUSED = "torch fp32", "onnxruntime fused"
OURS = (FUSED, "onnxruntime")
"""ONNX Runtime with a bundle of ours, its local attention as one operator and as products."""
IMPORTED = (
    __name__,
    "transformers.models.longformer.modeling_longformer",
    "longserve.export.checkpoint",
    "longserve.serving.runtime.engine",
)
"""What takes seconds to import and does not use the GPU."""
TASK = "text-classification"
_REPEATS, _SECONDS, _WARMING, _KERNELS = 20, 0.6, 0.1, 25
_LEFT = 128 << 20
"""Most bytes that a case may leave on the GPU to the next; else ONNX Runtime's session is loaded anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run: the documents' lengths, packed end to end or padded to the longest."""

    lengths: tuple[int, ...]
    packed: bool

    @property
    def name(self) -> str:
        """E.g. `8 x 512`, or `mixed packed`."""
        if len(set(self.lengths)) > 1:
            return "mixed packed" if self.packed else "mixed padded"
        return f"{len(self.lengths)} x {self.lengths[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a worker process is told.

    Attributes:
        engine: one of `WAYS`.
        device: torch's name of it.
        checkpoint: directory of the stock checkpoint.
        bundle: the one to run; for an engine that runs none any of the checkpoint, or empty.
        folder: where logits are left to compare with, and what an engine writes for itself.
        lengths: tokens of a document.
        batches: documents of one length.
        mixed: tokens of each document of mixed length.
        kernels: also say which kernels took the time.
        only: names of the cases that are left; empty: all.
    """

    engine: str
    device: str
    checkpoint: str
    bundle: str
    folder: str
    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    mixed: tuple[int, ...]
    kernels: bool = False
    only: tuple[str, ...] = ()

    def cases(self) -> list[Case]:
        """The engine's cases, what matters most first, those of one graph together."""
        packed = self.engine in (*OURS, "tensorrt")
        cases = [
            Case(lengths=(length,) * batch, packed=packed)
            for length in self.lengths
            for batch in self.batches
        ]
        mixed = Case(lengths=self.mixed, packed=packed)
        if self.engine in OURS:
            cases = [Case(lengths=self.mixed, packed=False), mixed, *cases]
        else:
            cases.insert(2, mixed)
        return [case for case in cases if not self.only or case.name in self.only]


def manifest_of(told: Work) -> Any:
    """Return the manifest of the bundle, or where there is none, what the checkpoint's would be."""
    from longserve.serving.runtime.bundle import Bundle
    from longserve.serving.runtime.manifest import Task

    if told.bundle:
        return Bundle.open(told.bundle, verify=False).manifest
    from longserve.export.checkpoint import load_checkpoint
    from longserve.export.exporter import ExportSettings, describe_checkpoint

    return describe_checkpoint(load_checkpoint(told.checkpoint, Task(TASK)), ExportSettings())


def sequences_of(case: Case, manifest: Any) -> list[Any]:
    """Draw the documents of a case: the same ones in every process."""
    from longserve.serving.runtime.packing import EncoderSequence

    random = np.random.default_rng(sum(case.lengths))
    legal = np.setdiff1d(np.arange(manifest.vocab_size), list(manifest.special_tokens.values()))
    made = []
    for length in case.lengths:
        mask = np.zeros(length, dtype=np.int64)
        mask[0] = 1
        made.append(EncoderSequence(input_ids=random.choice(legal, length), global_attention_mask=mask))
    return made


def feeds_of(case: Case, manifest: Any) -> dict[str, Any]:
    """Return the inputs of a case."""
    from longserve.serving.runtime.packing import pack, pad

    return (pack if case.packed else pad)(sequences_of(case, manifest), manifest)


Prepared = tuple[Callable[[], Any], Callable[[], Any]]
"""What runs a case once and waits for its end, and what then gives the logits."""


class TorchWay:
    """The stock model in PyTorch."""

    def __init__(self, work: Work, manifest: Any) -> None:
        import torch

        from longserve.export.checkpoint import load_checkpoint
        from longserve.export.cli import quiet_libraries
        from longserve.serving.runtime.manifest import Task

        quiet_libraries()
        torch.backends.cuda.matmul.allow_tf32 = False
        dtype = torch.float32 if work.engine == REFERENCE else torch.float16
        model = load_checkpoint(work.checkpoint, Task(TASK)).model.to(work.device, dtype).eval()
        self.compiled = "compile" in work.engine
        if self.compiled:
            self._refuse_eager()
        self.model = torch.compile(model, dynamic=False) if self.compiled else model
        self.device, self.manifest = work.device, manifest
        self.release(failed=False)  # the weights came as float32

    @staticmethod
    def _refuse_eager() -> None:
        """Have every shape of every layer compiled: past a number of them PyTorch would run eagerly."""
        from torch._dynamo import config

        config.recompile_limit, config.accumulated_recompile_limit = 1000, 10_000
        config.fail_on_recompile_limit_hit = True

    def prepare(self, case: Case) -> Prepared:
        """Put the inputs on the device."""
        import torch

        if self.compiled:
            torch._dynamo.utils.counters.clear()
        feeds = {
            name: torch.from_numpy(array).to(self.device)
            for name, array in feeds_of(case, self.manifest).items()
        }
        held: list[Any] = []

        def run() -> None:
            with torch.inference_mode():
                held[:] = [self.model(**feeds).logits]
            if self.device != "cpu":
                torch.cuda.synchronize()

        def logits() -> Any:
            if self.compiled and not torch._dynamo.utils.counters["stats"]["unique_graphs"]:
                raise RuntimeError("torch.compile compiled nothing, so this was PyTorch without it")
            return held[0].float().cpu().numpy()

        return run, logits

    def release(self, *, failed: bool) -> None:
        """Give back what the case took beside the weights, its compiled code included."""
        import torch

        if self.compiled:
            torch._dynamo.reset()
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()


class OnnxRuntimeWay:
    """A graph in ONNX Runtime, with inputs and outputs on the device."""

    def __init__(self, work: Work, manifest: Any) -> None:
        from longserve.serving.runtime.bundle import Bundle
        from longserve.serving.runtime.engine import CPU_PROVIDER, EngineSettings, OnnxRuntimeEngine
        from longserve.serving.runtime.manifest import Layout

        provider = CPU_PROVIDER if work.device == "cpu" else "CUDAExecutionProvider"
        # on a GPU there is an arena whatever the setting; on a CPU it lets the script be tried as it is
        self.settings = EngineSettings(provider=provider, memory_arena=work.device == "cpu")
        self.manifest, self.device = manifest, work.device
        self.make = OnnxRuntimeEngine
        self.engine: Any = None
        self.bound: Any = None
        self.packed, self.loaded = False, None
        if work.engine == "LongformerAttention":
            from longformer_attention_graph import write_graph

            path = Path(work.folder, "longformer_attention.onnx")
            write_graph(Path(work.checkpoint), path)
            self.paths = {False: path}
        else:
            bundle = Bundle.open(work.bundle, verify=False)
            self.paths = {layout is Layout.PACKED: bundle.model_path(layout) for layout in Layout}

    def prepare(self, case: Case) -> Prepared:
        """Bind the inputs; one session at a time is loaded, for the memory's sake."""
        if self.engine is None or case.packed != self.packed:
            self._forget()
            self.engine, self.packed = self.make(self.paths[case.packed], self.settings), case.packed
            self.loaded = used_memory(self.device)
        bound = self.bound = self.engine.bind(feeds_of(case, self.manifest))
        return bound.run, lambda: bound.outputs()["logits"]

    def release(self, *, failed: bool) -> None:
        """Give back what the case took beside the weights; if that cannot be, the session with it."""
        if failed or not self._shrunk():
            self._forget()
        self.bound = None

    def _forget(self) -> None:
        self.bound = self.engine = None
        gc.collect()

    def _shrunk(self) -> bool:
        """Run once more and have ONNX Runtime give back what its arena does not use then; say if it did."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        place = "cpu:0" if self.device == "cpu" else "gpu:0"
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", place)
        try:
            self.bound._session.run_with_iobinding(self.bound._binding, options)
        except Exception:  # noqa: BLE001  (whatever it is, a new session is as good)
            return False
        used = used_memory(self.device)
        return used is None or self.loaded is None or used - self.loaded <= _LEFT


class TensorRtWay:
    """An engine that `longserve tensorrt` builds here, of the packed graph."""

    def __init__(self, work: Work, manifest: Any) -> None:
        if work.device == "cpu":
            raise RuntimeError("TensorRT runs on GPUs only")
        from longserve.export.tensorrt.builder import BuildSettings, build_engine
        from longserve.serving.runtime.bundle import Bundle
        from longserve.serving.runtime.cuda_device import find_gpu
        from longserve.serving.runtime.engine import open_engine
        from longserve.serving.runtime.engine_settings import EngineSettings
        from longserve.serving.runtime.tensorrt_engine import import_tensorrt
        from longserve.serving.runtime.tensorrt_record import TensorRtLibrary

        self.manifest, target = manifest, Path(work.folder, "tensorrt")
        kind = TensorRtLibrary.TENSORRT
        if not target.exists():  # else it is from a process that ended since
            build_engine(
                Bundle.open(work.bundle, verify=False),
                target,
                kind,
                library=import_tensorrt(kind),
                gpu=find_gpu(),
                settings=BuildSettings(optimization_level=2),
            )
        self.engine = open_engine(target, EngineSettings.of("tensorrt"))

    def prepare(self, case: Case) -> Prepared:
        """The engine copies its inputs and outputs in every run."""
        feeds, held = feeds_of(case, self.manifest), {}

        def run() -> None:
            held.update(self.engine.run(feeds))

        return run, lambda: held["logits"]

    def release(self, *, failed: bool) -> None:
        """An engine's memory is that of the largest shape it was built for, whatever it runs."""


WAYS: dict[str, type[Any]] = {
    REFERENCE: TorchWay,
    "torch fp16": TorchWay,
    "torch.compile fp16": TorchWay,
    **dict.fromkeys(OURS, OnnxRuntimeWay),
    "LongformerAttention": OnnxRuntimeWay,
    "tensorrt": TensorRtWay,
}


def used_memory(device: str) -> int | None:
    """Return the bytes in use on the GPU, by whomever; None on a CPU."""
    if device == "cpu":
        return None
    import torch

    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def timed(run: Callable[[], Any]) -> float:
    """Return the median of a few runs, in seconds, after three or more that warm up and raise the clock."""
    warm, began = 0, time.perf_counter()
    while warm < 3 or time.perf_counter() - began < _WARMING:
        run()
        warm += 1
    seconds: list[float] = []
    while len(seconds) < _REPEATS and (len(seconds) < 3 or sum(seconds) < _SECONDS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def kernels_of(run: Callable[[], Any]) -> list[dict[str, Any]]:
    """Return the GPU's kernels of one run, whoever launched them, those first that take most of the time."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    found = [
        {"kernel": one.key[:120], "runs": one.count, "seconds": one.device_time_total / 1e6}
        for one in profiled.key_averages()
        if one.device_time_total > 0
    ]
    return sorted(found, key=lambda one: -float(one["seconds"]))[:_KERNELS]


def work(told: Work) -> Iterator[dict[str, Any]]:
    """Run one engine's cases; yield each name as it begins, and its record; end where the GPU is spoilt."""
    manifest = manifest_of(told)
    before = used_memory(told.device)
    way = WAYS[told.engine](told, manifest)
    for case in told.cases():
        yield {"begun": case.name}
        record = measured(way, case, told, before)
        yield record
        try:
            way.release(failed="failed" in record)
            used_memory(told.device)
        except Exception:  # noqa: BLE001  (its case has its reason; another process runs the rest)
            return


def measured(way: Any, case: Case, told: Work, before: int | None) -> dict[str, Any]:
    """Return the record of one case; bytes are those on the GPU beyond `before`."""
    record: dict[str, Any] = {"case": case.name, "tokens": sum(case.lengths)}
    try:
        run, logits = way.prepare(case)
        idle = used_memory(told.device)
        record["seconds"] = timed(run)
        after = used_memory(told.device)
        if before is not None and idle is not None and after is not None:
            record |= {"idle_bytes": idle - before, "memory_bytes": after - before}
        record["error"] = difference(Path(told.folder), case, logits(), told.engine)
        if told.kernels and told.device != "cpu":
            record["kernels"] = kernels_of(run)
    except Exception as failure:  # noqa: BLE001  (whatever it is, the other cases go on)
        record["failed"] = shortened(failure)
    return record


def difference(folder: Path, case: Case, logits: Any, engine: str) -> float | None:
    """Return the error against the reference, which keeps its own logits for the others."""
    path = folder / f"{case.name.replace(' packed', '').replace(' padded', '')}.npy"
    if engine == REFERENCE:
        np.save(path, logits)
        return 0.0
    if not path.exists():
        return None
    wanted = np.load(path)
    if not np.isfinite(logits).all():
        return float("inf")
    return float(np.abs(wanted - logits).max() / max(1.0, np.abs(wanted).max()))


def shortened(failure: BaseException) -> str:
    """Return an error in one line."""
    text = " ".join(f"{type(failure).__name__}: {failure}".split())
    return text if len(text) < 300 else f"{text[:297]}..."
