"""A comparison as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..pages.drawing import new_figure
from ..pages.templating import page_environment
from .charts import latency_chart, scores_chart, trade_off_chart
from .evidence import Place, Reach
from .results import Comparison, GroupScore

__all__ = ["check_page_libraries", "render_page"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """How right the models are on groups of documents.

    Attributes:
        identity: of its heading.
        title: the heading.
        said: what it shows.
        names: the groups.
        rows: model, and its score of each group, None where it has no document.
        chart: the plot.
    """

    identity: str
    title: str
    said: str
    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[GroupScore | None, ...]], ...]
    chart: str


def check_page_libraries() -> None:
    """Check, before anything is measured, that a page can be made.

    Raises:
        PageError: jinja2 or matplotlib is not installed.
    """
    page_environment(__package__ or "")
    new_figure(1, 1)


def render_page(comparison: Comparison) -> str:
    """Return the page: which model to take, and the figures behind it.

    Raises:
        PageError: jinja2 or matplotlib is not installed.
    """
    environment = page_environment(__package__ or "")
    from markupsafe import Markup

    return environment.get_template("compare.html.jinja").render(
        comparison=comparison,
        advice=comparison.recommendation,
        known=comparison.documents - comparison.unknown_evidence - comparison.without_answer,
        sections=_sections(comparison),
        charts={
            # our own drawing, in which names are text
            "trade_off": Markup(trade_off_chart(comparison)),
            "latency": Markup(latency_chart(comparison)),
        },
    )


def _sections(comparison: Comparison) -> list[_Section]:
    models = comparison.models
    made = [
        _section(
            comparison,
            "length",
            "By length",
            f"Documents by their tokens, as {models[0].name} counts them.",
            [model.by_length for model in models],
            list(comparison.lengths),
        )
    ]
    if any(model.by_place for model in models):
        made.append(
            _section(
                comparison,
                "place",
                "By where the evidence stands",
                "Thirds of the document, by characters; spread where its pieces stand in several.",
                [model.by_place for model in models],
                list(Place),
            )
        )
        made.append(
            _section(
                comparison,
                "reach",
                "By what a model reads at once",
                "Whether one window of the model holds all the evidence. Models with other windows have "
                "other documents in each group.",
                [model.by_reach for model in models],
                list(Reach),
            )
        )
    return made


def _section(
    comparison: Comparison,
    identity: str,
    title: str,
    said: str,
    groups: Sequence[Mapping[Any, GroupScore]],
    names: Sequence[Any],
) -> _Section:
    from markupsafe import Markup

    used = [name for name in names if any(name in found for found in groups)]
    return _Section(
        identity=identity,
        title=title,
        said=said,
        names=tuple(name.value if isinstance(name, Enum) else name for name in used),
        rows=tuple(
            (model.name, tuple(found.get(name) for name in used))
            for model, found in zip(comparison.models, groups, strict=True)
        ),
        chart=Markup(scores_chart(comparison, groups, used)),
    )
