"""The best answer spans over the windows of a context.

Scores. Let s and e be the start and end logits. A span that begins at token i and ends at token j of one
window scores

    exp(s_i - S) * exp(e_j - E)

where S and E are the log-sum-exp of the start and end logits over *all tokens of the context and the null
position*. A token that several windows hold counts once, with its largest logit; the null position (token 0
of a window, where a model trained with unanswerable questions points if there is no answer) counts once too,
with the logits of the window where their sum is smallest, because a context has no answer only if no window
has one. So the scores of spans from different windows are comparable, their sum is at most 1, and neither
the number of windows nor the overlap changes the score of a clear answer.

For a context in one window this is the score of Hugging Face's question-answering pipeline
(`transformers/pipelines/question_answering.py`, transformers 4): the product of the softmax over start and
end positions, where all but the context and the first token are masked. Ranking by raw logits over all
windows, and the null score as minimum over them, is BERT's `run_squad.py`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Span", "WindowLogits", "best_spans", "best_spans_of_windows", "trimmed_bounds"]

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_PART = -1
"""The rank of what is left of a range, in `_ranked_spans`."""
_LAST_SPACE = 0x3000
_SPACES = np.array([chr(code).isspace() for code in range(_LAST_SPACE + 1)])


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLogits:
    """The logits of one window that matter for answers.

    Attributes:
        first: index in the context of the window's first context token.
        start, end: start and end logits of its context tokens, float `[tokens]`.
        null_start, null_end: logits of its token 0.
    """

    first: int
    start: npt.NDArray[np.floating[Any]]
    end: npt.NDArray[np.floating[Any]]
    null_start: float
    null_end: float


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (not included) of the context; start = end = 0 is "no answer"."""

    score: float
    start: int
    end: int


def trimmed_bounds(context: str, offsets: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return where an answer starts if it begins at each token, and where it ends if it ends there.

    Whitespace around an answer does not belong to it (byte-level BPE puts the space before a word into the
    word's token), so starts move right and ends move left over whitespace.

    Args:
        context: the text.
        offsets: character offsets of its tokens, int64 `[tokens, 2]`.

    Returns:
        Starts and ends, int64 `[tokens]` each. Tokens i ≤ j make an answer iff starts[i] < ends[j].
    """
    codes = np.frombuffer(context.encode("utf-32-le"), dtype="<u4")
    space = _SPACES[np.minimum(codes, _LAST_SPACE)] & (codes <= _LAST_SPACE)
    size = len(codes)
    positions = np.arange(size, dtype=np.int64)
    next_start = np.full(size + 1, size, dtype=np.int64)
    next_start[:size] = np.minimum.accumulate(np.where(space, size, positions)[::-1])[::-1]
    last_end = np.zeros(size + 1, dtype=np.int64)
    last_end[1:] = np.maximum.accumulate(np.where(space, 0, positions + 1))
    return next_start[offsets[:, 0]], last_end[offsets[:, 1]]


def best_spans(
    windows: Sequence[WindowLogits],
    bounds: tuple[Int64Array, Int64Array],
    *,
    top_k: int,
    max_answer_tokens: int,
    handle_impossible_answer: bool,
) -> list[Span]:
    """Return the best spans over all windows, best first.

    Token spans with the same characters (from overlapping windows, or from tokens that share a code point)
    are one span, with the best of their scores.

    Args:
        windows: logits of each window; together they hold every token of the context.
        bounds: what `trimmed_bounds` returned for the context.
        top_k: most spans to return.
        max_answer_tokens: most tokens of a span.
        handle_impossible_answer: let "no answer" compete.
    """
    start_total, end_total, null = _normalizers(windows, len(bounds[0]))
    spans = [
        Span(float(np.exp(logit - start_total - end_total)), start, end)
        for logit, start, end in _distinct_best(windows, bounds, top_k, max_answer_tokens)
    ]
    if handle_impossible_answer:
        spans.append(Span(float(np.exp(null - start_total - end_total)), 0, 0))
        spans.sort(key=lambda span: -span.score)
    return spans[:top_k]


def best_spans_of_windows(
    windows: Sequence[WindowLogits],
    bounds: tuple[Int64Array, Int64Array],
    *,
    top_k: int,
    max_answer_tokens: int,
) -> list[list[Span]]:
    """Return the best spans of each window, best first, scored over *all* windows as `best_spans` does.

    So the best span of all windows has the same score here and there. Arguments are those of `best_spans`.
    """
    start_total, end_total, _ = _normalizers(windows, len(bounds[0]))
    return [
        [
            Span(float(np.exp(logit - start_total - end_total)), start, end)
            for logit, start, end in _distinct_best([window], bounds, top_k, max_answer_tokens)
        ]
        for window in windows
    ]


def _normalizers(windows: Sequence[WindowLogits], tokens: int) -> tuple[float, float, float]:
    """Log-sum-exp of the start logits and of the end logits, and the sum of the null position's logits."""
    lowest = min(windows, key=lambda window: window.null_start + window.null_end)
    starts, ends = (np.full(tokens + 1, -np.inf) for _ in range(2))
    starts[tokens], ends[tokens] = lowest.null_start, lowest.null_end
    for window in windows:
        here = slice(window.first, window.first + len(window.start))
        np.maximum(starts[here], window.start, out=starts[here])
        np.maximum(ends[here], window.end, out=ends[here])
    return _log_sum_exp(starts), _log_sum_exp(ends), float(lowest.null_start + lowest.null_end)


def _log_sum_exp(values: Float64Array) -> float:
    largest = values.max()
    return float(largest + np.log(np.exp(values - largest).sum()))


def _distinct_best(
    windows: Sequence[WindowLogits],
    bounds: tuple[Int64Array, Int64Array],
    top_k: int,
    max_answer_tokens: int,
) -> list[tuple[float, int, int]]:
    """The `top_k` best (sum of logits, start character, end character) with distinct characters."""
    best: dict[tuple[int, int], float] = {}
    for negative, start, end in heapq.merge(
        *(_ranked_spans(window, bounds, max_answer_tokens) for window in windows)
    ):
        best.setdefault((start, end), -negative)
        if len(best) == top_k:
            break
    return [(logit, start, end) for (start, end), logit in best.items()]


def _ranked_spans(
    window: WindowLogits, bounds: tuple[Int64Array, Int64Array], max_answer_tokens: int
) -> Iterator[tuple[float, int, int]]:
    """Yield the spans of one window, best first, as (minus the sum of logits, start and end character).

    The best span that begins at a token ends at the largest end logit of a range of tokens. Each span taken
    leaves two ranges, before and after its end, whose best spans are the next candidates; so the work is
    tokens times the logarithm of max_answer_tokens, and a search for each span that is taken.
    """
    tokens = len(window.start)
    here = slice(window.first, window.first + tokens)
    first_character, last_character = bounds[0][here], bounds[1][here]
    starts, ends = (np.asarray(logits, dtype=np.float64) for logits in (window.start, window.end))
    width = min(max_answer_tokens, tokens)
    largest = _RangeMaximum(ends, width)
    begins = np.arange(tokens)
    legal = np.searchsorted(np.maximum.accumulate(last_character), first_character, side="right")
    low, high = np.maximum(begins, legal), np.minimum(begins + width, tokens)
    begins = np.flatnonzero(low < high)
    best = largest.index(low[begins], high[begins])
    order = np.lexsort((last_character[best], first_character[begins], -(starts[begins] + ends[best])))
    heap: list[tuple[Any, ...]] = []

    def push(begin: int, low: int, high: int, rank: int) -> None:
        if low < high:
            end = largest.index(low, high)
            characters = int(first_character[begin]), int(last_character[end])
            heapq.heappush(
                heap, (-float(starts[begin] + ends[end]), *characters, rank, begin, end, low, high)
            )

    def push_whole(rank: int) -> None:
        if rank < order.size:
            begin = int(begins[order[rank]])
            push(begin, int(low[begin]), int(high[begin]), rank)

    push_whole(0)
    while heap:
        negative, start, stop, rank, begin, end, lowest, highest = heapq.heappop(heap)
        if start < stop:
            yield negative, start, stop
        push(begin, lowest, end, _PART)
        push(begin, end + 1, highest, _PART)
        if rank != _PART:
            push_whole(rank + 1)


class _RangeMaximum:
    """Where the largest value of a range is, the first of them where several are (a sparse table: Bender and
    Farach-Colton, "The LCA Problem Revisited", 2000)."""

    def __init__(self, values: Float64Array, longest: int) -> None:
        """Prepare for ranges of up to `longest` of the values."""
        self._values = values
        positions = np.arange(values.size)
        levels = [positions]
        for level in range(longest.bit_length() - 1):
            following = levels[-1][np.minimum(positions + (1 << level), values.size - 1)]
            levels.append(self._larger(levels[-1], following))
        self._table = np.stack(levels)

    def index(self, low: Any, high: Any) -> Any:
        """Of the range `low` to `high`, not included; numbers, or arrays of one shape."""
        level = np.frexp(high - low)[1] - 1
        return self._larger(self._table[level, low], self._table[level, high - (1 << level)])

    def _larger(self, left: Any, right: Any) -> Any:
        return np.where(self._values[right] > self._values[left], right, left)
