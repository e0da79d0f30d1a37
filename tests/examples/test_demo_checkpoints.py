"""The committed checkpoints are as good as they are said to be, measured anew with stock transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the checkpoints are run with torch")
pytest.importorskip("transformers", reason="the checkpoints are run with transformers")

from demo_accuracy import (
    answer_question,
    classify_text,
    evidence_token,
    held_out_claim_files,
    held_out_minutes,
    measure_classifier,
    measure_reader,
    shares,
)
from demo_documents import write_claim_file, write_minutes

NAMES = ("longformer-tiny-classification", "longformer-tiny-qa")
DOCUMENTS = json.loads((Path(__file__).parents[2] / "examples/documents/documents.json").read_text("utf-8"))


@pytest.mark.slow
def test_held_out_answers(reader: tuple[Any, Any]) -> None:
    found = shares(measure_reader(*reader, held_out_minutes(60)))
    assert found["all"]["documents"] == 60
    assert found["all"]["correct"] >= 0.95, found


@pytest.mark.slow
def test_held_out_labels(classifier: tuple[Any, Any]) -> None:
    found = shares(measure_classifier(*classifier, held_out_claim_files(90)))
    assert found["all"]["documents"] == 90
    assert found["all"]["correct"] >= 0.95, found


@pytest.mark.slow
def test_answers_in_documents_longer_than_the_model(reader: tuple[Any, Any]) -> None:
    documents = [write_minutes(f"held-out/long/{n}", words=9000, position=0.1 + 0.2 * n) for n in range(5)]
    right = [answer_question(*reader, each.question, each.text) == each.answer for each in documents]
    assert sum(right) >= 4, right


@pytest.mark.slow
def test_labels_of_documents_longer_than_the_model(classifier: tuple[Any, Any]) -> None:
    files = [write_claim_file(f"held-out/long/{n}", words=9000) for n in range(5)]
    assert [classify_text(*classifier, file.text) for file in files] == [file.label for file in files]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: each["file"])
def test_demo_documents_are_answered(
    document: dict[str, Any], examples: Path, request: pytest.FixtureRequest
) -> None:
    text = (examples / "documents" / document["file"]).read_text("utf-8")
    if document["task"] == "text-classification":
        model, tokenizer = request.getfixturevalue("classifier")
        assert classify_text(model, tokenizer, text) == document["label"]
    else:
        model, tokenizer = request.getfixturevalue("reader")
        assert answer_question(model, tokenizer, document["question"], text) == document["answer"]


def test_demo_documents_have_their_evidence_far_in(reader: tuple[Any, Any], examples: Path) -> None:
    positions = []
    for document in DOCUMENTS:
        if document["task"] == "question-answering":
            text = (examples / "documents" / document["file"]).read_text("utf-8")
            assert text.count(document["answer"]) == 1
            encoding = reader[1].backend_tokenizer.encode(text, add_special_tokens=False)
            start = text.index(document["answer"])
            at = next(index for index, (_, end) in enumerate(encoding.offsets) if end > start)
            assert at == document["evidence_token"]
            positions.append(at)
    assert any(512 < at < 4096 for at in positions)
    assert any(at > 4096 for at in positions)


@pytest.mark.parametrize("name", NAMES)
def test_stated_accuracy_is_at_least_95_percent(name: str, examples: Path) -> None:
    facts = json.loads((examples / "checkpoints" / name / "training.json").read_text("utf-8"))
    assert facts["held_out"]["all"]["correct"] >= 0.95
    assert facts["held_out"]["all"]["documents"] >= 300


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_are_small(name: str, examples: Path) -> None:
    sizes = [path.stat().st_size for path in (examples / "checkpoints" / name).iterdir()]
    assert sum(sizes) < 8_000_000


def test_held_out_evidence_is_spread(reader: tuple[Any, Any]) -> None:
    at = [evidence_token(reader[1], each) for each in held_out_minutes(120) if each.answer]
    assert sum(token > 512 for token in at) > len(at) / 3
    assert max(at) > 2500
