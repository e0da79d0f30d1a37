"""What can be watched while texts are read and sequences are run.

The pipelines and `encode` report to whatever implements these protocols: a server's metrics and log, nothing
at all elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["EncoderRun", "RunObserver", "TextObserver", "UNOBSERVED"]


class TextObserver(Protocol):
    """Watches the texts of one request."""

    def prepared(self, tokens: int, windows: int, seconds: float) -> None:
        """A text was tokenized and cut into windows.

        Args:
            tokens: the text's tokens, each counted once, special tokens included.
            windows: the sequences that the encoder is to run for it.
            seconds: how long it took.
        """
        ...

    def decoded(self, seconds: float) -> None:
        """A text's result was made from the encoder's outputs, which took `seconds`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderRun:
    """One run of a graph.

    Attributes:
        sequences: sequences that it held.
        tokens: their tokens, together.
        positions: positions that were fed to the graph; those beyond `tokens` are padding.
        seconds: how long the engine took.
    """

    sequences: int
    tokens: int
    positions: int
    seconds: float


class RunObserver(Protocol):
    """Watches the runs of a graph."""

    def ran(self, run: EncoderRun) -> None:
        """A run succeeded."""
        ...


class _Nobody:
    def prepared(self, tokens: int, windows: int, seconds: float) -> None: ...

    def decoded(self, seconds: float) -> None: ...

    def ran(self, run: EncoderRun) -> None: ...


UNOBSERVED = _Nobody()
"""Takes every report and keeps none."""
