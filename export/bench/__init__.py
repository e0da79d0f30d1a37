"""Benchmarks: engine, precision, layout, length and batch, measured in interleaved rounds.

`plan_engines` lists the engines that some bundles (and a checkpoint) allow, `run_benchmark` measures them,
each in a process of its own, and returns a `Report`.
"""

from __future__ import annotations

from longserve.serving.measurement.statistics import Spread

from .errors import BenchError
from .matrix import BenchSettings, Case, EngineKind, EngineSpec
from .plan import plan_engines
from .report import EngineRecord, Measurement, Report
from .rounds import run_benchmark

__all__ = [
    "BenchError",
    "BenchSettings",
    "Case",
    "EngineKind",
    "EngineRecord",
    "EngineSpec",
    "Measurement",
    "Report",
    "Spread",
    "plan_engines",
    "run_benchmark",
]
