"""Medians, spreads and ratios."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longserve.serving.measurement.statistics import paired_ratio, spread

SECONDS = st.floats(1e-4, 1e3)


def test_a_spread_is_the_median_and_the_outer_tenths() -> None:
    found = spread([float(value) for value in range(11)][::-1])
    assert (found.p10, found.median, found.p90, found.samples) == (1.0, 5.0, 9.0, 11)


def test_nothing_has_no_spread() -> None:
    with pytest.raises(ValueError, match="no value"):
        spread([])


@given(
    rounds=st.lists(st.tuples(SECONDS, st.floats(0.5, 20.0)), min_size=1, max_size=30),
    faster=st.floats(0.1, 50),
)
def test_a_machine_that_slows_down_for_all_leaves_the_ratio(
    rounds: list[tuple[float, float]], faster: float
) -> None:
    baseline = [seconds * slowdown for seconds, slowdown in rounds]
    found = paired_ratio(baseline, [seconds / faster for seconds in baseline])
    assert np.allclose([found.p10, found.median, found.p90], faster)


def test_ratios_need_the_same_rounds() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        paired_ratio([1.0, 2.0], [1.0])
