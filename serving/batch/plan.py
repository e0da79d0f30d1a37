"""Which rows go together, and whether two runs are the same run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["BatchPlan", "Chunk"]

_FORMAT = 1
"""Raised when parts of an older release could not be gone on with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Rows that are read, scored and secured together.

    Attributes:
        index: number of the chunk, from 0.
        first: number of its first row, from 0.
        rows: how many rows it has.
        position: where the first row stands in the input: a byte for JSON Lines, `first` for Parquet.
    """

    index: int
    first: int
    rows: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """A run: its chunks in order, and everything that decides its results.

    Attributes:
        chunks: the whole input, in order.
        described: input, model and settings, as JSON values.
    """

    chunks: tuple[Chunk, ...]
    described: Mapping[str, Any]

    @property
    def rows(self) -> int:
        """Rows of the input."""
        return sum(chunk.rows for chunk in self.chunks)

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the results: equal digests, equal rows."""
        content = {"format": _FORMAT, "chunks": len(self.chunks), "rows": self.rows, **self.described}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()
