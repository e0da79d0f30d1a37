"""Where a document's evidence stands: in the document, and in what a model reads at once."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

__all__ = ["Place", "Reach", "place_of", "reach_of"]


class Place(str, Enum):
    """Where in a document the evidence stands."""

    FIRST = "first third"
    MIDDLE = "middle third"
    LAST = "last third"
    SPREAD = "spread over thirds"
    """Its pieces stand in several thirds."""


class Reach(str, Enum):
    """Whether a model's windows hold the evidence of a document whole."""

    FIRST_WINDOW = "whole in the first window"
    LATER_WINDOW = "whole in a later window"
    NO_WINDOW = "in no window whole"


def place_of(evidence: Sequence[tuple[int, int]], length: int) -> Place:
    """Return where evidence stands in a document of `length` characters; a piece counts by its middle."""
    thirds = {min(2, (start + end) * 3 // (2 * length)) for start, end in evidence}
    if len(thirds) > 1:
        return Place.SPREAD
    return (Place.FIRST, Place.MIDDLE, Place.LAST)[thirds.pop()]


def reach_of(evidence: Sequence[tuple[int, int]], windows: Sequence[tuple[int, int]]) -> Reach:
    """Return whether a window holds all the evidence.

    Args:
        evidence: character ranges.
        windows: the characters of each window, in order.
    """
    first = min(start for start, _ in evidence)
    last = max(end for _, end in evidence)
    for index, (start, end) in enumerate(windows):
        if start <= first and last <= end:
            return Reach.LATER_WINDOW if index else Reach.FIRST_WINDOW
    return Reach.NO_WINDOW
