"""The whole GPU table, unattended: speed, memory and error of every way to run a classifier on a GPU.

    python benchmarks/gpu.py --json benchmarks/results/gpu.json

Base and large configuration with random weights, batch 1 and 8, 512 to 4096 tokens: PyTorch eager in fp16
and through torch.compile, our fp16 bundle in ONNX Runtime's CUDA provider (packed) and in TensorRT, and
ONNX Runtime's own LongformerAttention operator; and eight documents of mixed length, packed against padded.
Each engine runs in a process of its own, whose GPU memory is measured from before it loads; the error is the
largest difference of a logit from PyTorch in float32 on the same GPU, over max(1, largest logit).

It ends within `--budget` seconds. What matters most is measured first; what could not be measured stands in
the table with the reason, and so do packages, providers and GPUs that are not there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import numpy as np

REFERENCE = "torch fp32"
ENGINES = (REFERENCE, "torch fp16", "onnxruntime", "tensorrt", "LongformerAttention", "torch.compile fp16")
"""In the order in which they are run: what the others are compared with first, what takes longest last."""
LENGTHS, BATCHES = (4096, 512, 2048, 1024), (1, 8)
MIXED = (4096, 2048, 1024, 768, 512, 384, 256, 128)
_SHARES = {"torch.compile fp16": 0.5, "tensorrt": 0.6}
"""Most of the time that is left which an engine may take: these two compile."""
_REPEATS, _SECONDS = 20, 0.6
TASK = "text-classification"


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

    def cases(self) -> list[Case]:
        """The engine's cases, what matters most first."""
        packed = self.engine in ("onnxruntime", "tensorrt")
        cases = [
            Case(lengths=(length,) * batch, packed=packed)
            for length in self.lengths
            for batch in self.batches
        ]
        mixed = [Case(lengths=self.mixed, packed=packed)]
        if self.engine == "onnxruntime":
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
        self.model = torch.compile(model) if "compile" in work.engine else model
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
    "onnxruntime": OnnxRuntimeWay,
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


def run_worker(told: Work, seconds: float) -> list[dict[str, Any]]:
    """Run one engine in a process of its own for at most so long; every case gets a record."""
    wanted = [case.name for case in told.cases()]
    if seconds < 1:
        return [{"case": name, "skipped": "no time was left"} for name in wanted]
    command = [sys.executable, __file__, "--worker", json.dumps(asdict(told))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    lines: Queue[str | None] = Queue()
    said: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    readers = [
        threading.Thread(target=read, daemon=True),
        threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True),
    ]
    for reader in readers:
        reader.start()
    records, reason, deadline = [], "", time.monotonic() + seconds
    while True:
        try:
            line = lines.get(timeout=max(0.01, deadline - time.monotonic()))
        except Empty:
            reason = f"the engine took more than its {seconds:.0f} seconds"
            break
        if line is None:
            break
        if line.startswith("{"):
            records.append(json.loads(line))
    process.kill()
    process.wait()
    readers[1].join(timeout=1)
    if not reason:
        reason = " ".join(said[-1].split())[:300] if said else f"the process ended with {process.returncode}"
    known = {record["case"] for record in records}
    kind = "skipped" if "seconds" in reason and "took more" in reason else "failed"
    return [*records, *({"case": name, kind: reason} for name in wanted if name not in known)]


def measure(
    size: str, device: str, checkpoint: Path, bundle: Path, chosen: Any, end: float
) -> list[dict[str, Any]]:
    """Run every engine on one size until `end`."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for engine in ENGINES:
            if engine not in chosen.engines:
                continue
            told = Work(
                engine=engine,
                device=device,
                checkpoint=str(checkpoint),
                bundle=str(bundle),
                logits=folder,
                lengths=tuple(chosen.lengths),
                batches=tuple(chosen.batches),
                mixed=tuple(chosen.mixed),
            )
            left = (end - time.monotonic()) * _SHARES.get(engine, 0.9)
            for record in run_worker(told, left):
                results.append({"size": size, "engine": engine, **record})
                print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    return results


def find_device() -> tuple[str, str]:
    """Return torch's name of the device and what it is."""
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.cuda.get_device_name(0)
    return "cpu", ""


def goals(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the ratios that the project promises, with what was measured; None: it could not be."""
    seconds = {(one["size"], one["engine"], one["case"]): one.get("seconds") for one in results}
    made = []
    for size in dict.fromkeys(one["size"] for one in results):
        longest = [case for _, _, case in seconds if case.startswith("1 x ")]
        case = max(longest, key=lambda name: int(name.split()[-1])) if longest else ""
        ours = seconds.get((size, "onnxruntime", case))
        for other, goal in (("torch fp16", 3.0), ("torch.compile fp16", 1.0), ("LongformerAttention", 1.0)):
            theirs = seconds.get((size, other, case))
            ratio = theirs / ours if ours and theirs else None
            made.append(
                {"size": size, "what": f"onnxruntime over {other}, {case}", "goal": goal, "ratio": ratio}
            )
        packed = seconds.get((size, "onnxruntime", "mixed packed"))
        padded = seconds.get((size, "onnxruntime", "mixed padded"))
        ratio = padded / packed if packed and padded else None
        made.append({"size": size, "what": "mixed lengths, packed over padded", "goal": 2.0, "ratio": ratio})
    return made


def show(results: list[dict[str, Any]], ratios: list[dict[str, Any]]) -> None:
    """Print both as tables."""
    from rich.console import Console
    from rich.table import Table

    table = Table("size", "engine", "case", "ms", "tokens/s", "MB on the GPU", "error", "why not")
    for one in results:
        seconds, error, memory = one.get("seconds"), one.get("error"), one.get("memory_bytes")
        table.add_row(
            one["size"],
            one["engine"],
            one["case"],
            f"{1e3 * seconds:.2f}" if seconds else "",
            f"{one['tokens'] / seconds:,.0f}" if seconds else "",
            "" if memory is None else f"{memory / 1e6:,.0f}",
            "" if error is None else f"{error:.1e}",
            one.get("failed") or one.get("skipped") or "",
        )
    console = Console(width=None if Console().is_terminal else 150)
    console.print(table)
    promised = Table("size", "times faster", "goal", "measured")
    for one in ratios:
        measured = "not measured" if one["ratio"] is None else f"{one['ratio']:.2f}"
        promised.add_row(one["size"], one["what"], f"{one['goal']:.1f}", measured)
    console.print(promised)


def main() -> None:
    """Measure; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=("base", "large"), action="append", help="Default: both.")
    parser.add_argument(
        "--checkpoint", type=Path, help="Measure this one, with --bundle, in place of --size."
    )
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--engine", dest="engines", choices=ENGINES, action="append", help="Default: all.")
    parser.add_argument("--length", dest="lengths", type=int, action="append")
    parser.add_argument("--batch", dest="batches", type=int, action="append")
    parser.add_argument("--mixed", type=int, nargs="+", default=list(MIXED))
    parser.add_argument("--budget", type=float, default=450, help="Seconds for everything but the exports.")
    parser.add_argument("--cpu", action="store_true", help="Run on the CPU, to try the script out.")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.worker:
        told = json.loads(chosen.worker)
        made = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
        for record in work(Work(**made)):
            print(json.dumps(record), flush=True)
        return
    chosen.engines = chosen.engines or list(ENGINES)
    chosen.lengths, chosen.batches = chosen.lengths or list(LENGTHS), chosen.batches or list(BATCHES)
    device, gpu = ("cpu", "") if chosen.cpu else find_device()
    if device == "cpu" and not chosen.cpu:
        sys.exit(
            "this machine has no GPU that PyTorch can use, so nothing was measured (--cpu tries the script)"
        )
    from cached_bundles import DEFAULT_CACHE, cached_bundle, cached_checkpoint

    from longserve.export.bench.machine import describe_machine, library_versions

    cache, sources = chosen.cache or DEFAULT_CACHE, {}
    if chosen.checkpoint:
        sources["own"] = (chosen.checkpoint, chosen.bundle)
    for size in [] if chosen.checkpoint else chosen.size or ("base", "large"):
        sources[size] = (cached_checkpoint(cache, size, TASK), cached_bundle(cache, size, TASK, "fp16"))
    results, end = [], time.monotonic() + chosen.budget
    for index, (size, (checkpoint, bundle)) in enumerate(sources.items()):
        now = time.monotonic()
        until = now + (end - now) / (len(sources) - index)
        results += measure(size, device, checkpoint, bundle, chosen, until)
    ratios = goals(results)
    show(results, ratios)
    if chosen.json:
        report = {"gpu": gpu, "machine": asdict(describe_machine()), "versions": library_versions()}
        report |= {"goals": ratios, "results": results}
        chosen.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
