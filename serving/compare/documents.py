"""The labelled documents of a comparison: what is read, what is right, and where the evidence stands.

Rows are `text` and `label`, or `question`, `context` and `answers`. `answers` may be a list of strings, a
list of objects with `text` and `start` or `answer_start`, or SQuAD's object of two lists, `text` and
`answer_start`; an empty one means that the context does not answer the question. `evidence` may give the
characters that decide, as a list of `[start, end]`; without it, an answer's own place is the evidence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.manifest import Task
from .errors import DocumentsError

__all__ = ["Document", "read_documents"]

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One labelled document.

    Attributes:
        line: its line in the file, or its row in a Parquet file, from 1.
        text: the text, or the context.
        label: the right label; None for question answering.
        question: what is asked; None for classification.
        answers: the right answers; none if the context has none.
        evidence: the characters that decide, `[start, end)` in code points; None if that is not known.
    """

    line: int
    text: str
    label: str | None = None
    question: str | None = None
    answers: tuple[str, ...] = ()
    evidence: Ranges | None = None


def read_documents(path: Path, task: Task) -> tuple[Document, ...]:
    """Read a `.jsonl`, `.ndjson` or `.parquet` file of labelled documents.

    Raises:
        DocumentsError: no such file, another suffix, no row, or a row that cannot be used; the message names
            the file and the line.
    """
    if not path.is_file():
        raise DocumentsError(f"there is no file {path}; give a .jsonl or .parquet file")
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    read = _labelled_text if task is Task.TEXT_CLASSIFICATION else _labelled_question
    documents = []
    for line, row in rows:
        try:
            documents.append(read(line, row))
        except ValueError as error:
            raise DocumentsError(f"{path}, line {line}: {error}") from None
    if not documents:
        raise DocumentsError(f"{path} has no document in it; give at least one")
    return tuple(documents)


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix not in (".jsonl", ".ndjson"):
        raise DocumentsError(f"{path} ends with {path.suffix or 'no suffix'}; give a .jsonl or .parquet file")
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DocumentsError(f"{path}, line {number}: no JSON: {error}") from None
            if not isinstance(row, dict):
                raise DocumentsError(
                    f"{path}, line {number}: it holds a {type(row).__name__}; give a JSON object"
                )
            yield number, row


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DocumentsError(f"{path} needs pyarrow ({error}); install 'longserve[batch]'") from error
    try:
        file = pq.ParquetFile(path)
        known = ("text", "label", "question", "context", "answers", "evidence")
        columns = [name for name in file.schema_arrow.names if name in known]
        number = 0
        for batch in file.iter_batches(batch_size=256, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError) as error:
        raise DocumentsError(f"{path} cannot be read as Parquet: {error}") from error


def _labelled_text(line: int, row: Mapping[str, Any]) -> Document:
    text = _string(row, "text")
    label = row.get("label")
    if not isinstance(label, str):
        raise ValueError(f"its label is {label!r}; give the label's name as a string")
    return Document(line=line, text=text, label=label, evidence=_evidence(row, text))


def _labelled_question(line: int, row: Mapping[str, Any]) -> Document:
    context = _string(row, "context")
    question = _string(row, "question")
    answers, places = _answers(row, context)
    evidence = _evidence(row, context)
    if evidence is None and answers:
        evidence = places or _only_place(answers, context)
    return Document(
        line=line,
        text=context,
        question=question,
        answers=answers,
        evidence=evidence,
    )


def _string(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        raise ValueError(f"it has no field {name!r}; it has {', '.join(map(repr, row)) or 'none'}")
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"its {name!r} is {_shown(value)}; give a text")
    return value


def _answers(row: Mapping[str, Any], context: str) -> tuple[tuple[str, ...], Ranges]:
    """Return the answers, and the place of the first one if its start is given."""
    if "answers" not in row:
        raise ValueError(f"it has no field 'answers'; it has {', '.join(map(repr, row))}")
    given = row["answers"]
    if isinstance(given, Mapping):
        texts, starts = given.get("text"), given.get("answer_start")
        if not isinstance(texts, list):
            raise ValueError("its answers are an object without a list 'text'; give SQuAD's lists")
        if starts is not None and len(starts) != len(texts):
            raise ValueError(f"it has {len(texts)} answers and {len(starts)} starts; give one for each")
        pairs = list(zip(texts, starts or [None] * len(texts), strict=True))
    elif isinstance(given, list):
        pairs = [_pair(answer) for answer in given]
    else:
        raise ValueError(f"its answers are {_shown(given)}; give a list, empty if there is no answer")
    for text, start in pairs:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"an answer is {_shown(text)}; give a text")
        if start is not None and (
            not isinstance(start, int) or context[max(0, start) : max(0, start) + len(text)] != text
        ):
            raise ValueError(f"its answer {_shown(text)} does not stand at character {start} of the context")
    known = [(start, start + len(text)) for text, start in pairs if start is not None]
    return tuple(text for text, _ in pairs), tuple(known[:1])


def _pair(answer: Any) -> tuple[Any, Any]:
    if isinstance(answer, Mapping):
        return answer.get("text"), answer.get("start", answer.get("answer_start"))
    return answer, None


def _only_place(answers: tuple[str, ...], context: str) -> Ranges | None:
    """Where the first answer stands, if there alone; of several places nobody says which one is meant."""
    start = context.find(answers[0])
    if start < 0 or context.find(answers[0], start + 1) >= 0:
        return None
    return ((start, start + len(answers[0])),)


def _evidence(row: Mapping[str, Any], text: str) -> Ranges | None:
    given = row.get("evidence")
    if given is None:
        return None
    if not isinstance(given, list):
        raise ValueError(f"its evidence is {_shown(given)}; give a list of [start, end]")
    ranges = []
    for piece in given:
        if (
            not isinstance(piece, list)
            or len(piece) != 2
            or not all(isinstance(place, int) for place in piece)
            or not 0 <= piece[0] < piece[1] <= len(text)
        ):
            raise ValueError(
                f"a piece of its evidence is {_shown(piece)}; give [start, end] with 0 <= start < end <= "
                f"{len(text)}, the text's length"
            )
        ranges.append((piece[0], piece[1]))
    return tuple(sorted(ranges)) or None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
