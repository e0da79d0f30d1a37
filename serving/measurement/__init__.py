"""Measuring models: each in a process of its own that is stopped between its turns; time, memory, machine.

The benchmark of engines (`longserve bench`) and the comparison of models (`longserve compare`) share it.
"""

from __future__ import annotations

from .errors import MeasurementError
from .machine import Machine, describe_machine, library_versions
from .memory import ProcessMemory, read_memory, reset_peak
from .statistics import Spread, paired_ratio, spread
from .stopped_process import StoppedProcess
from .worker import answer_requests

__all__ = [
    "Machine",
    "MeasurementError",
    "ProcessMemory",
    "Spread",
    "StoppedProcess",
    "answer_requests",
    "describe_machine",
    "library_versions",
    "paired_ratio",
    "read_memory",
    "reset_peak",
    "spread",
]
