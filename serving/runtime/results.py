"""What the text pipelines return. The clients return the same objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Answer", "Classification"]


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
