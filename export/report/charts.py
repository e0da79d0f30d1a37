"""The plots of a report, as SVG to be put into a page."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import ReportError
from .contents import Drift, EngineSpeed, ParityPoint, Speed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["drift_chart", "latency_chart", "memory_chart", "parity_chart"]

_COLOURS = ("#1b4f8f", "#b3541e", "#2f6f4f", "#7a3e8e", "#a31f34", "#4d4d4d", "#8a6d00", "#00708a")
"""Each with a contrast of at least 4.5 : 1 on white."""
_MARKERS = "osD^vPX*"
_FLOOR = 1e-9
"""Below it a difference is drawn here: a logarithmic axis has no zero."""


def parity_chart(points: Sequence[ParityPoint], tolerance: float) -> str:
    """Differences from PyTorch by length, a colour and marker for each global pattern, and the tolerance."""
    figure = _figure(8.0, 4.4)
    axes = figure.subplots()
    for index, pattern in enumerate(dict.fromkeys(point.pattern for point in points)):
        own = [point for point in points if point.pattern == pattern]
        axes.plot(
            [point.length for point in own],
            [max(_FLOOR, point.max_relative) for point in own],
            _MARKERS[index % len(_MARKERS)],
            color=_COLOURS[index % len(_COLOURS)],
            markersize=5,
            alpha=0.8,
            label=f"global: {pattern}",
        )
    _tolerance(axes, tolerance)
    axes.set_yscale("log")
    _length_axis(axes, [point.length for point in points])
    axes.set_ylabel("largest difference of a logit,\nover the largest logit")
    _legend(axes)
    return _svg(figure)


def drift_chart(drifts: Sequence[Drift]) -> str:
    """The spread of the differences of each precision, and its tolerance."""
    figure = _figure(8.0, 1.2 + 0.7 * len(drifts))
    axes = figure.subplots()
    axes.boxplot(
        [[max(_FLOOR, value) for value in drift.values] for drift in drifts][::-1],
        orientation="horizontal",
        whis=(0, 100),
        widths=0.5,
        medianprops={"color": _COLOURS[1]},
    )
    for row, drift in enumerate(reversed(drifts), start=1):
        axes.plot([drift.tolerance] * 2, [row - 0.35, row + 0.35], color=_COLOURS[4], linestyle="--")
    axes.set_yticks(range(1, len(drifts) + 1), [drift.precision for drift in reversed(drifts)])
    axes.set_xscale("log")
    axes.set_xlabel("largest difference of a logit, over the largest logit (dashed: allowed)")
    axes.grid(axis="x", alpha=0.3)
    return _svg(figure)


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
    figure = _figure(8.0, 5.6)
    axes = figure.subplots()
    for index, engine in enumerate(_drawn(speed)):
        found = sorted(values(engine).items())
        if found:
            axes.plot(
                *zip(*found, strict=True),
                marker=_MARKERS[index % len(_MARKERS)],
                color=_COLOURS[index % len(_COLOURS)],
                markersize=5,
                label=engine.name,
            )
    axes.set_yscale("log")
    _length_axis(axes, speed.lengths)
    axes.set_ylabel(label)
    _legend(axes, columns=1)
    return _svg(figure)


def _drawn(speed: Speed) -> list[EngineSpeed]:
    """The baseline and the engines that are fastest at the longest length: as many as there are colours."""
    measured = [engine for engine in speed.engines if engine.seconds]
    rest = [engine for engine in measured if engine.name != speed.baseline]
    rest.sort(key=lambda engine: (-max(engine.seconds), engine.seconds[max(engine.seconds)]))
    kept = {engine.name for engine in rest[: len(_COLOURS) - 1]} | {speed.baseline}
    return [engine for engine in measured if engine.name in kept]


def _length_axis(axes: Axes, lengths: Sequence[int]) -> None:
    ticks = [tick for tick in (1, 4, 16, 64, 256, 1024, 4096, 16384) if min(lengths) <= tick <= max(lengths)]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("tokens of the longest row")
    axes.grid(alpha=0.3)


def _tolerance(axes: Axes, tolerance: float) -> None:
    axes.axhline(tolerance, color=_COLOURS[4], linestyle="--", label=f"allowed: {tolerance:g}")


def _legend(axes: Axes, columns: int = 3) -> None:
    axes.legend(
        fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, frameon=False
    )


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ReportError(f"the plots need matplotlib ({error}); install 'longserve[report]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    """The figure as an SVG element, its text as text, without identities that two of a page would share."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "longserve"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    mark = "c" + hashlib.sha256(svg.encode("utf-8")).hexdigest()[:8]
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{mark}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)([^")]+)', rf"\1{mark}-\2", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'<svg ([^>]*?)(?: width="[^"]*")? height="[^"]*"', r"<svg \1", svg, count=1).replace(
        "<svg ", '<svg aria-hidden="true" focusable="false" ', 1
    )
