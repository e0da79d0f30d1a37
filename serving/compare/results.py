"""What a comparison found, as plain values for tables, pages and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..measurement.machine import Machine
from ..measurement.statistics import Spread
from ..runtime.manifest import Task
from .evidence import Place, Reach
from .recommendation import Recommendation
from .uncertainty import Difference

__all__ = ["Comparison", "GroupScore", "ModelResult"]

FORMAT = "longserve-compare 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScore:
    """How right a model is on some of the documents.

    Attributes:
        documents: how many they are.
        score: share of right labels, or mean F1 of the answers.
    """

    documents: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelResult:
    """One model.

    Attributes:
        name: as the user calls it.
        bundle: its directory.
        fingerprint: the bundle's.
        architecture, precision: of the bundle.
        max_length: tokens that it reads at once.
        runs_on: engine and device.
        load_seconds: time to load it.
        metrics: metric to value on all documents; the first one decides.
        behind: by how much the first metric is below the best model's; None for the best model itself.
        latency: seconds of one document, by length bucket.
        all_latency: seconds of one document, of all.
        documents_per_second, tokens_per_second: documents sent in groups; tokens of each document once.
        mean_windows: windows of a document.
        windowed: documents that took more than one.
        loaded_bytes, peak_bytes: resident memory of its process when loaded, and at most.
        by_length, by_place, by_reach: how right by length bucket, and by where the evidence stands.
    """

    name: str
    bundle: str
    fingerprint: str
    architecture: str
    precision: str
    max_length: int
    runs_on: str
    load_seconds: float
    metrics: Mapping[str, float]
    behind: Difference | None
    latency: Mapping[str, Spread]
    all_latency: Spread
    documents_per_second: float
    tokens_per_second: float
    mean_windows: float
    windowed: int
    loaded_bytes: int
    peak_bytes: int
    by_length: Mapping[str, GroupScore]
    by_place: Mapping[Place, GroupScore]
    by_reach: Mapping[Reach, GroupScore]

    @property
    def primary(self) -> float:
        """The metric that decides."""
        return next(iter(self.metrics.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Models on the same documents.

    Attributes:
        date, machine, versions: when, where and with what.
        source: the file of documents.
        task: what is done with them.
        documents: how many.
        unknown_evidence: of how many nobody says where the evidence stands.
        without_answer: questions that their context does not answer.
        labels: those that occur in the documents.
        lengths: length buckets, and how many documents each has; tokens as the first model counts them.
        rounds: how often each document was timed.
        models: as they were given.
        recommendation: which one to take.
    """

    date: str
    machine: Machine
    versions: Mapping[str, str]
    source: str
    task: Task
    documents: int
    unknown_evidence: int
    without_answer: int
    labels: tuple[str, ...]
    lengths: Mapping[str, int]
    rounds: int
    models: tuple[ModelResult, ...]
    recommendation: Recommendation

    @property
    def metric(self) -> str:
        """Name of the metric that decides."""
        return next(iter(self.models[0].metrics))

    def to_json(self) -> str:
        """Return everything as one JSON document."""
        return json.dumps({"format": FORMAT, **_plain(asdict(self))}, indent=1) + "\n"


def _plain(value: Any) -> Any:
    """Keys of enums as their values; `json` does the values itself."""
    if isinstance(value, dict):
        return {getattr(key, "value", key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
