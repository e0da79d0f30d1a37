from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longserve.serving.runtime.spans import Span, WindowLogits, best_spans, trimmed_bounds
from longserve.serving.runtime.windows import plan_windows


def word_bounds(tokens: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Bounds of a context of one-letter tokens with a space before each but the first."""
    starts = 2 * np.arange(tokens, dtype=np.int64)
    return starts, starts + 1


def hugging_face_scores(
    start: npt.NDArray[Any], end: npt.NDArray[Any], longest: int
) -> tuple[npt.NDArray[Any], float]:
    """Score of each span of a single window, and of no answer, as transformers 4's pipeline has them:
    position 0 is the null position, the rest the context."""
    p_start = np.exp(start - start.max()) / np.exp(start - start.max()).sum()
    p_end = np.exp(end - end.max()) / np.exp(end - end.max()).sum()
    null = p_start[0] * p_end[0]
    outer = np.outer(p_start[1:], p_end[1:])
    return np.tril(np.triu(outer), longest - 1), null


@given(
    seed=st.integers(0, 10_000),
    tokens=st.integers(1, 40),
    longest=st.integers(1, 50),
    top_k=st.integers(1, 12),
    impossible=st.booleans(),
)
def test_one_window_equals_the_hugging_face_pipeline(
    seed: int, tokens: int, longest: int, top_k: int, impossible: bool
) -> None:
    random = np.random.default_rng(seed)
    start, end = random.normal(scale=3, size=(2, tokens + 1))
    scores, null = hugging_face_scores(start, end, longest)
    expected = [Span(scores[i, j], 2 * i, 2 * j + 1) for i, j in zip(*scores.nonzero(), strict=True)]
    if impossible:
        expected.append(Span(null, 0, 0))
    expected = sorted(expected, key=lambda span: -span.score)[:top_k]
    window = WindowLogits(first=0, start=start[1:], end=end[1:], null_start=start[0], null_end=end[0])
    found = best_spans(
        [window],
        word_bounds(tokens),
        top_k=top_k,
        max_answer_tokens=longest,
        handle_impossible_answer=impossible,
    )
    assert [(span.start, span.end) for span in found] == [(span.start, span.end) for span in expected]
    assert [span.score for span in found] == pytest.approx([span.score for span in expected])


def brute_force(
    windows: list[WindowLogits], starts: npt.NDArray[Any], ends: npt.NDArray[Any], longest: int
) -> tuple[dict[tuple[int, int], float], float]:
    """The module's formula, span by span."""
    null = min(windows, key=lambda window: window.null_start + window.null_end)
    best_start: dict[int, float] = {-1: null.null_start}
    best_end: dict[int, float] = {-1: null.null_end}
    sums: dict[tuple[int, int], float] = {}
    for window in windows:
        size = len(window.start)
        for i in range(size):
            token = window.first + i
            best_start[token] = max(best_start.get(token, -np.inf), window.start[i])
            best_end[token] = max(best_end.get(token, -np.inf), window.end[i])
            for j in range(i, min(size, i + longest)):
                span = (int(starts[token]), int(ends[window.first + j]))
                if span[0] < span[1]:
                    sums[span] = max(sums.get(span, -np.inf), window.start[i] + window.end[j])
    total = sum(np.exp(list(best_start.values()))) * sum(np.exp(list(best_end.values())))
    return {span: np.exp(value) / total for span, value in sums.items()}, np.exp(
        null.null_start + null.null_end
    ) / total


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    tokens=st.integers(1, 30),
    capacity=st.integers(2, 12),
    longest=st.integers(1, 14),
    top_k=st.integers(1, 60),
    impossible=st.booleans(),
    ties=st.booleans(),
    data=st.data(),
)
def test_many_windows_equal_brute_force(
    seed: int,
    tokens: int,
    capacity: int,
    longest: int,
    top_k: int,
    impossible: bool,
    ties: bool,
    data: st.DataObject,
) -> None:
    stride = data.draw(st.integers(0, capacity - 1))
    random = np.random.default_rng(seed)
    # Tokens that share characters, or have none of their own, as byte-level BPE makes them
    starts = np.sort(random.integers(0, tokens + 1, size=tokens))
    ends = np.sort(random.integers(0, tokens + 1, size=tokens))
    windows = []
    for window in plan_windows(tokens, capacity, stride):
        start, end = random.normal(scale=3, size=(2, window.size))
        null_start, null_end = random.normal(scale=3, size=2)
        if ties:
            start, end = np.round(start), np.round(end)
        windows.append(
            WindowLogits(first=window.start, start=start, end=end, null_start=null_start, null_end=null_end)
        )
    scores, null = brute_force(windows, starts, ends, longest)
    expected = [Span(score, *span) for span, score in sorted(scores.items())]
    if impossible:
        expected.append(Span(null, 0, 0))
    expected = sorted(expected, key=lambda span: -span.score)[:top_k]
    found = best_spans(
        windows,
        (starts, ends),
        top_k=top_k,
        max_answer_tokens=longest,
        handle_impossible_answer=impossible,
    )
    assert [(span.start, span.end) for span in found] == [(span.start, span.end) for span in expected]
    assert [span.score for span in found] == pytest.approx([span.score for span in expected])
    assert sum(scores.values()) + null <= 1 + 1e-9


def test_a_clear_answer_keeps_its_score_however_many_windows_there_are() -> None:
    def score(windows: int, overlap: int) -> float:
        size = 20
        found = []
        for index in range(windows):
            first = index * (size - overlap)
            start = np.zeros(size)
            end = np.zeros(size)
            holds_answer = first <= 18 < first + size - 1
            if holds_answer:
                start[18 - first], end[19 - first] = 15, 15
            null = -5.0 if holds_answer else 12.0
            found.append(WindowLogits(first=first, start=start, end=end, null_start=null, null_end=null))
        tokens = found[-1].first + size
        best = best_spans(
            found, word_bounds(tokens), top_k=1, max_answer_tokens=30, handle_impossible_answer=True
        )[0]
        assert (best.start, best.end) == (36, 39)
        return best.score

    assert score(1, 0) > 0.99
    assert score(10, 0) > 0.99
    assert score(10, 5) > 0.99


def test_trimmed_bounds_agree_with_strip() -> None:
    context = "\u3000 a b\t\xa0c  \U0001f600 \n"
    offsets = np.array([(i, j) for i in range(len(context)) for j in range(i, len(context) + 1)])
    starts, ends = trimmed_bounds(context, offsets)
    for (i, j), start, end in zip(offsets, starts, ends, strict=True):
        stripped = context[i:j].strip()
        assert context[start:end] == stripped if stripped else start >= end


@pytest.mark.parametrize("longest", [30, 4000, 10**30])
def test_a_long_context_takes_neither_much_time_nor_memory(longest: int) -> None:
    tokens = 200_000
    random = np.random.default_rng(0)
    start, end = random.normal(size=(2, tokens))
    window = WindowLogits(first=0, start=start, end=end, null_start=0.0, null_end=0.0)
    began = time.perf_counter()
    found = best_spans(
        [window], word_bounds(tokens), top_k=5, max_answer_tokens=longest, handle_impossible_answer=False
    )
    assert time.perf_counter() - began < 5  # a matrix of all pairs would not even fit in memory
    assert len(found) == 5
