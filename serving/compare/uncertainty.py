"""Whether a difference between two models on the same documents is more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .scores import Weighted

__all__ = ["Difference", "mcnemar", "paired_difference"]

_RESAMPLES = 2000
_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """By how much a metric of one model is above another's.

    Attributes:
        value: the difference.
        low, high: its 95 % interval, from 2000 paired resamples of the documents.
        p_value: of McNemar's exact test that both are right equally often.
    """

    value: float
    low: float
    high: float
    p_value: float


def paired_difference(
    better: Weighted,
    worse: Weighted,
    correct: tuple[Sequence[bool], Sequence[bool]],
    *,
    seed: int = 0,
) -> Difference:
    """Compare two models' metrics on the same documents.

    Args:
        better, worse: each model's metric as a function of how often each document counts.
        correct: whether each document is right, for both models.
        seed: of the resampling (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13:
            percentile intervals).
    """
    count = len(correct[0])
    once = np.ones((1, count))
    random = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // count)
    drawn = []
    for start in range(0, _RESAMPLES, step):
        size = min(step, _RESAMPLES - start)
        weights = random.multinomial(count, [1 / count] * count, size=size).astype(np.float64)
        drawn.append(better(weights) - worse(weights))
    low, high = np.quantile(np.concatenate(drawn), (0.025, 0.975))
    return Difference(
        value=float((better(once) - worse(once))[0]),
        low=float(low),
        high=float(high),
        p_value=mcnemar(*correct),
    )


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Return the p-value of McNemar's exact test, two-sided (McNemar, Psychometrika 12, 1947).

    Only documents count that one model has right and the other wrong: if both were equally good, each of
    these would go either way like a coin.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    tossed = only_first + only_second
    ways = sum(math.comb(tossed, heads) for heads in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * ways / 2**tossed))
