"""Plots as SVG to be put into a page."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import PageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "MARKERS", "add_legend", "length_axis", "new_figure", "to_svg"]

COLOURS = ("#1b4f8f", "#b3541e", "#2f6f4f", "#7a3e8e", "#a31f34", "#4d4d4d", "#8a6d00", "#00708a")
"""Each with a contrast of at least 4.5 : 1 on white."""
MARKERS = "osD^vPX*"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that size in inches.

    Raises:
        PageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PageError(f"the plots need matplotlib ({error}); install 'longserve[report]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def length_axis(axes: Axes, lengths: Sequence[int], label: str) -> None:
    """Make the x axis one of tokens, from the least to the largest of `lengths`."""
    ticks = [tick for tick in (1, 4, 16, 64, 256, 1024, 4096, 16384) if min(lengths) <= tick <= max(lengths)]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)


def add_legend(axes: Axes, columns: int = 3) -> None:
    """Put the legend below the axes."""
    axes.legend(
        fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, frameon=False
    )


def to_svg(figure: Figure) -> str:
    """Return the figure as an SVG element, its text as text.

    Its identities are its own, so that two of a page do not clash. It is hidden from assistive technology:
    the page says in a table what it shows.
    """
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
