"""Results as columns, and as an Arrow table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..runtime.manifest import Task
from ..runtime.results import Answer, Classification
from .plan import Chunk
from .sources import BadRow

__all__ = ["Outcome", "as_columns", "as_table", "result_schema"]

Outcome = Classification | tuple[Answer, ...] | BadRow
"""What became of a row: its labels, its answers, or why there are none."""


def as_columns(task: Task, outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """Return the columns of the results by name, each with one entry a row; None where there is nothing.

    `scores` and `answers` are lists of dictionaries, best first.
    """
    rows = [_classified(outcome) for outcome in outcomes]
    if task is Task.QUESTION_ANSWERING:
        rows = [_answered(outcome) for outcome in outcomes]
    names = [field for field in _fields(task) if field != "row"]
    return {name: [row.get(name) for row in rows] for name in names}


def as_table(task: Task, chunk: Chunk, kept: Any, outcomes: Sequence[Outcome]) -> Any:
    """Return a chunk's results as a table: `row`, the kept columns, the results."""
    import pyarrow as pa

    schema = result_schema(task)
    columns: dict[str, Any] = {"row": list(range(chunk.first, chunk.first + chunk.rows))}
    columns.update(as_columns(task, outcomes))
    arrays = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
    table = pa.table({"row": arrays.pop("row")})
    for name in kept.column_names:
        table = table.append_column(kept.schema.field(name), kept.column(name))
    for name, array in arrays.items():
        table = table.append_column(name, array)
    return table.replace_schema_metadata(None)


def result_schema(task: Task) -> Any:
    """Return the Arrow schema of the results, without the columns that are kept."""
    import pyarrow as pa

    return pa.schema(list(_types(task).items()))


def _fields(task: Task) -> tuple[str, ...]:
    from .settings import RESULT_COLUMNS

    return RESULT_COLUMNS[task]


def _types(task: Task) -> dict[str, Any]:
    import pyarrow as pa

    types = {
        "row": pa.int64(),
        "label": pa.string(),
        "answer": pa.string(),
        "score": pa.float64(),
        "start": pa.int64(),
        "end": pa.int64(),
        "scores": pa.list_(pa.struct([("label", pa.string()), ("score", pa.float64())])),
        "answers": pa.list_(
            pa.struct(
                [("answer", pa.string()), ("score", pa.float64()), ("start", pa.int64()), ("end", pa.int64())]
            )
        ),
        "tokens": pa.int32(),
        "windows": pa.int32(),
        "error": pa.string(),
    }
    return {name: types[name] for name in _fields(task)}


def _classified(outcome: Outcome) -> dict[str, Any]:
    if not isinstance(outcome, Classification):
        return {"error": outcome.error} if isinstance(outcome, BadRow) else {}
    return {
        "label": outcome.label,
        "score": outcome.score,
        "scores": [{"label": label, "score": score} for label, score in outcome.scores.items()],
        "tokens": outcome.tokens,
        "windows": outcome.windows,
    }


def _answered(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, BadRow):
        return {"error": outcome.error}
    if isinstance(outcome, Classification) or not outcome:
        return {"answers": []}
    best = outcome[0]
    entries = [{"answer": a.answer, "score": a.score, "start": a.start, "end": a.end} for a in outcome]
    return {**entries[0], "answers": entries, "tokens": best.tokens, "windows": best.windows}
