"""The whole GPU table, unattended: speed, memory and error of every way to run a classifier on a GPU.

    python benchmarks/gpu.py --json benchmarks/results/gpu.json

Base and large configuration with random weights, batch 1 and 8, 512 to 4096 tokens: PyTorch eager in fp16
and through torch.compile, our fp16 bundle in ONNX Runtime's CUDA provider (packed; with its local attention
as one operator, and as products) and in TensorRT, and ONNX Runtime's own LongformerAttention operator; and
eight documents of mixed length, packed against padded. Each engine runs in a process of its own, whose GPU
memory is measured from before it loads; the error is the largest difference of a logit from PyTorch in
float32 on the same GPU, over max(1, largest logit).

It ends within `--budget` seconds, the exports, which run at once, included. The engines' processes are forked
off one that has imported what they need; each waits for its turn, so that nothing else runs while one
measures. What matters most is measured first; what could not be measured stands in the table with the
reason, and so do packages, providers and GPUs that are not there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gpu_ways import FUSED, IMPORTED, OURS, REFERENCE, TASK, Work, shortened, work

ENGINES = (
    REFERENCE,
    "torch fp16",
    *OURS,
    "LongformerAttention",
    "tensorrt",
    "torch.compile fp16",
)
"""In the order in which they are run: what the others are compared with first, what takes longest last."""
LENGTHS, BATCHES = (4096, 512, 2048, 1024), (1, 8)
MIXED = (4096, 2048, 1024, 768, 512, 384, 256, 128)
_SHARES = {"torch.compile fp16": 0.9, "tensorrt": 0.4}
"""Most of the time that is left which an engine may take; these two compile."""
_SHARE = 0.6

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(list(IMPORTED))

Sources = tuple[Path, dict[str, Path]]
"""A checkpoint, and its bundle for each of `OURS`."""


class Worker:
    """A process for one engine. It is forked off one that has imported everything and never used the GPU."""

    def __init__(self) -> None:
        self._ours, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(target=serve, args=(theirs,))
        self._process.start()
        theirs.close()  # so that the process's end is seen here

    def run(self, told: Work, seconds: float) -> list[dict[str, Any]]:
        """Let it measure for at most so long; every case gets a record."""
        wanted = [case.name for case in told.cases()]
        if seconds < 1:
            self.stop()
            return [{"case": name, "skipped": "no time was left"} for name in wanted]
        records: list[dict[str, Any]] = []
        deadline = time.monotonic() + seconds
        kind, reason = "skipped", f"the engine took more than its {seconds:.0f} seconds"
        try:
            self._ours.send(told)
            while self._ours.poll(max(0.01, deadline - time.monotonic())):
                record = self._ours.recv()
                if isinstance(record, str):
                    kind, reason = "failed", record
                    break
                records.append(record)
        except (EOFError, OSError):
            self._process.join(timeout=5)
            kind, reason = "failed", f"the process ended with {self._process.exitcode}"
        self.stop()
        known = {record["case"] for record in records}
        return [*records, *({"case": name, kind: reason} for name in wanted if name not in known)]

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def serve(theirs: Connection) -> None:
    """Wait for an engine's turn, and send its records, and why there are no more."""
    try:
        told = theirs.recv()
    except EOFError:  # the table's process is gone
        return
    try:
        for record in work(told):
            theirs.send(record)
        theirs.send("it gave no such case")
    except Exception as failure:  # noqa: BLE001  (whatever it is, it stands in the table)
        theirs.send(shortened(failure))


def measure(
    size: str, workers: dict[str, Worker], sources: Sources, folder: str, chosen: Any, end: float
) -> list[dict[str, Any]]:
    """Give every engine of one size its turn, until `end`."""
    results = []
    checkpoint, bundles = sources
    for engine, worker in workers.items():
        told = Work(
            engine=engine,
            device=chosen.device,
            checkpoint=str(checkpoint),
            bundle=str(bundles[engine] if engine in OURS else next(iter(bundles.values()))),
            logits=folder,
            lengths=tuple(chosen.lengths),
            batches=tuple(chosen.batches),
            mixed=tuple(chosen.mixed),
            kernels=chosen.kernels,
        )
        for record in worker.run(told, (end - time.monotonic()) * _SHARES.get(engine, _SHARE)):
            results.append({"size": size, "engine": engine, **record})
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    return results


def export_all(cache: Path, sizes: list[str]) -> dict[str, Sources]:
    """Export both forms of every size at once."""
    from cached_bundles import cached_bundle, cached_checkpoint

    forms = {"onnxruntime": False, FUSED: True}
    with ThreadPoolExecutor() as pool:
        checkpoints = dict(
            zip(sizes, pool.map(lambda size: cached_checkpoint(cache, size, TASK), sizes), strict=True)
        )
        exports = {
            (size, engine): pool.submit(cached_bundle, cache, size, TASK, "fp16", fused_attention=fused)
            for size in sizes
            for engine, fused in forms.items()
        }
        return {
            size: (checkpoints[size], {engine: exports[size, engine].result() for engine in forms})
            for size in sizes
        }


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

    def add(size: str, what: str, goal: float, theirs: float | None, ours: float | None) -> None:
        made.append(
            {"size": size, "what": what, "goal": goal, "ratio": theirs / ours if ours and theirs else None}
        )

    for size in dict.fromkeys(one["size"] for one in results):
        own = [engine for engine in OURS if any(known[:2] == (size, engine) for known in seconds)]
        cases = {case for known, _, case in seconds if known == size and " x " in case}
        longest = max((int(case.split()[-1]) for case in cases), default=0)
        for engine in own:
            for case in sorted(case for case in cases if int(case.split()[-1]) == longest):
                for other, goal in (
                    ("torch fp16", 3.0),
                    ("torch.compile fp16", 1.0),
                    ("LongformerAttention", 1.0),
                ):
                    theirs, ours = seconds.get((size, other, case)), seconds.get((size, engine, case))
                    add(size, f"{engine} over {other}, {case}", goal, theirs, ours)
            padded, packed = (seconds.get((size, engine, f"mixed {how}")) for how in ("padded", "packed"))
            add(size, f"{engine}, mixed lengths, packed over padded", 2.0, padded, packed)
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
    parser.add_argument("--size", choices=("base", "large"), action="append", help="Default: both.")
    parser.add_argument(
        "--checkpoint", type=Path, help="Measure this one, with --bundle, in place of --size."
    )
    parser.add_argument("--bundle", type=Path, help="Exported from --checkpoint.")
    parser.add_argument(
        "--fused-bundle", type=Path, help=f"For the engine {FUSED!r}: with --fused-attention."
    )
    parser.add_argument("--engine", dest="engines", choices=ENGINES, action="append", help="Default: all.")
    parser.add_argument("--length", dest="lengths", type=int, action="append")
    parser.add_argument("--batch", dest="batches", type=int, action="append")
    parser.add_argument("--mixed", type=int, nargs="+", default=list(MIXED))
    parser.add_argument("--budget", type=float, default=450, help="Seconds for everything.")
    parser.add_argument("--kernels", action="store_true", help="Also say which GPU kernels take the time.")
    parser.add_argument("--cpu", action="store_true", help="Run on the CPU, to try the script out.")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    end = time.monotonic() + chosen.budget
    own = {
        name: path for name, path in (("onnxruntime", chosen.bundle), (FUSED, chosen.fused_bundle)) if path
    }
    if (chosen.checkpoint is not None) != bool(own):
        parser.error("--checkpoint and its bundles (--bundle, --fused-bundle) go together; give both or none")
    there = [engine for engine in ENGINES if not own or engine not in OURS or engine in own]
    chosen.engines = [engine for engine in ENGINES if engine in (chosen.engines or there)]
    if not set(chosen.engines) <= set(there):
        parser.error(f"there is no bundle for {', '.join(set(chosen.engines) - set(there))}; give it")
    chosen.lengths, chosen.batches = chosen.lengths or list(LENGTHS), chosen.batches or list(BATCHES)
    chosen.device, gpu = ("cpu", "") if chosen.cpu else find_device()
    if chosen.device == "cpu" and not chosen.cpu:
        sys.exit(
            "this machine has no GPU that PyTorch can use, so nothing was measured (--cpu tries the script)"
        )
    from cached_bundles import DEFAULT_CACHE

    from longserve.export.bench.machine import describe_machine, library_versions

    sizes = ["own"] if own else chosen.size or ["base", "large"]
    results = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        workers: dict[str, dict[str, Worker]] = {size: {} for size in sizes}
        for size in sizes:
            for engine in chosen.engines:
                workers[size][engine] = Worker()
                stack.callback(workers[size][engine].stop)
        sources = (
            {"own": (chosen.checkpoint, own)} if own else export_all(chosen.cache or DEFAULT_CACHE, sizes)
        )
        for index, size in enumerate(sizes):
            room, now = Path(folder, size), time.monotonic()
            room.mkdir()
            until = now + (end - now) / (len(sizes) - index)
            results += measure(size, workers[size], sources[size], str(room), chosen, until)
    ratios = goals(results)
    show(results, ratios)
    if chosen.json:
        report = {"gpu": gpu, "machine": asdict(describe_machine()), "versions": library_versions()}
        report |= {"goals": ratios, "results": results}
        chosen.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
