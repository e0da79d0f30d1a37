"""What a report tells, as plain values that templates and charts take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.manifest import Manifest, Task

__all__ = ["Drift", "EngineSpeed", "OperatorCount", "ParityPoint", "ReportData", "Speed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityPoint:
    """One case of the comparison with PyTorch.

    Attributes:
        case: its name.
        layout: `padded` or `packed`.
        length: tokens of its longest row.
        rows: how many rows it has.
        pattern: global pattern of the rows; `mixed` where they differ.
        max_relative: largest difference over `max(1, largest reference logit)`.
        cosine: of all logits.
        agreeing, predictions: how many predictions are equal, of how many.
    """

    case: str
    layout: str
    length: int
    rows: int
    pattern: str
    max_relative: float
    cosine: float
    agreeing: int
    predictions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far a bundle is from PyTorch in float32, over the whole grid.

    Attributes:
        name: the bundle's directory.
        precision: its precision, with the way of quantization.
        median, worst: of the cases' `max_relative`.
        tolerance: what the worst may be.
        min_cosine: the least cosine of a case.
        agreement: share of equal predictions.
        values: `max_relative` of every case.
    """

    name: str
    precision: str
    median: float
    worst: float
    tolerance: float
    min_cosine: float
    agreement: float
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCount:
    """How often an operator stands in the padded and in the packed graph."""

    name: str
    padded: int
    packed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpeed:
    """One engine of a benchmark, at one row.

    Attributes:
        name: the engine.
        seconds: median by length.
        ratios: how many times faster than the baseline, by length.
        peak_bytes: most resident memory by length.
        error: why it has no figures; None if it has some.
    """

    name: str
    seconds: Mapping[int, float]
    ratios: Mapping[int, float]
    peak_bytes: Mapping[int, int]
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """A benchmark: the baseline first.

    Attributes:
        date, machine, cores: when and where.
        versions: library to version.
        command: what was called; None if the file does not say.
        baseline: name of the engine that ratios refer to.
        lengths: tokens of a row, ascending.
        engines: those that were measured.
    """

    date: str
    machine: str
    cores: int
    versions: Mapping[str, str]
    command: str | None
    baseline: str
    lengths: tuple[int, ...]
    engines: tuple[EngineSpeed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything that the pages show."""

    bundle: Bundle
    name: str
    tolerance: float | None
    points: tuple[ParityPoint, ...]
    drifts: tuple[Drift, ...]
    operators: tuple[OperatorCount, ...]
    domains: Mapping[str, int]
    speed: Speed | None

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @property
    def is_classifier(self) -> bool:
        """Whether the model labels texts."""
        return self.manifest.task is Task.TEXT_CLASSIFICATION

    @property
    def precision(self) -> str:
        """The precision, with the way of quantization."""
        return precision_of(self.manifest)


def precision_of(manifest: Manifest) -> str:
    """Return the precision, with the way of quantization where there is one."""
    quantization = manifest.quantization
    return manifest.precision.value + ("" if quantization is None else f" ({quantization.value})")
