"""A report as tables on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from longserve.serving.measurement.statistics import Spread

from .matrix import Case
from .report import Measurement, Report

__all__ = ["print_report"]


def print_report(report: Report) -> None:
    """Print a table for each case, one of all ratios if there are several cases, and what failed and why."""
    # a fixed width where the output is no terminal: a table must not be cut there
    console = Console(width=None if Console().is_terminal else 120)
    machine = report.machine
    console.print(
        f"{machine.cpu}, {machine.cores} cores ({' '.join(machine.flags)}); {report.settings.rounds} "
        f"interleaved rounds; ratios are times faster than {report.baseline}",
        highlight=False,
        markup=False,
    )
    for case in report.cases:
        console.print(_case_table(report, case))
    if len(report.cases) > 1:
        console.print(_ratio_table(report))
    for line in _remarks(report):
        console.print(line, highlight=False, markup=False)


def _case_table(report: Report, case: Case) -> Table:
    table = Table(title=f"{case.name}, {case.global_tokens} global", title_justify="left")
    table.add_column("engine", overflow="fold")
    for heading in ("ms", "p10-p90", "ratio", "p10-p90", "tokens/s", "peak MB", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    for record in report.engines:
        measurement = report.measurement(record.spec.name, case)
        seconds = measurement.seconds
        if seconds is None:
            table.add_row(record.spec.name, "failed")
            continue
        ratio = report.ratio(measurement)
        table.add_row(
            record.spec.name,
            _milliseconds(seconds.median),
            f"{_milliseconds(seconds.p10)}-{_milliseconds(seconds.p90)}",
            "" if ratio is None else f"{ratio.median:.2f}",
            "" if ratio is None else f"{ratio.p10:.2f}-{ratio.p90:.2f}",
            f"{measurement.tokens_per_second:.0f}",
            _megabytes(measurement.peak_bytes),
            _difference(report, measurement),
        )
    return table


def _ratio_table(report: Report) -> Table:
    table = Table(title=f"times faster than {report.baseline}", title_justify="left")
    table.add_column("engine", overflow="fold")
    for case in report.cases:
        table.add_column(f"{case.batch}x{case.length}", justify="right")
    table.add_column("peak MB", justify="right")
    for record in report.engines:
        ratios = [report.ratio(report.measurement(record.spec.name, case)) for case in report.cases]
        table.add_row(record.spec.name, *(_ratio(ratio) for ratio in ratios), _megabytes(record.peak_bytes))
    return table


def _remarks(report: Report) -> list[str]:
    lines = [f"{record.spec.name}: {record.note}" for record in report.engines if record.note]
    for record in report.engines:
        paged = sum(m.paged for m in report.measurements if m.engine == record.spec.name)
        if paged:
            lines.append(f"{record.spec.name}: {paged} runs read pages from disk; load fewer with --at-once")
    failures: dict[str, dict[str, list[str]]] = {}
    for measurement in report.measurements:
        if measurement.error is not None:
            engines = failures.setdefault(measurement.error, {})
            engines.setdefault(measurement.engine, []).append(measurement.case.name)
    for error, engines in failures.items():
        where = "; ".join(f"{engine} at {', '.join(cases)}" for engine, cases in engines.items())
        lines.append(f"failed: {where}: {error}")
    return lines


def _ratio(ratio: Spread | None) -> str:
    return "-" if ratio is None else f"{ratio.median:.2f}"


def _milliseconds(seconds: float) -> str:
    value = seconds * 1000
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f}"


def _difference(report: Report, measurement: Measurement) -> str:
    difference = report.difference(measurement)
    return "" if difference is None else f"{difference:.1e}"
