"""What an engine's process can be told to do."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from longserve.serving.measurement.memory import read_memory, reset_peak

from .engines import BenchEngine, Prepared
from .matrix import Case

__all__ = ["EngineCommands"]

_ATTEMPTS = 3


class EngineCommands:
    """The engine and the case it is at."""

    def __init__(self, engine: BenchEngine) -> None:
        self._engine = engine
        self._prepared: Prepared | None = None
        self._commands: dict[str, Callable[..., dict[str, Any]]] = {
            "prepare": self._prepare,
            "run": self._run,
            "soak": self._soak,
        }

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a message says and return the reply."""
        reply = self._commands[message["do"]](**message["with"])
        return {**reply, "note": self._engine.note, "memory": asdict(read_memory())}

    def _prepare(self, case: Mapping[str, int], seed: int, warmup: int) -> dict[str, Any]:
        """Make a case's inputs and run it untimed; the first run may compile."""
        self._prepared = None
        reset_peak()
        prepared = self._engine.prepare(Case(**case), seed)
        outputs = None
        seconds = []
        for _ in range(warmup):
            began = time.perf_counter()
            outputs = prepared.run()
            seconds.append(time.perf_counter() - began)
        self._prepared = prepared
        logits = None if prepared.logits is None else prepared.logits(outputs).tolist()
        return {"seconds": seconds, "logits": logits}

    def _run(self, seconds: float, most: int) -> dict[str, Any]:
        """Run the case again and again for some seconds, at most `most` times, at least once.

        The first run wakes the process up, which matters to short ones: it counts only if there is no other.
        """
        assert self._prepared is not None
        until = time.perf_counter() + seconds
        timed = [_timed_run(self._prepared)]
        while time.perf_counter() < until and len(timed) <= most:
            timed.append(_timed_run(self._prepared))
        counted = timed[1:] or timed
        return {
            "seconds": [run.seconds for run in counted],
            "parts": {name: median(run.parts[name] for run in counted) for name in counted[0].parts},
            "paged": sum(run.paged for run in timed),
        }

    def _soak(self, cases: list[Mapping[str, int]], seed: int) -> dict[str, Any]:
        """Run many cases one after the other, each once."""
        self._prepared = None
        for number, case in enumerate(cases):
            self._engine.prepare(Case(**case), seed + number).run()
        return {}


@dataclass(frozen=True, slots=True)
class _TimedRun:
    seconds: float
    parts: Mapping[str, float]
    paged: int


def _timed_run(prepared: Prepared) -> _TimedRun:
    """Time one run, again if it read pages from disk: then the time is the disk's."""
    paged = 0
    while True:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
        began = time.perf_counter()
        result = prepared.run()
        seconds = time.perf_counter() - began
        if resource.getrusage(resource.RUSAGE_SELF).ru_majflt == faults:
            break
        paged += 1
        if paged == _ATTEMPTS:
            break
    parts = result if prepared.logits is None else {}
    return _TimedRun(sum(parts.values()) if parts else seconds, parts, paged)
