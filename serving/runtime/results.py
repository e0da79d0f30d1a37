"""What the text pipelines return. The clients return the same objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Answer",
    "Classification",
    "WindowAnswers",
    "WindowClassification",
    "WindowedAnswers",
    "WindowedClassification",
    "windows_to_json",
]


@dataclass(frozen=True, slots=True)
class Classification:
    """The labels of one text.

    Attributes:
        label: the best label.
        score: its score.
        scores: label to score, best first; all labels, or the `top_k` best.
        tokens: tokens that were read: the whole text, special tokens included, each counted once.
        windows: number of overlapping windows that it took; 1 where the text fits the model.
    """

    label: str
    score: float
    scores: Mapping[str, float]
    tokens: int
    windows: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a question: `context[start:end] == answer`.

    Attributes:
        answer: the text of the answer; "" is "the context does not answer it" (with start and end 0), which
            only comes with `handle_impossible_answer`.
        score: probability, 0 to 1 (`spans` has the formula).
        start: index of the first character in the given context, in Unicode code points.
        end: index after the last character, in Unicode code points.
        tokens: tokens that were read: question and whole context, special tokens included, each counted once.
        windows: number of overlapping windows that it took; 1 where question and context fit the model.
    """

    answer: str
    score: float
    start: int
    end: int
    tokens: int
    windows: int


@dataclass(frozen=True, slots=True)
class WindowClassification:
    """What one window of a text gave.

    Attributes:
        start, end: the window's characters, `text[start:end]`, in Unicode code points.
        tokens: tokens of the text that the window holds, special tokens not counted.
        label: the window's best label.
        score: its score in this window alone.
        scores: label to score in this window alone, best first; all labels, or the `top_k` best.
    """

    start: int
    end: int
    tokens: int
    label: str
    score: float
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class WindowedClassification:
    """A text's labels, and those of each of its windows in order."""

    combined: Classification
    windows: tuple[WindowClassification, ...]


@dataclass(frozen=True, slots=True)
class WindowAnswers:
    """What one window of a context gave.

    Attributes:
        start, end: the window's characters, `context[start:end]`, in Unicode code points.
        tokens: tokens of the context that the window holds; the question's and special tokens not counted.
        answers: the window's best answers, best first, at most `top_k`. Their scores are on the scale of the
            whole context, so those of different windows can be compared.
    """

    start: int
    end: int
    tokens: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class WindowedAnswers:
    """The best answers of a context, and those of each of its windows in order."""

    combined: tuple[Answer, ...]
    windows: tuple[WindowAnswers, ...]


def windows_to_json(windows: Sequence[WindowAnswers | WindowClassification]) -> str:
    """Write what the windows of a text gave as an element of `WINDOW_RESULTS`, a list of JSON objects.

    The windows of two texts differ in number, which no tensor can hold. `serving/client/calls.py` reads it.
    """
    return json.dumps([_described(window) for window in windows], ensure_ascii=False)


def _described(window: WindowAnswers | WindowClassification) -> dict[str, Any]:
    place = {"start": window.start, "end": window.end, "tokens": window.tokens}
    if isinstance(window, WindowClassification):
        return {**place, "scores": dict(window.scores)}
    answers = [{"answer": a.answer, "score": a.score, "start": a.start, "end": a.end} for a in window.answers]
    return {**place, "answers": answers}
