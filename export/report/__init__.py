"""The export report: what a bundle is and how right and fast it is, as one HTML page and as a model card.

Bundle, its `parity.json` and a benchmark's JSON → `ReportData` (`gathering`) → charts (`charts`) → pages
(`pages`). Nothing is fetched: the page holds its styles and its plots.
"""

from __future__ import annotations

from .contents import ReportData
from .gathering import gather
from .pages import render_card, render_page

__all__ = ["ReportData", "gather", "render_card", "render_page"]
