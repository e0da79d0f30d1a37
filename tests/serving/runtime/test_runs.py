"""Runs of the packed graph: complete, in order, within the bound."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longserve.serving.runtime.runs import plan_runs


@pytest.mark.parametrize(
    ("lengths", "bound", "expected"),
    [
        ([], 10, []),
        ([4], 10, [range(1)]),
        ([4, 6], 10, [range(2)]),
        ([4, 7], 10, [range(1), range(1, 2)]),
        ([11, 1, 12], 10, [range(1), range(1, 2), range(2, 3)]),
        ([5, 5, 5, 5, 5], 10, [range(2), range(2, 4), range(4, 5)]),
    ],
)
def test_examples(lengths: list[int], bound: int, expected: list[range]) -> None:
    assert plan_runs(lengths, bound) == expected


@given(st.lists(st.integers(1, 50)), st.integers(1, 100))
def test_every_sequence_runs_once_within_the_bound(lengths: list[int], bound: int) -> None:
    runs = plan_runs(lengths, bound)
    assert [index for run in runs for index in run] == list(range(len(lengths)))
    for run in runs:
        assert len(run) == 1 or sum(lengths[index] for index in run) <= bound
    for run, following in pairwise(runs):  # none could have taken the next sequence too
        assert sum(lengths[index] for index in run) + lengths[following[0]] > bound
