"""How right predictions are: macro-F1 of labels; exact match and F1 of answers, as SQuAD has them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["answer_f1", "exact_match", "macro_f1_of", "mean_of", "normalize_answer"]

Weighted = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""From how often each document counts, `[resamples, documents]`, to the metric `[resamples]`."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Return an answer in lower case, without punctuation and English articles, with single spaces.

    As `normalize_answer` of SQuAD's evaluate-v1.1.py and evaluate-v2.0.py.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, right: Sequence[str]) -> float:
    """Return 1 if the answer is a right one after normalization, else 0; no right one means "" is right."""
    return float(normalize_answer(answer) in {normalize_answer(text) for text in right or ("",)})


def answer_f1(answer: str, right: Sequence[str]) -> float:
    """Return the F1 of the answer's words, the best over the right ones; "" is right where there is none."""
    words = normalize_answer(answer).split()
    return max(_word_f1(words, normalize_answer(text).split()) for text in right or ("",))


def _word_f1(words: list[str], right: list[str]) -> float:
    if not words or not right:
        return float(words == right)
    common = sum((Counter(words) & Counter(right)).values())
    return 2 * common / (len(words) + len(right))


def macro_f1_of(predicted: Sequence[str], right: Sequence[str]) -> Weighted:
    """Return the mean over labels of F1, as a function of how often each document counts.

    Labels are those that occur, as predictions or as right ones, in the documents that count.
    """
    labels = sorted({*predicted, *right})
    given = np.array([[label == name for name in labels] for label in predicted], dtype=np.float64)
    true = np.array([[label == name for name in labels] for label in right], dtype=np.float64)

    def metric(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        hits, total = weights @ (given * true), weights @ (given + true)
        occurring = total > 0
        f1 = np.where(occurring, 2 * hits / np.where(occurring, total, 1), 0.0)
        return np.asarray(f1.sum(axis=1) / occurring.sum(axis=1), dtype=np.float64)

    return metric


def mean_of(values: Sequence[float]) -> Weighted:
    """Return the mean of values, as a function of how often each document counts."""
    array = np.asarray(values, dtype=np.float64)

    def metric(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(weights @ array / weights.sum(axis=1), dtype=np.float64)

    return metric
