"""The whole GPU table, unattended: speed, memory and error of every way to run a classifier on a GPU.

    python benchmarks/gpu.py --json benchmarks/results/gpu.json

Base and large configuration with random weights, batch 1 and 8, 512 to 4096 tokens: PyTorch eager in fp16
and through torch.compile, our fp16 bundle in ONNX Runtime's CUDA provider (packed; with its local attention
as one operator, and as products) and in TensorRT, and ONNX Runtime's own LongformerAttention operator; and
eight documents of mixed length, packed against padded. The error is the largest difference of a logit from
PyTorch in float32 on the same GPU, over max(1, largest logit).

Memory is what an engine's process holds on the GPU after a case, over what was in use before the engine
loaded: weights, and what that case's runs needed, as PyTorch's allocator and ONNX Runtime's arena keep it.
Before each case both give back what the last one left; ONNX Runtime's session is loaded anew where more than
128 MiB would stay, and for the padded graph. TensorRT's is that of the largest shape it was built for. The
GPU's context is not in it.

It ends within `--budget` seconds, exports included. These run first, all sizes at once, for at most half of
that; nothing else runs while an engine measures. The engines' processes are forked off one that has imported
what they need. One that crashes or spoils its GPU context is followed by another for the cases that are left.
What matters most is measured first, and the JSON file is written anew after every case. What could not be
measured stands in the table with the reason: exports, packages, providers and GPUs that are not there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import forkserver
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
_EXPORTS = 0.5
"""Most of the budget that the exports may take."""

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(list(IMPORTED))

Made = Path | str
"""A directory, or why it could not be made."""
Sources = tuple[Made, dict[str, Made]]
"""A checkpoint, and its bundle for each of `OURS` that an engine needs."""


class Worker:
    """A process for one engine. It is forked off one that has imported everything and never used the GPU."""

    def __init__(self) -> None:
        self._ours, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(target=serve, args=(theirs,))
        self._process.start()
        theirs.close()  # so that the process's end is seen here
        self.ended: dict[str, str] | None = None
        """Why there are no more records; None: another process may go on."""

    def records(self, told: Work, seconds: float) -> Iterator[dict[str, Any]]:
        """Let it measure for at most so long; yield the records that it gives."""
        deadline = time.monotonic() + seconds
        begun, some = "", False
        try:
            self._ours.send(told)
            while self._ours.poll(max(0.01, deadline - time.monotonic())):
                said = self._ours.recv()
                if "case" in said:
                    begun, some = "", True
                    yield said
                elif "begun" in said:
                    begun = said["begun"]
                else:
                    self.ended = said
                    return
            self.ended = {"skipped": f"its time was up after {seconds:.0f} seconds"}
        except (EOFError, OSError):
            self._process.join(timeout=5)
            reason = {"failed": f"the process ended with {self._process.exitcode}"}
            if begun:
                yield {"case": begun, **reason}
            elif not some:
                self.ended = reason

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join(timeout=10)  # one that hangs in the GPU's driver cannot be ended


def serve(theirs: Connection) -> None:
    """Wait for an engine's turn, and send its records, and why there are none."""
    try:
        told = theirs.recv()
    except EOFError:  # the table's process is gone
        return
    try:
        for record in work(told):
            theirs.send(record)
    except Exception as failure:  # noqa: BLE001  (whatever it is, it stands in the table)
        theirs.send({"failed": shortened(failure)})


def run_engine(told: Work, seconds: float) -> Iterator[dict[str, Any]]:
    """Give an engine its turn, of at most so long; yield a record of every case."""
    deadline = time.monotonic() + seconds
    left = [case.name for case in told.cases()]
    ended = None
    while left and not ended:
        if deadline - time.monotonic() < 1:
            ended = {"skipped": "no time was left"}
            break
        worker = Worker()
        try:
            for record in worker.records(replace(told, only=tuple(left)), deadline - time.monotonic()):
                left.remove(record["case"])
                yield record
                if not left:
                    break
        finally:
            worker.stop()
        ended = worker.ended
    yield from ({"case": name, **(ended or {})} for name in left)


def measure(size: str, sources: Sources, folder: Path, chosen: Any, end: float) -> Iterator[dict[str, Any]]:
    """Give every engine of one size its turn, until `end`; yield a record of every case."""
    checkpoint, bundles = sources
    made = {engine: str(bundle) for engine, bundle in bundles.items() if isinstance(bundle, Path)}
    for engine in chosen.engines:
        own = bundle_for(engine, list(bundles))
        told = Work(
            engine=engine,
            device=chosen.device,
            checkpoint=str(checkpoint),
            bundle=made.get(own) or next(iter(made.values()), ""),
            folder=str(folder),
            lengths=tuple(chosen.lengths),
            batches=tuple(chosen.batches),
            mixed=tuple(chosen.mixed),
            kernels=chosen.kernels,
        )
        reason = (
            checkpoint if isinstance(checkpoint, str) else bundles[own] if own and own not in made else ""
        )
        if reason:
            records = iter([{"case": case.name, "failed": reason} for case in told.cases()])
        else:
            records = run_engine(told, (end - time.monotonic()) * _SHARES.get(engine, _SHARE))
        for record in records:
            yield {"size": size, "engine": engine, **record}


def bundle_for(engine: str, forms: list[str]) -> str:
    """Return whose bundle of these, the engines of `OURS`, an engine runs; empty: it runs none."""
    if engine == "tensorrt":
        return next(iter(forms), "")
    return engine if engine in OURS else ""


def export_all(cache: Path, sizes: list[str], engines: list[str], seconds: float) -> dict[str, Sources]:
    """Export what the engines need, of every size, at once and within so many seconds."""
    from cached_bundles import NotMade, cached_bundle, cached_checkpoint

    end = time.monotonic() + seconds
    needed = {bundle_for(engine, ["onnxruntime"]) for engine in engines}
    forms = [form for form in ("onnxruntime", FUSED) if form in needed]

    def attempt(make: Callable[..., Path], *what: Any, **how: Any) -> Made:
        try:
            return make(cache, *what, **how, seconds=max(0.0, end - time.monotonic()))
        except (Exception, NotMade) as failure:  # noqa: BLE001  (whatever it is, it stands in the table)
            return shortened(failure)

    with ThreadPoolExecutor(len(sizes) * len(OURS)) as pool:
        checkpoints = list(pool.map(lambda size: attempt(cached_checkpoint, size, TASK), sizes))
        exports = {
            (size, form): pool.submit(
                attempt, cached_bundle, size, TASK, "fp16", fused_attention=form == FUSED
            )
            for size, checkpoint in zip(sizes, checkpoints, strict=True)
            if isinstance(checkpoint, Path)
            for form in forms
        }
    return {
        size: (checkpoint, {form: exports[size, form].result() for form in forms if (size, form) in exports})
        for size, checkpoint in zip(sizes, checkpoints, strict=True)
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
    from rich.markup import escape
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
            escape(one.get("failed") or one.get("skipped") or ""),
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
    chosen.lengths = list(dict.fromkeys(chosen.lengths or LENGTHS))
    chosen.batches = list(dict.fromkeys(chosen.batches or BATCHES))
    if len(set(chosen.mixed)) < 2:
        parser.error(f"--mixed is {' '.join(map(str, chosen.mixed))}; give at least two different lengths")
    chosen.device, gpu = ("cpu", "") if chosen.cpu else find_device()
    if chosen.device == "cpu" and not chosen.cpu:
        sys.exit(
            "this machine has no GPU that PyTorch can use, so nothing was measured (--cpu tries the script)"
        )
    forkserver.ensure_running()  # it imports while the exports run
    from cached_bundles import DEFAULT_CACHE

    from longserve.export.bench.machine import describe_machine, library_versions

    report: dict[str, Any] = {"gpu": gpu, "machine": asdict(describe_machine())}
    report |= {"versions": library_versions(), "goals": [], "results": []}
    results = report["results"]
    write(chosen.json, report)
    sizes = ["own"] if own else list(dict.fromkeys(chosen.size or ["base", "large"]))
    sources: dict[str, Sources] = {"own": (chosen.checkpoint, dict(own))}
    if not own:
        cache = chosen.cache or DEFAULT_CACHE
        sources = export_all(cache, sizes, chosen.engines, (end - time.monotonic()) * _EXPORTS)
    with tempfile.TemporaryDirectory() as folder:
        for index, size in enumerate(sizes):
            room, now = Path(folder, size), time.monotonic()
            room.mkdir()
            until = now + (end - now) / (len(sizes) - index)
            for one in measure(size, sources[size], room, chosen, until):
                results.append(one)
                print(json.dumps(one), file=sys.stderr, flush=True)
                report["goals"] = goals(results)
                write(chosen.json, report)
    show(results, report["goals"])


def write(target: Path | None, report: dict[str, Any]) -> None:
    """Replace the file at once, so that whoever ends this script leaves a whole one."""
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = target.with_name(f"{target.name}.part")
        stage.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        stage.replace(target)


if __name__ == "__main__":
    main()
