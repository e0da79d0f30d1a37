"""The tasks of the study put their evidence where they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from demo_documents import count_words
from evidence_tasks import TASKS, held_out, main


@pytest.mark.parametrize("task", sorted(TASKS))
def test_rows_are_labelled_and_repeatable(task: str, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for file in files:
        main([task, "--documents", "30", "--longest", "700", "--output", str(file)])
    assert files[0].read_bytes() == files[1].read_bytes()
    rows = [json.loads(line) for line in files[0].read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 30 and {row["label"] for row in rows} <= set(TASKS[task].labels)
    assert max(count_words(row["text"]) for row in rows) <= 730
    for row in rows:
        for start, end in row["evidence"]:
            assert row["text"][start:end].endswith(".")


def test_one_sentence_two_far_ones_or_many() -> None:
    assert all(len(text.evidence) == 1 for text in held_out("local", 40))
    for text in held_out("far", 40):
        (_, opening), (start, _) = text.evidence
        assert opening <= 0.25 * len(text.text) or count_words(text.text) < 150
        assert start >= 0.65 * len(text.text) or count_words(text.text) < 150
        assert (text.causes[0] == text.causes[1]) == (text.label == "covered")
    for text in held_out("scattered", 40):
        assert len(text.evidence) >= 3
        assert max(set(text.causes), key=text.causes.count) == text.label
