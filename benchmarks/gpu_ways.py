"""What runs on the GPU in `gpu.py`: one engine and its cases, in a process of its own."""

from __future__ import annotations

import statistics
import tempfile
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
_REPEATS, _SECONDS, _KERNELS = 20, 0.6, 25


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
    """What a worker process is told."""

    engine: str
    device: str
    checkpoint: str
    bundle: str
    logits: str
    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    mixed: tuple[int, ...]
    kernels: bool = False

    def cases(self) -> list[Case]:
        """The engine's cases, what matters most first."""
        packed = self.engine in (*OURS, "tensorrt")
        cases = [
            Case(lengths=(length,) * batch, packed=packed)
            for length in self.lengths
            for batch in self.batches
        ]
        mixed = [Case(lengths=self.mixed, packed=packed)]
        if self.engine in OURS:
            mixed.append(Case(lengths=self.mixed, packed=False))
        return [*cases[:2], *mixed, *cases[2:]]


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
        self.model = torch.compile(model, dynamic=False) if "compile" in work.engine else model
        self.device, self.manifest = work.device, manifest

    def prepare(self, case: Case) -> Prepared:
        """Put the inputs on the device."""
        import torch

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

        return run, lambda: held[0].float().cpu().numpy()


class OnnxRuntimeWay:
    """A graph in ONNX Runtime, with inputs and outputs on the device."""

    def __init__(self, work: Work, manifest: Any) -> None:
        from longserve.serving.runtime.bundle import Bundle
        from longserve.serving.runtime.engine import CPU_PROVIDER, EngineSettings, OnnxRuntimeEngine
        from longserve.serving.runtime.manifest import Layout

        provider = CPU_PROVIDER if work.device == "cpu" else "CUDAExecutionProvider"
        self.settings, self.manifest = EngineSettings(provider=provider), manifest
        self.make = OnnxRuntimeEngine
        bundle = Bundle.open(work.bundle, verify=False)
        self.paths = {layout is Layout.PACKED: bundle.model_path(layout) for layout in Layout}
        self.engines: dict[bool, Any] = {}
        if work.engine == "LongformerAttention":
            from longformer_attention_graph import write_graph

            self.folder = tempfile.TemporaryDirectory()
            path = Path(self.folder.name, "model.onnx")
            write_graph(Path(work.checkpoint), path)
            self.paths = {False: path}

    def prepare(self, case: Case) -> Prepared:
        """Bind the inputs; one engine at a time is loaded, for the memory's sake."""
        if case.packed not in self.engines:
            self.engines.clear()
            self.engines[case.packed] = self.make(self.paths[case.packed], self.settings)
        bound = self.engines[case.packed].bind(feeds_of(case, self.manifest))
        return bound.run, lambda: bound.outputs()["logits"]


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

        self.manifest, self.folder = manifest, tempfile.TemporaryDirectory()
        target = Path(self.folder.name, "engine")
        kind = TensorRtLibrary.TENSORRT
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
    """Return the median of a few runs, in seconds, after three that warm up."""
    for _ in range(3):
        run()
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
    """Run one engine's cases; yield a record of each as soon as it is there."""
    from longserve.serving.runtime.bundle import Bundle

    manifest = Bundle.open(told.bundle, verify=False).manifest
    before = used_memory(told.device)
    way = WAYS[told.engine](told, manifest)
    for case in told.cases():
        record: dict[str, Any] = {"case": case.name, "tokens": sum(case.lengths)}
        try:
            run, logits = way.prepare(case)
            record["seconds"] = timed(run)
            record["error"] = difference(Path(told.logits), case, logits(), told.engine)
            if told.kernels and told.device != "cpu":
                record["kernels"] = kernels_of(run)
        except Exception as failure:  # noqa: BLE001  (whatever it is, the other cases go on)
            record["failed"] = shortened(failure)
        after = used_memory(told.device)
        if before is not None and after is not None:
            record["memory_bytes"] = after - before
        yield record


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
