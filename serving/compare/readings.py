"""What the models' processes told, before anything is summed up."""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.bundle import Bundle

__all__ = ["GroupTime", "ModelReadings", "Reading"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One document, read once by one model.

    Attributes:
        predicted: the label, or the answer; "" is "the context does not answer it".
        seconds: from text to result.
        tokens: of the document, special ones included, each once.
        windows: the characters of each window.
    """

    predicted: str
    seconds: float
    tokens: int
    windows: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTime:
    """Documents read together: their indices, and how long it took."""

    documents: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReadings:
    """Everything that one model told.

    Attributes:
        name, bundle: the model.
        runs_on, load_seconds: of its process.
        loaded_bytes, peak_bytes: resident memory of its process.
        readings: of each document, one a round.
        groups: documents read together.
    """

    name: str
    bundle: Bundle
    runs_on: str
    load_seconds: float
    loaded_bytes: int
    peak_bytes: int
    readings: tuple[tuple[Reading, ...], ...]
    groups: tuple[GroupTime, ...]
