"""Which sequences go into one run of the packed graph."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["plan_runs"]


def plan_runs(lengths: Sequence[int], max_tokens: int) -> list[range]:
    """Cut a list of sequences into runs of at most `max_tokens` tokens, in order.

    A run's memory grows with its tokens, so they are bounded. A sequence that is longer than the bound gets a
    run of its own.

    Args:
        lengths: tokens of each sequence.
        max_tokens: most tokens of a run.

    Returns:
        The runs as ranges of indices, together all of `range(len(lengths))`.
    """
    runs: list[range] = []
    start, tokens = 0, 0
    for index, length in enumerate(lengths):
        if index > start and tokens + length > max_tokens:
            runs.append(range(start, index))
            start, tokens = index, 0
        tokens += length
    if start < len(lengths):
        runs.append(range(start, len(lengths)))
    return runs
