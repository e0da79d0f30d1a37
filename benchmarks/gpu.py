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
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from gpu_ways import REFERENCE, TASK, Work, work

ENGINES = (REFERENCE, "torch fp16", "onnxruntime", "tensorrt", "LongformerAttention", "torch.compile fp16")
"""In the order in which they are run: what the others are compared with first, what takes longest last."""
LENGTHS, BATCHES = (4096, 512, 2048, 1024), (1, 8)
MIXED = (4096, 2048, 1024, 768, 512, 384, 256, 128)
_SHARES = {"torch.compile fp16": 0.5, "tensorrt": 0.6}
"""Most of the time that is left which an engine may take: these two compile."""


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
