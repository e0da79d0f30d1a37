"""The errors of the benchmark harness.

ExportError
└── BenchError        a benchmark cannot be set up, or one of its settings cannot be used
    └── EngineFailed  one engine's process failed, ended or took too long; its row says so
"""

from __future__ import annotations

from ..errors import ExportError

__all__ = ["BenchError", "EngineFailed"]


class BenchError(ExportError):
    """A benchmark cannot be set up, or one of its settings cannot be used."""


class EngineFailed(BenchError):
    """One engine's process failed, ended or took too long; the others go on."""
