"""Medians and spreads of few samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Spread", "paired_ratio", "spread"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median, 10th and 90th percentile (linear interpolation) of `samples` values."""

    median: float
    p10: float
    p90: float
    samples: int


def spread(values: Sequence[float]) -> Spread:
    """Summarize values.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("there is no value to summarize")
    low, middle, high = np.quantile(np.asarray(values, dtype=np.float64), (0.1, 0.5, 0.9))
    return Spread(median=float(middle), p10=float(low), p90=float(high), samples=len(values))


def paired_ratio(baseline: Sequence[float], values: Sequence[float]) -> Spread:
    """Summarize how many times faster than the baseline each round was.

    The ratio is formed within a round, where both ran seconds apart, and only then summarized: a machine
    that is slower for a while slows both and leaves the ratio.

    Args:
        baseline: seconds of the baseline, one value a round.
        values: seconds of the other engine, in the same rounds.

    Raises:
        ValueError: another number of rounds, or none.
    """
    return spread([base / value for base, value in zip(baseline, values, strict=True)])
