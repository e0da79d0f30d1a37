"""The plots of a comparison's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from textwrap import fill
from typing import TYPE_CHECKING, Any

from ..pages.drawing import COLOURS, MARKERS, add_legend, new_figure, to_svg
from .results import Comparison, GroupScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = ["latency_chart", "scores_chart", "trade_off_chart"]

_WIDTH = 6.0
"""Inches: at a phone's width the letters are still legible."""
_TICK_LETTERS = 14
_LEGEND_COLUMNS = 2


def trade_off_chart(comparison: Comparison) -> str:
    """The metric that decides against documents a second: up and to the right is better."""
    figure = new_figure(_WIDTH, 4.0)
    axes = figure.subplots()
    for index, model in enumerate(comparison.models):
        axes.plot(
            [model.documents_per_second],
            [100 * model.primary],
            MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            markersize=11,
            label=model.name,
        )
    axes.set_xscale("log")
    rates = [model.documents_per_second for model in comparison.models]
    axes.set_xlim(min(rates) / 1.6, max(rates) * 1.6)
    _plain_ticks(axes.xaxis, axes.get_xlim())
    axes.set_xlabel("documents a second")
    axes.set_ylabel(f"{comparison.metric}, %")
    axes.margins(y=0.2)
    axes.grid(alpha=0.3)
    add_legend(axes, _LEGEND_COLUMNS)
    return to_svg(figure)


def latency_chart(comparison: Comparison) -> str:
    """Milliseconds of one document by length bucket: median, and the 10th to the 90th percentile."""
    figure = new_figure(_WIDTH, 4.4)
    axes = figure.subplots()
    names = list(comparison.lengths)
    for index, model in enumerate(comparison.models):
        spreads = [model.latency[name] for name in names]
        axes.errorbar(
            [place + _offset(index, len(comparison.models), 0.12) for place in range(len(names))],
            [1000 * spread.median for spread in spreads],
            yerr=[
                [1000 * (spread.median - spread.p10) for spread in spreads],
                [1000 * (spread.p90 - spread.median) for spread in spreads],
            ],
            marker=MARKERS[index % len(MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            capsize=3,
            label=model.name,
        )
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis, axes.get_ylim())
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel(f"tokens of the document, as {comparison.models[0].name} counts them")
    axes.set_ylabel("milliseconds")
    axes.grid(axis="y", alpha=0.3)
    add_legend(axes, _LEGEND_COLUMNS)
    return to_svg(figure)


def scores_chart(
    comparison: Comparison, groups: Sequence[Mapping[Any, GroupScore]], names: Sequence[Any]
) -> str:
    """How right each model is on groups of documents.

    Args:
        comparison: whose models.
        groups: the groups of each model.
        names: the groups to draw, in order; a model without documents in one has no bar there.
    """
    figure = new_figure(_WIDTH, 4.0)
    axes = figure.subplots()
    width = 0.8 / len(groups)
    for index, (model, found) in enumerate(zip(comparison.models, groups, strict=True)):
        drawn = [(place, found[name].score) for place, name in enumerate(names) if name in found]
        bars = axes.bar(
            [place + _offset(index, len(groups), width) for place, _ in drawn],
            [100 * score for _, score in drawn],
            width * 0.92,
            color=COLOURS[index % len(COLOURS)],
            label=model.name,
        )
        _write_heights(axes, bars)
    written = [name.value if isinstance(name, Enum) else name for name in names]
    axes.set_xticks(range(len(names)), [fill(name, _TICK_LETTERS) for name in written])
    axes.set_ylim(0, 110)
    axes.set_ylabel("right, %" if comparison.labels else "F1, %")
    axes.grid(axis="y", alpha=0.3)
    add_legend(axes, _LEGEND_COLUMNS)
    return to_svg(figure)


def _write_heights(axes: Axes, bars: Any) -> None:
    axes.bar_label(bars, fmt="%.0f", fontsize="small")


def _plain_ticks(axis: Axis, limits: tuple[float, float]) -> None:
    """Write the ticks of a logarithmic axis as plain numbers: few where it spans much, at least two."""
    low, high = limits
    steps = (1, 2, 3, 5, 7) if high < 8 * low else (1, 2, 5) if high < 200 * low else (1,)
    ticks = [step * 10.0**power for power in range(-4, 8) for step in steps]
    shown = [tick for tick in ticks if low <= tick <= high]
    axis.set_ticks(shown, labels=[f"{tick:g}" for tick in shown])
    axis.set_ticks([], minor=True)


def _offset(index: int, count: int, width: float) -> float:
    """Where the model's mark stands beside the middle of its group."""
    return (index - (count - 1) / 2) * width
