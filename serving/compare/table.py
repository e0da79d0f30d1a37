"""A comparison on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .evidence import Place, Reach
from .results import Comparison, GroupScore, ModelResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["print_comparison"]


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print quality, cost, where the evidence stands, and which model to take."""
    console.print(_quality(comparison))
    console.print(_latency(comparison))
    console.print(_cost(comparison))
    for title, table in _groups(comparison):
        console.print(table if table is not None else title, highlight=False)
    advice = comparison.recommendation
    kind = "take" if advice.firm else "take, for all that these documents show,"
    console.print(f"\n{kind} [bold]{advice.model}[/bold]", highlight=False)
    for line in (*advice.reasons, *advice.cautions):
        console.print(f"- {line}", highlight=False, markup=False)


def _quality(comparison: Comparison) -> Table:
    names = list(comparison.models[0].metrics)
    table = _new(
        f"{comparison.documents} documents of {comparison.source}", [*names, "behind the best, 95 %"]
    )
    for model in comparison.models:
        behind = model.behind
        gap = "" if behind is None else f"{_percent(behind.low)} to {_percent(behind.high)}"
        p_value = "" if behind is None else f" (p {behind.p_value:.2g})"
        table.add_row(model.name, *(_percent(model.metrics[name]) for name in names), gap + p_value)
    return table


def _latency(comparison: Comparison) -> Table:
    first = comparison.models[0].name
    columns = [f"{name}\n({count})" for name, count in comparison.lengths.items()]
    table = _new(
        f"ms of one document by tokens as {first} counts them: median (10th to 90th percentile)", columns
    )
    for model in comparison.models:
        cells = []
        for spread in (model.latency[name] for name in comparison.lengths):
            low, middle, high = (1000 * value for value in (spread.p10, spread.median, spread.p90))
            cells.append(f"{_short(middle)}\n({_short(low)} to {_short(high)})")
        table.add_row(model.name, *cells)
    return table


def _cost(comparison: Comparison) -> Table:
    table = _new(
        "cost", ["documents/s", "tokens/s", "peak MB", "windows", "windowed", "reads at once", "runs on"]
    )
    for model in comparison.models:
        table.add_row(
            model.name,
            _short(model.documents_per_second),
            f"{model.tokens_per_second:,.0f}",
            f"{model.peak_bytes / 1e6:.0f}",
            f"{model.mean_windows:.1f}",
            f"{model.windowed} of {comparison.documents}",
            f"{model.max_length}",
            f"{model.precision}, {model.runs_on}",
        )
    return table


def _groups(comparison: Comparison) -> Iterable[tuple[str, Table | None]]:
    """Yield the tables of right answers by length and by place of the evidence, or why there is none."""
    score = "right" if comparison.labels else "F1"

    def by_length(model: ModelResult) -> Mapping[str, GroupScore]:
        return model.by_length

    yield "", _scores(f"{score} by tokens", comparison, by_length, list(comparison.lengths))
    known = comparison.documents - comparison.unknown_evidence - comparison.without_answer
    if not known:
        yield "where the evidence stands is not known: no row has the field evidence", None
        return
    rest = f"; of {comparison.unknown_evidence} it is not known" if comparison.unknown_evidence else ""
    title = f"{score} by where in the document the evidence stands ({known} documents{rest})"
    yield "", _scores(title, comparison, lambda model: model.by_place, list(Place))
    title = f"{score} by whether the model's windows hold the evidence"
    yield "", _scores(title, comparison, lambda model: model.by_reach, list(Reach))


def _scores(
    title: str,
    comparison: Comparison,
    groups: Callable[[ModelResult], Mapping[Any, GroupScore]],
    names: Sequence[Any],
) -> Table:
    used = [name for name in names if any(name in groups(model) for model in comparison.models)]
    table = _new(title, [getattr(name, "value", name) for name in used])
    for model in comparison.models:
        found = groups(model)
        table.add_row(
            model.name,
            *(
                f"{_percent(found[name].score)}\n({found[name].documents})" if name in found else "none"
                for name in used
            ),
        )
    return table


def _new(title: str, columns: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("model", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
