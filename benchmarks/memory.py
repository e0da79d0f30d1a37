"""Resident memory: of one session at full length against stock PyTorch's, and its growth over many runs.

    python benchmarks/memory.py --json results.json
    python benchmarks/memory.py --soak 10000 --engines onnxruntime,openvino --json results.json

Every engine runs in a process of its own, one after the other. First at `--length` tokens: memory when
loaded, the peak (VmHWM), and what of it belongs to no file (mapped weights do not count there). Then the
bundles' engines run `--soak` inputs of long-tailed lengths, with and without keeping freed memory between
runs (ONNX Runtime's arena; OpenVINO's pools), and what is resident is read ten times on the way.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from cached_bundles import DEFAULT_CACHE, cached_bundle, cached_checkpoint
from export_real_sizes import SIZES
from mixed_lengths import mixed_lengths
from rich.console import Console
from rich.table import Table

from longserve.export.bench import BenchError, BenchSettings, Case, EngineKind, EngineSpec, plan_engines
from longserve.export.bench.engine_process import EngineProcess
from longserve.export.bench.machine import describe_machine, library_versions
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.manifest import Layout

READINGS = 10
GOALS = {"fp32": 0.6, "int8": 0.35}
"""Most of the peak at 4096 tokens, as a part of stock PyTorch's."""
DEFAULT_ENGINES = (EngineKind.TORCH, EngineKind.TORCH_BF16, EngineKind.ONNXRUNTIME, EngineKind.OPENVINO)


def measure_peak(spec: EngineSpec, case: Case, timeout: float) -> dict[str, Any]:
    """Load an engine and run one case three times."""
    with EngineProcess(spec, timeout=timeout) as process:
        loaded = process.loaded["memory"]
        prepared = process.ask("prepare", case=asdict(case), seed=0, warmup=1)["memory"]
        ran = process.ask("run", seconds=60, most=1)["memory"]
    return {
        "engine": spec.name,
        "precision": spec.precision,
        "loaded_bytes": loaded["resident"],
        "peak_bytes": max(loaded["peak"], prepared["peak"], ran["peak"]),
        "private_bytes": ran["private"],
    }


def soak(spec: EngineSpec, lengths: list[int], global_tokens: int, timeout: float) -> dict[str, Any]:
    """Run one input of each length and read what is resident ten times on the way."""
    size = -(-len(lengths) // READINGS)
    readings = []
    with EngineProcess(spec, timeout=timeout) as process:
        for start in range(0, len(lengths), size):
            cases = [
                {"length": length, "batch": 1, "global_tokens": min(global_tokens, length)}
                for length in lengths[start : start + size]
            ]
            memory = process.ask("soak", cases=cases, seed=start)["memory"]
            readings.append({"runs": start + len(cases), **memory})
    # the first reading has seen few long inputs: what counts is whether it goes on after the longest
    return {
        "engine": spec.name,
        "keeps_memory": spec.memory_arena,
        "readings": readings,
        "growth_bytes_second_half": readings[-1]["resident"] - readings[len(readings) // 2 - 1]["resident"],
        "peak_bytes": max(reading["peak"] for reading in readings),
    }


def print_peaks(peaks: list[dict[str, Any]], case: Case) -> None:
    """Print the peaks, relative to the first engine's."""
    table = Table(title=f"one session at {case.length} tokens, MB", title_justify="left")
    table.add_column("engine", overflow="fold")
    for heading in ("loaded", "peak", "of the first", "goal", "private"):
        table.add_column(heading, justify="right")
    for row in peaks:
        table.add_row(
            row["engine"],
            f"{row['loaded_bytes'] / 1e6:.0f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
            f"{row['of_first']:.2f}",
            "" if row["goal"] is None else f"{row['goal']:.2f}",
            f"{row['private_bytes'] / 1e6:.0f}",
        )
    Console(width=None if Console().is_terminal else 120).print(table)


def print_soaks(soaks: list[dict[str, Any]], runs: int) -> None:
    """Print how the resident memory went."""
    table = Table(title=f"resident after a part of {runs} runs of mixed lengths, MB", title_justify="left")
    table.add_column("engine", overflow="fold")
    for heading in ("keeps freed", "10 %", "50 %", "100 %", "growth of 2nd half", "peak"):
        table.add_column(heading, justify="right")
    for row in soaks:
        resident = [reading["resident"] / 1e6 for reading in row["readings"]]
        table.add_row(
            row["engine"],
            "yes" if row["keeps_memory"] else "no",
            *(f"{resident[index]:.0f}" for index in (0, len(resident) // 2 - 1, -1)),
            f"{row['growth_bytes_second_half'] / 1e6:+.1f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
        )
    Console(width=None if Console().is_terminal else 120).print(table)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="base", choices=sorted(SIZES))
    parser.add_argument("--precisions", default="fp32,int8", help="of the bundles: fp32, int8")
    parser.add_argument("--layout", default="packed", choices=[layout.value for layout in Layout])
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--engines", help=f"of {', '.join(kind.value for kind in EngineKind)}")
    parser.add_argument("--soak", type=int, default=200, help="runs of mixed lengths; 0: none")
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds that one step may take")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument(
        "--bundle", type=Path, action="append", help="own bundles instead of random weights of --size"
    )
    parser.add_argument("--reference", help="the checkpoint of --bundle")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def plan(chosen: argparse.Namespace) -> tuple[list[EngineSpec], Case, BenchSettings]:
    """Make or open the bundles and list the engines, stock PyTorch first."""
    task = "text-classification"
    paths, reference = chosen.bundle, chosen.reference
    if paths is None:
        paths = [cached_bundle(chosen.cache, chosen.size, task, p) for p in chosen.precisions.split(",")]
        reference = str(cached_checkpoint(chosen.cache, chosen.size, task))
    kinds = DEFAULT_ENGINES if chosen.engines is None else tuple(map(EngineKind, chosen.engines.split(",")))
    bundles = [Bundle.open(path, verify=False) for path in paths]
    settings = BenchSettings(
        lengths=(min(chosen.length, bundles[0].manifest.max_length),),
        layouts=(Layout(chosen.layout),),
        engines=kinds,
        threads=chosen.threads,
        timeout=chosen.timeout,
    )
    (case,) = settings.cases(bundles[0].manifest)
    return plan_engines(bundles, settings, reference=reference), case, settings


def main() -> None:
    """Measure, print and write."""
    chosen = parse_arguments()
    try:
        engines, case, settings = plan(chosen)
        peaks = [measure_peak(spec, case, settings.timeout) for spec in engines]
        for row in peaks:
            row["of_first"] = row["peak_bytes"] / peaks[0]["peak_bytes"]
            row["goal"] = None if row["engine"].startswith("torch") else GOALS.get(row["precision"])
        print_peaks(peaks, case)
        soaks = []
        if chosen.soak:
            lengths = mixed_lengths(chosen.soak, longest=case.length)
            soaks = [
                soak(
                    dataclasses.replace(spec, memory_arena=keeps),
                    lengths,
                    case.global_tokens,
                    settings.timeout,
                )
                for spec in engines
                if spec.kind in (EngineKind.ONNXRUNTIME, EngineKind.OPENVINO)
                for keeps in (False, True)
            ]
            print_soaks(soaks, chosen.soak)
    except BenchError as error:
        sys.exit(str(error))
    if chosen.json is not None:
        report = {
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": sys.argv,
            "machine": asdict(describe_machine()),
            "versions": library_versions(),
            "case": asdict(case),
            "peaks": peaks,
            "soaks": soaks,
        }
        chosen.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
