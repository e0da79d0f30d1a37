"""Self-contained HTML pages: one style, one way of filling in templates and of drawing plots.

The page of an export (`longserve report`) and that of a comparison (`longserve compare`) share it. A page
fetches nothing: it holds its style and its plots.
"""

from __future__ import annotations

from .drawing import COLOURS, MARKERS, add_legend, length_axis, new_figure, to_svg
from .errors import PageError
from .templating import page_environment

__all__ = [
    "COLOURS",
    "MARKERS",
    "PageError",
    "add_legend",
    "length_axis",
    "new_figure",
    "page_environment",
    "to_svg",
]
