"""What a benchmark found, and its JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from longserve.serving.measurement.statistics import Spread, paired_ratio, spread

from .errors import BenchError
from .machine import Machine
from .matrix import BenchSettings, Case, EngineSpec

__all__ = ["EngineRecord", "FORMAT", "Measurement", "Report"]

FORMAT = "longserve-bench 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """One engine and its process over all cases.

    Attributes:
        spec: what was opened.
        runs_on: what it really ran on; None if it could not be loaded.
        load_seconds: time until it was loaded.
        loaded_bytes: resident memory when it was loaded.
        peak_bytes: most resident memory of its process, loading included.
        note: what a reader should know beyond that.
    """

    spec: EngineSpec
    runs_on: str | None = None
    load_seconds: float | None = None
    loaded_bytes: int | None = None
    peak_bytes: int | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One engine at one case.

    Attributes:
        engine: the engine's name.
        case: the input.
        error: why there are no figures; None if there are.
        rounds: seconds of one run, one value a round: the median of the runs of the engine's turn.
        baseline: the same of the baseline, in the same rounds; empty if it has no figures.
        warmup: seconds of the untimed runs before; the first may hold a compilation.
        parts: seconds of the parts of a run, medians over the rounds; for the products only.
        peak_bytes: most resident memory of its process while it was at this case.
        paged: runs that read pages from disk because memory was short; each was run again, up to twice.
        logits: all logits at unpadded positions; None for the products.
    """

    engine: str
    case: Case
    error: str | None = None
    rounds: tuple[float, ...] = ()
    baseline: tuple[float, ...] = ()
    warmup: tuple[float, ...] = ()
    parts: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None
    paged: int = 0
    logits: tuple[float, ...] | None = None

    @property
    def seconds(self) -> Spread | None:
        """Seconds of one run."""
        return None if self.error is not None else spread(self.rounds)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of all rows in a second, at the median."""
        seconds = self.seconds
        return None if seconds is None else self.case.batch * self.case.length / seconds.median


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole run.

    Attributes:
        date: when it began, ISO 8601 with time zone.
        machine: where it ran.
        versions: library to version.
        task: the bundles' task.
        settings: how it was measured.
        engines: in the order of the tables; the first one is the baseline of all ratios.
        measurements: of every engine at every case, case by case.
    """

    date: str
    machine: Machine
    versions: Mapping[str, str]
    task: str
    settings: BenchSettings
    engines: tuple[EngineRecord, ...]
    measurements: tuple[Measurement, ...]

    @property
    def baseline(self) -> str:
        """Name of the engine that the ratios are relative to."""
        return self.engines[0].spec.name

    @property
    def cases(self) -> list[Case]:
        """The cases, in the order in which they were measured."""
        return list(dict.fromkeys(measurement.case for measurement in self.measurements))

    def measurement(self, engine: str, case: Case) -> Measurement:
        """Return what was measured of an engine at a case.

        Raises:
            KeyError: the engine or the case is not in the report.
        """
        for measurement in self.measurements:
            if measurement.engine == engine and measurement.case == case:
                return measurement
        raise KeyError((engine, case))

    def ratio(self, measurement: Measurement) -> Spread | None:
        """How many times faster than the baseline (`paired_ratio`); None where either has no figures."""
        if measurement.error is not None or not measurement.baseline:
            return None
        return paired_ratio(measurement.baseline, measurement.rounds)

    def difference(self, measurement: Measurement) -> float | None:
        """Largest difference of a logit from the baseline's, over `max(1, largest logit of the baseline)`.

        None where either has no logits: they are compared so that no figure is of a wrong result.
        """
        baseline = self.measurement(self.baseline, measurement.case)
        if measurement.logits is None or baseline.logits is None:
            return None
        scale = max(1.0, max(abs(value) for value in baseline.logits))
        pairs = zip(baseline.logits, measurement.logits, strict=True)
        return max(abs(expected - found) for expected, found in pairs) / scale

    def raise_if_all_failed(self) -> None:
        """Raise `BenchError` if no engine gave a figure at any case."""
        if all(measurement.error is not None for measurement in self.measurements):
            raise BenchError(f"every engine failed, the first one so: {self.measurements[0].error}")

    def to_json(self) -> str:
        """Return the report as indented JSON, ending in a newline. Times are seconds, memory bytes."""
        data: dict[str, Any] = {
            "format": FORMAT,
            "date": self.date,
            "machine": dataclasses.asdict(self.machine),
            "versions": dict(self.versions),
            "task": self.task,
            "settings": dataclasses.asdict(self.settings),
            "baseline": self.baseline,
            "engines": [
                dataclasses.asdict(record) | {"spec": record.spec.to_dict()} for record in self.engines
            ],
            "results": [self._result(measurement) for measurement in self.measurements],
        }
        return json.dumps(data, indent=1) + "\n"

    def _result(self, measurement: Measurement) -> dict[str, Any]:
        seconds, ratio = measurement.seconds, self.ratio(measurement)
        return {
            "engine": measurement.engine,
            **dataclasses.asdict(measurement.case),
            "error": measurement.error,
            "seconds": None if seconds is None else dataclasses.asdict(seconds),
            "ratio": None if ratio is None else dataclasses.asdict(ratio),
            "tokens_per_second": measurement.tokens_per_second,
            "difference": self.difference(measurement),
            "peak_bytes": measurement.peak_bytes,
            "parts": dict(measurement.parts),
            "warmup": list(measurement.warmup),
            "paged": measurement.paged,
            "rounds": list(measurement.rounds),
            "baseline_rounds": list(measurement.baseline),
        }
