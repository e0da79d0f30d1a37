"""The two pages of a report, made from one set of data: HTML for people, Markdown for the hub."""

from __future__ import annotations

from typing import Any

from longserve.serving.pages import page_environment

from .charts import drift_chart, latency_chart, memory_chart, parity_chart
from .contents import ParityPoint, ReportData

__all__ = ["render_card", "render_page"]


def render_page(report: ReportData) -> str:
    """Return one self-contained HTML page.

    Raises:
        PageError: jinja2 or matplotlib is not installed.
    """
    from markupsafe import Markup

    charts: dict[str, str] = {}
    if report.points and report.tolerance is not None:
        charts["parity"] = parity_chart(report.points, report.tolerance)
        charts["drift"] = drift_chart(report.drifts)
    if report.speed is not None:
        charts["latency"] = latency_chart(report.speed)
        charts["memory"] = memory_chart(report.speed)
    marked = {name: Markup(svg) for name, svg in charts.items()}  # our own drawing, no input's markup
    return _render("report.html.jinja", report, charts=marked)


def render_card(report: ReportData) -> str:
    """Return the model card as Markdown, with the front matter that the Hugging Face hub reads.

    Raises:
        PageError: jinja2 is not installed.
    """
    return _render("model_card.md.jinja", report)


def _render(template: str, report: ReportData, **more: Any) -> str:
    return (
        page_environment(__package__ or "")
        .get_template(template)
        .render(report=report, manifest=report.manifest, worst=_worst_by_length(report), **more)
    )


def _worst_by_length(report: ReportData) -> list[tuple[int, ParityPoint, int]]:
    """Of each length the case that differs most, and how many cases there are."""
    lengths = sorted({point.length for point in report.points})
    rows = []
    for length in lengths:
        own = [point for point in report.points if point.length == length]
        rows.append((length, max(own, key=lambda point: point.max_relative), len(own)))
    return rows
