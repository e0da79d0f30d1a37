"""Overlapping windows over a document that is longer than the model."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InvalidInput

__all__ = ["DEFAULT_STRIDE", "Window", "count_windows", "default_stride", "plan_windows"]

DEFAULT_STRIDE = 128
"""Hugging Face's default `doc_stride`."""


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens `start` to `end` (not included) of a document."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.end - self.start


def default_stride(max_length: int) -> int:
    """Return the stride for a model of that length: 128, or a quarter of the length where that is less."""
    return min(DEFAULT_STRIDE, max_length // 4)


def count_windows(tokens: int, capacity: int, stride: int) -> int:
    """Return how many windows `plan_windows` makes, without making them.

    Raises:
        InvalidInput: see `plan_windows`.
    """
    if tokens <= capacity:
        return 1
    if capacity <= stride:
        raise InvalidInput(
            f"the document has {tokens} tokens, one window has room for {max(capacity, 0)} of them and "
            f"neighbouring windows share {stride} (stride); the room must be larger than the stride"
        )
    return -(-(tokens - stride) // (capacity - stride))


def plan_windows(tokens: int, capacity: int, stride: int) -> tuple[Window, ...]:
    """Cover a document with the fewest windows that overlap by exactly `stride` tokens.

    `stride` is the number of tokens that neighbours share, as `doc_stride` in Hugging Face's pipelines and
    `stride` in its tokenizers (not the distance from window to window, as in the original BERT script). The
    windows are as many as there, but of equal size to within one token, instead of full ones and a rest:
    no window is left with little context, and each has the same weight when scores are averaged. Every run
    of up to `stride + 1` neighbouring tokens lies whole in at least one window.

    Args:
        tokens: length of the document.
        capacity: most tokens of the document that one window can hold.
        stride: tokens that neighbours share.

    Returns:
        Windows in order; together they hold every token; a single one where the document fits.

    Raises:
        InvalidInput: the document does not fit in one window, and one window holds no more than `stride`.
    """
    count = count_windows(tokens, capacity, stride)
    if count == 1:
        return (Window(0, tokens),)
    size, longer = divmod(tokens + (count - 1) * stride, count)
    windows = []
    start = 0
    for index in range(count):
        end = start + size + (index < longer)
        windows.append(Window(start, end))
        start = end - stride
    return tuple(windows)
