"""The error of measuring.

ServingError
└── MeasurementError      a process that is measured failed, ended or took too long, or tells no memory
"""

from __future__ import annotations

from ..runtime.errors import ServingError

__all__ = ["MeasurementError"]


class MeasurementError(ServingError):
    """A process that is measured failed, ended or took too long, or memory cannot be read here."""
