"""A report as plots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BenchError
from .matrix import Case
from .report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PLOT_FORMATS", "check_plotting", "write_plots"]

PLOT_FORMATS = ("png", "svg")


def write_plots(report: Report, directory: str | Path, format_name: str = "png") -> list[Path]:
    """Write `latency-batch-N` and `ratio-batch-N` for each batch size, and `memory`, into a directory.

    Args:
        report: what to draw; an engine without figures at a case has a gap there.
        directory: is made if need be.
        format_name: one of `PLOT_FORMATS`.

    Returns:
        The files.

    Raises:
        BenchError: the format is unknown, or matplotlib is not installed.
    """
    if format_name not in PLOT_FORMATS:
        raise BenchError(f"the plot format is {format_name!r}; give one of {', '.join(PLOT_FORMATS)}")
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for batch in sorted({case.batch for case in report.cases}):
        for name, figure in (("latency", _latency(report, batch)), ("ratio", _ratios(report, batch))):
            written.append(target / f"{name}-batch-{batch}.{format_name}")
            figure.savefig(written[-1])
    written.append(target / f"memory.{format_name}")
    _memory(report).savefig(written[-1])
    return written


def check_plotting() -> None:
    """Check that matplotlib is there, before anything is measured.

    Raises:
        BenchError: it is not.
    """
    _figure(1.0, 1.0)


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BenchError(f"plots need matplotlib ({error}); install 'longserve[bench]'") from error
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _latency(report: Report, batch: int) -> Figure:
    def milliseconds(engine: str, case: Case) -> float | None:
        seconds = report.measurement(engine, case).seconds
        return None if seconds is None else seconds.median * 1000

    return _lines(report, batch, "milliseconds per run (median)", "log", milliseconds)


def _ratios(report: Report, batch: int) -> Figure:
    def ratio(engine: str, case: Case) -> float | None:
        found = report.ratio(report.measurement(engine, case))
        return None if found is None else found.median

    return _lines(report, batch, f"times faster than {report.baseline}", "linear", ratio)


def _lines(
    report: Report, batch: int, label: str, scale: str, value: Callable[[str, Case], float | None]
) -> Figure:
    figure = _figure(9, 6)
    axes = figure.subplots()
    cases = sorted((case for case in report.cases if case.batch == batch), key=lambda case: case.length)
    for record in report.engines:
        values = [value(record.spec.name, case) for case in cases]
        points = [(case.length, v) for case, v in zip(cases, values, strict=True) if v is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=record.spec.name)
    axes.set_xscale("log", base=2)
    axes.set_xticks([case.length for case in cases], [str(case.length) for case in cases])
    axes.set_yscale(scale)
    axes.set_xlabel(f"tokens per row, {batch} rows" if batch > 1 else "tokens")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_title(report.machine.cpu, fontsize="small")
    return figure


def _memory(report: Report) -> Figure:
    measured = [record for record in report.engines if record.peak_bytes is not None][::-1]
    figure = _figure(9, 1 + 0.35 * len(measured))
    axes = figure.subplots()
    axes.barh([r.spec.name for r in measured], [(r.peak_bytes or 0) / 1e6 for r in measured])
    axes.set_xlabel("peak resident memory of the engine's process, MB")
    axes.grid(axis="x", alpha=0.3)
    return figure
