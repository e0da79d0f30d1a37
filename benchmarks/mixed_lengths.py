"""Lengths of documents as they come to a server: long-tailed."""

from __future__ import annotations

import numpy as np

SHORTEST, LONGEST = 50, 4096
_MEDIAN, _SIGMA = 300.0, 1.0


def mixed_lengths(count: int, *, seed: int = 0, longest: int = LONGEST) -> list[int]:
    """Draw lengths in tokens from a log-normal distribution (median 300, sigma 1), cut to 50 to `longest`.

    Most are short, a few have thousands of tokens: of 10,000 the mean is near 480, the 90th percentile near
    1080 and the 99th near 3070.
    """
    random = np.random.default_rng(seed)
    drawn = random.lognormal(np.log(_MEDIAN), _SIGMA, count)
    return [int(length) for length in np.clip(drawn, SHORTEST, longest)]
