"""Labelled documents are read in every shape that is promised; a bad row is named by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longserve.serving import Task
from longserve.serving.compare.documents import Document, read_documents
from longserve.serving.compare.errors import DocumentsError

CONTEXT = "Anna signed. Bert paid. Anna left."


def written(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "docs.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def asked(**fields: Any) -> dict[str, Any]:
    return {"question": "Who paid?", "context": CONTEXT, **fields}


def read_one(tmp_path: Path, row: Any) -> Document:
    (document,) = read_documents(written(tmp_path, row), Task.QUESTION_ANSWERING)
    return document


def test_texts_with_labels(tmp_path: Path) -> None:
    path = written(
        tmp_path, {"text": "a", "label": "x"}, "", {"text": "bc", "label": "y", "evidence": [[0, 1]]}
    )
    first, second = read_documents(path, Task.TEXT_CLASSIFICATION)
    assert (first.line, first.label, first.evidence) == (1, "x", None)
    assert (second.line, second.label, second.evidence) == (3, "y", ((0, 1),))


@pytest.mark.parametrize(
    "answers",
    [
        ["Bert"],
        [{"text": "Bert", "start": 13}],
        [{"text": "Bert", "answer_start": 13}],
        {"text": ["Bert"], "answer_start": [13]},
        {"text": ["Bert"]},
    ],
)
def test_every_shape_of_answers(tmp_path: Path, answers: Any) -> None:
    document = read_one(tmp_path, asked(answers=answers))
    assert document.answers == ("Bert",) and document.evidence == ((13, 17),)


def test_the_place_of_an_answer_that_stands_twice_is_known_from_its_start_alone(tmp_path: Path) -> None:
    assert read_one(tmp_path, asked(answers=["Anna"])).evidence is None
    assert read_one(tmp_path, asked(answers=[{"text": "Anna", "start": 24}])).evidence == ((24, 28),)
    assert read_one(tmp_path, asked(answers=["Anna"], evidence=[[0, 12]])).evidence == ((0, 12),)


def test_questions_without_an_answer(tmp_path: Path) -> None:
    for none in ([], {"text": [], "answer_start": []}):
        document = read_one(tmp_path, asked(answers=none))
        assert document.answers == () and document.evidence is None


def test_parquet_is_read_alike(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="Parquet needs the extra [batch]")
    import pyarrow.parquet as pq

    rows = [
        asked(answers={"text": ["Bert"], "answer_start": [13]}, id=1),
        asked(answers={"text": [], "answer_start": []}, id=2),
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "docs.parquet")
    expected = read_documents(written(tmp_path, *rows), Task.QUESTION_ANSWERING)
    assert read_documents(tmp_path / "docs.parquet", Task.QUESTION_ANSWERING) == expected
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(DocumentsError, match=r"bad\.parquet cannot be read as Parquet"):
        read_documents(tmp_path / "bad.parquet", Task.QUESTION_ANSWERING)


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ("{", "no JSON"),
        ("[1]", "holds a list"),
        ({"text": "a", "label": 3}, r"its label is 3; give the label's name"),
        ({"text": "a"}, "its label is None"),
        ({"body": "a", "label": "x"}, r"no field 'text'; it has 'body', 'label'"),
        ({"text": " ", "label": "x"}, "its 'text' is ' '; give a text"),
        ({"text": "abc", "label": "x", "evidence": [[0, 9]]}, r"\[0, 9\]; give .* 3, the text's length"),
        ({"text": "abc", "label": "x", "evidence": "b"}, "its evidence is 'b'"),
    ],
)
def test_a_bad_text_is_named(tmp_path: Path, row: Any, cause: str) -> None:
    path = written(tmp_path, {"text": "a", "label": "x"}, row)
    with pytest.raises(DocumentsError, match=rf"docs\.jsonl, line 2: .*{cause}"):
        read_documents(path, Task.TEXT_CLASSIFICATION)


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({}, "no field 'answers'"),
        ({"answers": "Bert"}, "its answers are 'Bert'; give a list"),
        ({"answers": [""]}, "an answer is ''"),
        ({"answers": {"answer_start": [1]}}, "without a list 'text'"),
        ({"answers": {"text": ["Bert"], "answer_start": []}}, "1 answers and 0 starts"),
        ({"answers": [{"text": "Bert", "start": 12}]}, "'Bert' does not stand at character 12"),
        ({"answers": [{"text": "Bert", "start": -21}]}, "does not stand at character -21"),
        ({"answers": ["Bert"], "question": None}, "its 'question' is None"),
    ],
)
def test_a_bad_question_is_named(tmp_path: Path, fields: dict[str, Any], cause: str) -> None:
    with pytest.raises(DocumentsError, match=rf"line 1: .*{cause}"):
        read_one(tmp_path, asked(**fields))


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "docs.csv").write_text("text,label")
    for name, cause in (
        ("none.jsonl", "there is no file"),
        ("empty.jsonl", "no document"),
        ("docs.csv", "ends with .csv"),
    ):
        with pytest.raises(DocumentsError, match=cause):
            read_documents(tmp_path / name, Task.TEXT_CLASSIFICATION)
