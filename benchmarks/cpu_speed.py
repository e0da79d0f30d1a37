"""Speed of the real configurations on this CPU: every engine, against stock PyTorch in float32.

    python benchmarks/cpu_speed.py --json results.json
    python benchmarks/cpu_speed.py --task question-answering --json results.json
    python benchmarks/cpu_speed.py --size large --json results.json

The weights are random: time and memory do not depend on their values. Checkpoints and bundles are made once
and kept in `--cache`. Beside the tables of `longserve bench` it prints, per length and precision, the fastest
engine that runs a bundle, its ratio to PyTorch with the goal, its ratio to PyTorch under bf16 autocast, and
which part of its time the matrix products alone would take; and how the time per token grows with the length.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cached_bundles import DEFAULT_CACHE, cached_bundle, cached_checkpoint
from export_real_sizes import SIZES
from rich.console import Console
from rich.table import Table

from longserve.export.bench import (
    BenchSettings,
    Case,
    EngineKind,
    EngineSpec,
    Measurement,
    Report,
    plan_engines,
    run_benchmark,
)
from longserve.export.bench.plots import check_plotting, write_plots
from longserve.export.bench.table import print_report
from longserve.export.progress import TerminalProgress
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.manifest import Layout

PRECISIONS = ("fp32", "bf16", "int8")
GOALS: dict[int, dict[str, float]] = {
    128: {"fp32": 6.0, "bf16": 12.0, "int8": 14.0},
    512: {"fp32": 2.3, "bf16": 4.4, "int8": 6.0},
    1024: {"fp32": 2.4, "bf16": 4.5, "int8": 6.0},
    2048: {"fp32": 2.6, "bf16": 5.0, "int8": 7.0},
    4096: {"fp32": 2.8, "bf16": 5.3, "int8": 8.0},
}
"""Times faster than stock PyTorch in float32, by tokens and precision: batch 1, base size, all cores."""
GROWTH_GOAL = 1.15
"""Most of the time per token at 4096 tokens over that at 1024."""


def fastest(report: Report, case: Case, kinds: tuple[EngineKind, ...], precision: str) -> Measurement | None:
    """Return the fastest engine of those kinds in a precision, None if none gave a figure."""
    found = [
        measurement
        for record in report.engines
        if record.spec.kind in kinds and record.spec.precision == precision
        for measurement in [report.measurement(record.spec.name, case)]
        if measurement.seconds is not None
    ]
    return min(found, key=median_seconds, default=None)


def limit(report: Report, case: Case, precision: str) -> float | None:
    """Return the least seconds that the matrix products alone take in a precision, whoever computes them.

    The linear layers are in that precision. Attention's own products are in fp32, or, beside bf16 and int8
    linear layers, in bf16 where that is faster.
    """
    parts = [
        (record.spec.precision, report.measurement(record.spec.name, case).parts)
        for record in report.engines
        if record.spec.kind is EngineKind.PRODUCTS
    ]
    allowed = ("fp32",) if precision == "fp32" else PRECISIONS
    linear = [found["linear"] for kind, found in parts if found and kind == precision]
    attention = [found["attention"] for kind, found in parts if found and kind in allowed]
    return min(linear) + min(attention) if linear and attention else None


def median_seconds(measurement: Measurement) -> float:
    """Return the median of a measurement that has figures."""
    assert measurement.seconds is not None
    return measurement.seconds.median


def compare_with_goals(report: Report) -> list[dict[str, Any]]:
    """Return the fastest bundle engine of each case and precision, beside goal, limit and autocast."""
    rows = []
    for case in report.cases:
        autocast = fastest(report, case, (EngineKind.TORCH_BF16,), "bf16")
        for precision in PRECISIONS:
            best = fastest(report, case, (EngineKind.ONNXRUNTIME, EngineKind.OPENVINO), precision)
            if best is None:
                continue
            products = limit(report, case, precision)
            ratio, seconds = report.ratio(best), median_seconds(best)
            slower = None if autocast is None else report.ratio(autocast)
            rows.append(
                {
                    **asdict(case),
                    "precision": precision,
                    "engine": best.engine,
                    "seconds": seconds,
                    "ratio": None if ratio is None else ratio.median,
                    "goal": GOALS.get(case.length, {}).get(precision) if case.batch == 1 else None,
                    "ratio_to_autocast": None
                    if ratio is None or slower is None
                    else ratio.median / slower.median,
                    "products_seconds": products,
                    "products_share": None if products is None else products / seconds,
                    "seconds_per_token": seconds / (case.batch * case.length),
                }
            )
    return rows


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the time per token at 4096 tokens over that at 1024, by precision, for batch 1."""
    by_case = {(row["precision"], row["length"]): row for row in rows if row["batch"] == 1}
    return {
        precision: by_case[precision, 4096]["seconds_per_token"]
        / by_case[precision, 1024]["seconds_per_token"]
        for precision in PRECISIONS
        if (precision, 4096) in by_case and (precision, 1024) in by_case
    }


def print_goals(rows: list[dict[str, Any]], grown: dict[str, float]) -> None:
    """Print the comparison as a table."""

    def number(value: float | None, form: str = ".2f") -> str:
        return "-" if value is None else format(value, form)

    table = Table(title="the fastest engine of each precision", title_justify="left")
    table.add_column("engine", overflow="fold")
    for heading in ("tokens", "batch", "ms", "times torch fp32", "goal", "times autocast", "products' share"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["engine"],
            str(row["length"]),
            str(row["batch"]),
            number(row["seconds"] * 1000, ".1f"),
            number(row["ratio"]),
            number(row["goal"], ".1f"),
            number(row["ratio_to_autocast"]),
            number(row["products_share"], ".0%"),
        )
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    for precision, value in grown.items():
        console.print(
            f"{precision}: time per token at 4096 tokens is {value:.2f} times that at 1024 "
            f"(at most {GROWTH_GOAL})",
            highlight=False,
        )


def numbers(text: str) -> tuple[int, ...]:
    """Read integers separated by commas."""
    return tuple(int(word) for word in text.split(","))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="base", choices=sorted(SIZES))
    parser.add_argument(
        "--task", default="text-classification", choices=["text-classification", "question-answering"]
    )
    parser.add_argument(
        "--global-tokens", type=int, help="default: 1 for classification, 20 for question answering"
    )
    parser.add_argument("--precisions", default="fp32,int8,int8-weights", help="of the bundles")
    parser.add_argument("--block-sizes", help="export with these block sizes; default: the exporter's choice")
    parser.add_argument("--lengths", type=numbers, default=(128, 512, 1024, 2048, 4096))
    parser.add_argument("--batches", type=numbers, default=(1,))
    parser.add_argument("--engines", help=f"of {', '.join(kind.value for kind in EngineKind)}; default: all")
    parser.add_argument("--layouts", default="padded,packed")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds that one step may take")
    parser.add_argument("--at-once", type=int, help="most engines loaded at a time, where memory is short")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plots", type=Path)
    return parser.parse_args()


def plan(chosen: argparse.Namespace) -> tuple[list[EngineSpec], list[Case], BenchSettings]:
    """Make the bundles and list what to measure."""
    settings = BenchSettings(
        lengths=chosen.lengths,
        batches=chosen.batches,
        layouts=tuple(Layout(name) for name in chosen.layouts.split(",")),
        engines=None if chosen.engines is None else tuple(map(EngineKind, chosen.engines.split(","))),
        rounds=chosen.rounds,
        threads=chosen.threads,
        global_tokens=chosen.global_tokens,
        timeout=chosen.timeout,
        at_once=chosen.at_once,
    )
    blocks = [None] if chosen.block_sizes is None else list(numbers(chosen.block_sizes))
    bundles = [
        Bundle.open(cached_bundle(chosen.cache, chosen.size, chosen.task, precision, block), verify=False)
        for precision in chosen.precisions.split(",")
        for block in blocks
    ]
    checkpoint = cached_checkpoint(chosen.cache, chosen.size, chosen.task)
    engines = plan_engines(bundles, settings, reference=str(checkpoint))
    return engines, settings.cases(bundles[0].manifest), settings


def main() -> None:
    """Measure, print and write."""
    chosen = parse_arguments()
    if chosen.plots is not None:
        check_plotting()
    engines, cases, settings = plan(chosen)
    with TerminalProgress() as progress:
        report = run_benchmark(engines, cases, chosen.task, settings, progress=progress)
    print_report(report)
    rows = compare_with_goals(report)
    grown = growth(rows)
    print_goals(rows, grown)
    if chosen.json is not None:
        data = json.loads(report.to_json())
        data |= {"command": sys.argv, "size": chosen.size, "fastest": rows, "growth_4096_to_1024": grown}
        chosen.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if chosen.plots is not None:
        write_plots(report, chosen.plots)


if __name__ == "__main__":
    main()
