"""Measuring in interleaved rounds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from statistics import median
from typing import Any, Protocol

from ..progress import Progress
from .engine_process import EngineProcess
from .errors import EngineFailed
from .machine import check_free_memory, describe_machine, library_versions
from .matrix import BenchSettings, Case, EngineSpec
from .report import EngineRecord, Measurement, Report

__all__ = ["EngineLink", "run_benchmark"]

_TURN = 0.2
"""Seconds of a turn: an engine that is faster runs several times in it."""
_MOST_RUNS = 32


class EngineLink(Protocol):
    """What `EngineProcess` offers."""

    loaded: dict[str, Any]

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Let the engine do one thing; `EngineFailed` if it cannot."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def run_benchmark(
    engines: Sequence[EngineSpec],
    cases: Sequence[Case],
    task: str,
    settings: BenchSettings,
    *,
    progress: Progress | None = None,
    start: Callable[..., EngineLink] = EngineProcess,
) -> Report:
    """Measure every engine at every case.

    All engines (of a group, if `at_once` makes groups) stay loaded, each in a process of its own, and only
    one of them is not stopped. Case by case they are warmed up, and then run in rounds: each engine once a
    round, each round beginning with another one, so that what happens to the machine happens to all.

    An engine that cannot be loaded, or fails or hangs at a case, gets a row that says why; the others go on.

    Args:
        engines: see `plan_engines`; the first is the baseline.
        cases: see `BenchSettings.cases`.
        task: of the bundles, for the report.
        settings: rounds, warm-up, timeout, seed.
        progress: is told of every engine and round.
        start: opens an engine; called with the specification and `timeout`.
    """
    date = datetime.now().astimezone().isoformat(timespec="seconds")
    records: dict[str, EngineRecord] = {}
    measured: dict[tuple[Case, str], Measurement] = {}
    for group in _groups(engines, settings.at_once):
        with contextlib.ExitStack() as stack:
            runners = [_Runner(spec, settings, start) for spec in group]
            for runner in runners:
                stack.callback(runner.close)
            _load(runners, progress)
            for case in cases:
                for measurement in _measure(runners, case, settings, progress):
                    # the baseline is in every group: its first figures stand
                    measured.setdefault((case, measurement.engine), measurement)
        for runner in runners:
            records.setdefault(runner.record.spec.name, runner.record)
    return Report(
        date=date,
        machine=describe_machine(),
        versions=library_versions(),
        task=task,
        settings=settings,
        engines=tuple(records[spec.name] for spec in engines),
        measurements=tuple(measured[case, spec.name] for case in cases for spec in engines),
    )


def _groups(engines: Sequence[EngineSpec], at_once: int | None) -> list[list[EngineSpec]]:
    """Cut the engines into groups of at most `at_once`, each with the baseline first."""
    baseline, others = engines[0], list(engines[1:])
    size = len(others) if at_once is None else at_once - 1
    starts = range(0, len(others), size) if others else ()
    return [[baseline, *others[start : start + size]] for start in starts] or [[baseline]]


def _load(runners: Sequence[_Runner], progress: Progress | None) -> None:
    if progress is not None:
        progress.stage("load engines", len(runners))
    for runner in runners:
        runner.load()
        if progress is not None:
            progress.advance()


def _measure(
    runners: Sequence[_Runner], case: Case, settings: BenchSettings, progress: Progress | None
) -> list[Measurement]:
    if progress is not None:
        progress.stage(case.name, len(runners) * (settings.rounds + 1))
    for runner in runners:
        runner.prepare(case)
        if progress is not None:
            progress.advance()
    for number in range(settings.rounds):
        first = number % len(runners)
        for runner in (*runners[first:], *runners[:first]):
            runner.turn()
            if progress is not None:
                progress.advance()
    baseline = runners[0].measurement().rounds
    return [replace(runner.measurement(), baseline=baseline) for runner in runners]


@dataclass(slots=True)
class _AtCase:
    """What an engine has shown of a case so far."""

    case: Case
    error: str | None = None
    rounds: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    warmup: list[float] = field(default_factory=list)
    peak: int | None = None
    paged: int = 0
    logits: tuple[float, ...] | None = None


class _Runner:
    """One engine through all cases."""

    def __init__(self, spec: EngineSpec, settings: BenchSettings, start: Callable[..., EngineLink]) -> None:
        self._settings, self._start = settings, start
        self._link: EngineLink | None = None
        self._at = _AtCase(Case(length=0, batch=0, global_tokens=0))
        self._cannot_load: str | None = None
        self.record = EngineRecord(spec=spec)

    def load(self) -> None:
        """Open the engine, unless it is open or could not be opened before."""
        if self._link is not None or self._cannot_load is not None:
            return
        try:
            check_free_memory()
            link = self._start(self.record.spec, timeout=self._settings.timeout)
        except EngineFailed as error:
            self._cannot_load = str(error)
            return
        self._link = link
        memory = link.loaded["memory"]
        self.record = replace(
            self.record,
            runs_on=link.loaded["runs_on"],
            load_seconds=link.loaded["load_seconds"],
            loaded_bytes=memory["resident"],
            peak_bytes=max(memory["peak"], self.record.peak_bytes or 0),
        )

    def prepare(self, case: Case) -> None:
        """Warm up for a case."""
        self._at = _AtCase(case)
        self.load()
        reply = self._ask(
            "prepare", case=asdict(case), seed=self._settings.seed, warmup=self._settings.warmup
        )
        if reply is None:
            return
        self._at.warmup = reply["seconds"]
        self._at.logits = None if reply["logits"] is None else tuple(reply["logits"])

    def turn(self) -> None:
        """Run the case for the time of a turn."""
        if self._at.error is not None:
            return
        reply = self._ask("run", seconds=_TURN, most=_MOST_RUNS)
        if reply is not None:
            self._at.rounds.append(median(reply["seconds"]))
            self._at.parts.append(reply["parts"])
            self._at.paged += reply["paged"]

    def measurement(self) -> Measurement:
        """Return what was found of the case."""
        at, name = self._at, self.record.spec.name
        if at.error is not None:
            return Measurement(engine=name, case=at.case, error=at.error)
        return Measurement(
            engine=name,
            case=at.case,
            rounds=tuple(at.rounds),
            warmup=tuple(at.warmup),
            parts={part: median(seconds[part] for seconds in at.parts) for part in at.parts[0]},
            peak_bytes=at.peak,
            paged=at.paged,
            logits=at.logits,
        )

    def close(self) -> None:
        """End the engine's process."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any] | None:
        if self._link is None:
            self._at.error = self._cannot_load
            return None
        try:
            if command == "prepare":
                check_free_memory()
            reply = self._link.ask(command, **arguments)
        except EngineFailed as error:
            self._at.error = str(error)
            self.close()
            return None
        peak = reply["memory"]["peak"]
        self._at.peak = max(self._at.peak or 0, peak)
        self.record = replace(
            self.record, peak_bytes=max(self.record.peak_bytes or 0, peak), note=reply["note"]
        )
        return reply
