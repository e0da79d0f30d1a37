from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from longserve.serving.runtime.errors import InvalidInput
from longserve.serving.runtime.windows import Window, default_stride, plan_windows


def test_a_document_that_fits_is_one_window() -> None:
    assert plan_windows(10, 10, 3) == (Window(0, 10),)
    assert plan_windows(1, 10, 30) == (Window(0, 1),)


@given(tokens=st.integers(1, 5000), capacity=st.integers(1, 400), stride=st.integers(0, 399))
def test_windows_cover_overlap_exactly_and_are_the_fewest(tokens: int, capacity: int, stride: int) -> None:
    assume(stride < capacity < tokens)
    windows = plan_windows(tokens, capacity, stride)
    assert windows[0].start == 0
    assert windows[-1].end == tokens
    for left, right in itertools.pairwise(windows):
        assert left.end - right.start == stride
        assert left.start < right.start and left.end < right.end
    sizes = [window.size for window in windows]
    assert max(sizes) <= capacity
    assert max(sizes) - min(sizes) <= 1
    # Hugging Face's full windows and a rest: as many
    assert len(windows) == len(range(0, tokens - stride, capacity - stride))


@pytest.mark.parametrize(("capacity", "stride"), [(10, 10), (10, 11), (0, 0), (-3, 0)])
def test_no_progress_is_refused_with_the_numbers(capacity: int, stride: int) -> None:
    with pytest.raises(InvalidInput, match=rf"100 tokens.*{max(capacity, 0)} .*{stride} \(stride\)"):
        plan_windows(100, capacity, stride)


def test_default_stride_is_128_but_less_for_short_models() -> None:
    assert default_stride(4096) == 128
    assert default_stride(64) == 16
