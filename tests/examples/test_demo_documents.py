"""The generated documents are what their parameters say."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from demo_documents import LABELS, count_words, write_claim_file, write_minutes, write_policy_file

LENGTHS = (40, 200, 1000, 6000)


@pytest.mark.parametrize("words", LENGTHS)
@pytest.mark.parametrize("key", ["a", "b", "c"])
def test_answer_stands_where_minutes_say(key: str, words: int) -> None:
    minutes = write_minutes(key, words=words)
    end = minutes.answer_start + len(minutes.answer)
    assert minutes.text[minutes.answer_start : end] == minutes.answer != ""


@pytest.mark.parametrize("words", LENGTHS)
def test_length_is_reached_to_a_sentence(words: int) -> None:
    for number in range(20):
        assert abs(count_words(write_minutes(f"{number}", words=words).text) - words) <= 30
        assert abs(count_words(write_claim_file(f"{number}", words=words).text) - words) <= 30


def test_same_key_same_document() -> None:
    assert write_minutes("k", words=300) == write_minutes("k", words=300)
    assert write_minutes("k", words=300) != write_minutes("l", words=300)
    assert write_claim_file("k", words=300) == write_claim_file("k", words=300)
    assert write_claim_file("k", words=300) != write_claim_file("l", words=300)


@pytest.mark.parametrize("position", [0.0, 0.25, 0.5, 1.0])
def test_position_moves_the_evidence(position: float) -> None:
    for number in range(10):
        minutes = write_minutes(f"{number}", words=2000, position=position)
        assert minutes.answer_start / len(minutes.text) == pytest.approx(position, abs=0.03)


@pytest.mark.parametrize("words", [60, 1500])
def test_the_asked_fact_is_stated_once_or_not_at_all(words: int) -> None:
    for number in range(40):
        minutes = write_minutes(f"{number}", words=words, facts=0.8)
        none = write_minutes(f"{number}", words=words, facts=0.8, answerable=False)
        for text, question, times in ((minutes.text, minutes.question, 1), (none.text, none.question, 0)):
            noun, project = re.findall(r"(\w+) of Project (\w+)", question)[0]
            assert len(re.findall(rf"{noun} (?:of|for) Project {project}\b", text)) == times
        assert none.answer == ""
        assert none.answer_start == -1


def test_rivals_make_the_question_matter() -> None:
    minutes = write_minutes("r", words=2000, facts=0.5, rivals=0.5)
    noun, project = re.findall(r"(\w+) of Project (\w+)", minutes.question)[0]
    rivals = set(re.findall(rf"{noun} of Project (\w+)", minutes.text)) - {project}
    assert len(rivals) > 10


def test_the_label_has_the_majority_of_the_evidence() -> None:
    for number in range(60):
        file = write_claim_file(f"{number}", words=800, majority=0.6)
        votes = Counter(piece.label for piece in file.evidence)
        assert file.label in LABELS
        assert votes[file.label] / votes.total() > 0.6
        for piece in file.evidence:
            assert file.text[piece.start : piece.end].endswith(".")
            assert file.text[piece.start : piece.end].count(".") == 1


def test_region_bounds_the_evidence() -> None:
    file = write_claim_file("x", words=3000, evidence=20, region=(0.5, 0.75))
    assert len(file.evidence) == 20
    assert file.evidence[0].start >= 0.45 * len(file.text)
    assert file.evidence[-1].end <= 0.8 * len(file.text)


def test_a_file_without_evidence_has_no_label() -> None:
    file = write_claim_file("x", words=300, evidence=0)
    assert file.label is None
    assert file.evidence == ()


@pytest.mark.parametrize(
    "parameters",
    [
        {"words": 5},
        {"words": 50, "position": 1.5},
        {"words": 50, "facts": -0.1},
        {"words": 50, "rivals": 2.0},
    ],
)
def test_minutes_refuse_what_makes_no_sense(parameters: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        write_minutes("x", **parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "parameters", [{"majority": 0.5}, {"region": (0.6, 0.4)}, {"evidence": -1}, {"denied": 1.2}]
)
def test_claim_files_refuse_what_makes_no_sense(parameters: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        write_claim_file("x", words=100, **parameters)  # type: ignore[arg-type]


def test_a_policy_file_needs_both_of_its_sentences() -> None:
    labels: Counter[str] = Counter()
    for number in range(200):
        file = write_policy_file(f"{number}", words=200, insured=0.0, observed=0.9)
        named, happened = file.evidence
        assert file.label == ("covered" if named.label == happened.label else "not covered")
        assert named.start == 0 and happened.start >= 0.7 * len(file.text)
        assert f"by {named.label}" in file.text[named.start : named.end]
        for piece in file.evidence:
            assert file.text[piece.start : piece.end].count(".") == 1
        labels[file.label] += 1
    assert 70 < labels["covered"] < 130


def test_the_order_of_a_policy_file_is_free() -> None:
    file = write_policy_file("x", words=300, insured=1.0, observed=0.0)
    named, happened = file.evidence
    assert happened.start == 0 and named.end == len(file.text)
    together = write_policy_file("x", words=300, insured=0.5, observed=0.5)
    assert together.evidence[0].end < together.evidence[1].start < together.evidence[0].end + 3
