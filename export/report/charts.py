"""The plots of a report, as SVG to be put into a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from longserve.serving.pages.drawing import (
    COLOURS,
    MARKERS,
    add_legend,
    length_axis,
    new_figure,
    to_svg,
)

from .contents import Drift, EngineSpeed, ParityPoint, Speed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["drift_chart", "latency_chart", "memory_chart", "parity_chart"]

_TOKENS = "tokens of the longest row"
_FLOOR = 1e-9
"""Below it a difference is drawn here: a logarithmic axis has no zero."""


def parity_chart(points: Sequence[ParityPoint], tolerance: float) -> str:
    """Differences from PyTorch by length, a colour and marker for each global pattern, and the tolerance."""
    figure = new_figure(8.0, 4.4)
    axes = figure.subplots()
    for index, pattern in enumerate(dict.fromkeys(point.pattern for point in points)):
        own = [point for point in points if point.pattern == pattern]
        axes.plot(
            [point.length for point in own],
            [max(_FLOOR, point.max_relative) for point in own],
            MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            markersize=5,
            alpha=0.8,
            label=f"global: {pattern}",
        )
    _tolerance(axes, tolerance)
    axes.set_yscale("log")
    length_axis(axes, [point.length for point in points], _TOKENS)
    axes.set_ylabel("largest difference of a logit,\nover the largest logit")
    add_legend(axes)
    return to_svg(figure)


def drift_chart(drifts: Sequence[Drift]) -> str:
    """The spread of the differences of each precision, and its tolerance."""
    figure = new_figure(8.0, 1.2 + 0.7 * len(drifts))
    axes = figure.subplots()
    axes.boxplot(
        [[max(_FLOOR, value) for value in drift.values] for drift in drifts][::-1],
        orientation="horizontal",
        whis=(0, 100),
        widths=0.5,
        medianprops={"color": COLOURS[1]},
    )
    for row, drift in enumerate(reversed(drifts), start=1):
        axes.plot([drift.tolerance] * 2, [row - 0.35, row + 0.35], color=COLOURS[4], linestyle="--")
    axes.set_yticks(range(1, len(drifts) + 1), [drift.precision for drift in reversed(drifts)])
    axes.set_xscale("log")
    axes.set_xlabel("largest difference of a logit, over the largest logit (dashed: allowed)")
    axes.grid(axis="x", alpha=0.3)
    return to_svg(figure)


def latency_chart(speed: Speed) -> str:
    """Milliseconds of one run by length."""

    def milliseconds(engine: EngineSpeed) -> Mapping[int, float]:
        return {length: seconds * 1000 for length, seconds in engine.seconds.items()}

    return _lines(speed, milliseconds, "milliseconds, median")


def memory_chart(speed: Speed) -> str:
    """Most resident memory of each engine's process by length."""

    def megabytes(engine: EngineSpeed) -> Mapping[int, float]:
        return {length: size / 1e6 for length, size in engine.peak_bytes.items()}

    return _lines(speed, megabytes, "peak memory of the process, MB")


def _lines(speed: Speed, values: Callable[[EngineSpeed], Mapping[int, float]], label: str) -> str:
    figure = new_figure(8.0, 5.6)
    axes = figure.subplots()
    for index, engine in enumerate(_drawn(speed)):
        found = sorted(values(engine).items())
        if found:
            axes.plot(
                *zip(*found, strict=True),
                marker=MARKERS[index % len(MARKERS)],
                color=COLOURS[index % len(COLOURS)],
                markersize=5,
                label=engine.name,
            )
    axes.set_yscale("log")
    length_axis(axes, speed.lengths, _TOKENS)
    axes.set_ylabel(label)
    add_legend(axes, columns=1)
    return to_svg(figure)


def _drawn(speed: Speed) -> list[EngineSpeed]:
    """The baseline and the engines that are fastest at the longest length: as many as there are colours."""
    measured = [engine for engine in speed.engines if engine.seconds]
    rest = [engine for engine in measured if engine.name != speed.baseline]
    rest.sort(key=lambda engine: (-max(engine.seconds), engine.seconds[max(engine.seconds)]))
    kept = {engine.name for engine in rest[: len(COLOURS) - 1]} | {speed.baseline}
    return [engine for engine in measured if engine.name in kept]


def _tolerance(axes: Axes, tolerance: float) -> None:
    axes.axhline(tolerance, color=COLOURS[4], linestyle="--", label=f"allowed: {tolerance:g}")
