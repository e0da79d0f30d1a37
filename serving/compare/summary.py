"""From what the models' processes told to figures and a recommendation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import numpy as np

from ..measurement.machine import Machine
from ..measurement.statistics import spread
from ..runtime.manifest import Task
from .documents import Document
from .evidence import Place, Reach, place_of, reach_of
from .readings import ModelReadings
from .recommendation import Candidate, recommend
from .results import Comparison, GroupScore, ModelResult
from .scores import Weighted, answer_f1, exact_match, macro_f1_of, mean_of
from .uncertainty import Difference, paired_difference

__all__ = ["summarize"]

_BOUNDS = (128, 512, 1024, 2048, 4096)

Group = TypeVar("Group", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quality:
    """How right a model is: of each document, and all in all."""

    scores: tuple[float, ...]
    correct: tuple[bool, ...]
    primary: Weighted
    metrics: Mapping[str, float]


def summarize(
    measured: Sequence[ModelReadings],
    documents: Sequence[Document],
    *,
    task: Task,
    labels: tuple[str, ...],
    source: str,
    rounds: int,
    worth: float,
    seed: int,
    date: str,
    machine: Machine,
    versions: Mapping[str, str],
) -> Comparison:
    """Sum up what the models told. Arguments are as in `Comparison` and `CompareSettings`."""
    qualities = [_quality(model, documents, task) for model in measured]
    best = max(range(len(measured)), key=lambda index: next(iter(qualities[index].metrics.values())))
    buckets = [_bucket(readings[0].tokens) for readings in measured[0].readings]
    lengths = {name: buckets.count(name) for name in map(_bucket, (0, *_BOUNDS)) if name in buckets}
    results = tuple(
        _result(
            model,
            documents,
            quality,
            buckets,
            tuple(lengths),
            None if index == best else _behind(qualities[best], quality, seed),
        )
        for index, (model, quality) in enumerate(zip(measured, qualities, strict=True))
    )
    unanswered = sum(d.question is not None and not d.answers and d.evidence is None for d in documents)
    return Comparison(
        date=date,
        machine=machine,
        versions=versions,
        source=source,
        task=task,
        documents=len(documents),
        unknown_evidence=sum(d.evidence is None for d in documents) - unanswered,
        without_answer=unanswered,
        labels=labels,
        lengths=lengths,
        rounds=rounds,
        models=results,
        recommendation=recommend(
            [_candidate(result) for result in results],
            metric=next(iter(results[0].metrics)),
            documents=len(documents),
            worth=worth,
        ),
    )


def _quality(model: ModelReadings, documents: Sequence[Document], task: Task) -> _Quality:
    predicted = [readings[0].predicted for readings in model.readings]
    once = np.ones((1, len(documents)))
    if task is Task.TEXT_CLASSIFICATION:
        right = [document.label or "" for document in documents]
        hits = [float(a == b) for a, b in zip(predicted, right, strict=True)]
        primary = macro_f1_of(predicted, right)
        metrics = {"macro-F1": float(primary(once)[0]), "accuracy": float(np.mean(hits))}
        return _Quality(scores=tuple(hits), correct=tuple(map(bool, hits)), primary=primary, metrics=metrics)
    pairs = list(zip(predicted, documents, strict=True))
    exact = [exact_match(answer, document.answers) for answer, document in pairs]
    f1 = [answer_f1(answer, document.answers) for answer, document in pairs]
    return _Quality(
        scores=tuple(f1),
        correct=tuple(map(bool, exact)),
        primary=mean_of(f1),
        metrics={"F1": float(np.mean(f1)), "exact match": float(np.mean(exact))},
    )


def _behind(best: _Quality, other: _Quality, seed: int) -> Difference:
    return paired_difference(best.primary, other.primary, (best.correct, other.correct), seed=seed)


def _result(
    model: ModelReadings,
    documents: Sequence[Document],
    quality: _Quality,
    buckets: Sequence[str],
    lengths: tuple[str, ...],
    behind: Difference | None,
) -> ModelResult:
    first = [readings[0] for readings in model.readings]
    seconds = [median(reading.seconds for reading in readings) for readings in model.readings]
    known = [(index, d.evidence) for index, d in enumerate(documents) if d.evidence is not None]
    places = {index: place_of(evidence, len(documents[index].text)) for index, evidence in known}
    reaches = {index: reach_of(evidence, first[index].windows) for index, evidence in known}
    grouped = [index for group in model.groups for index in group.documents]
    group_seconds = sum(group.seconds for group in model.groups)
    manifest = model.bundle.manifest
    return ModelResult(
        name=model.name,
        bundle=str(model.bundle.path),
        fingerprint=model.bundle.fingerprint,
        architecture=manifest.architecture,
        precision=manifest.precision.value,
        max_length=manifest.max_length,
        runs_on=model.runs_on,
        load_seconds=model.load_seconds,
        metrics=quality.metrics,
        behind=behind,
        latency={
            name: spread([value for value, bucket in zip(seconds, buckets, strict=True) if bucket == name])
            for name in lengths
        },
        all_latency=spread(seconds),
        documents_per_second=len(grouped) / group_seconds,
        tokens_per_second=sum(first[index].tokens for index in grouped) / group_seconds,
        mean_windows=float(np.mean([len(reading.windows) for reading in first])),
        windowed=sum(len(reading.windows) > 1 for reading in first),
        loaded_bytes=model.loaded_bytes,
        peak_bytes=model.peak_bytes,
        by_length=_by_group(quality.scores, dict(enumerate(buckets)), lengths),
        by_place=_by_group(quality.scores, places, tuple(Place)),
        by_reach=_by_group(quality.scores, reaches, tuple(Reach)),
    )


def _by_group(
    scores: Sequence[float], group_of: Mapping[int, Group], groups: Sequence[Group]
) -> dict[Group, GroupScore]:
    """The mean score of each group that has documents."""
    found = {}
    for group in groups:
        own = [scores[index] for index, name in group_of.items() if name == group]
        if own:
            found[group] = GroupScore(documents=len(own), score=float(np.mean(own)))
    return found


def _candidate(result: ModelResult) -> Candidate:
    whole = [result.by_reach[r] for r in (Reach.FIRST_WINDOW, Reach.LATER_WINDOW) if r in result.by_reach]
    split = result.by_reach.get(Reach.NO_WINDOW)
    count = sum(group.documents for group in whole)
    return Candidate(
        name=result.name,
        quality=result.primary,
        behind=result.behind,
        documents_per_second=result.documents_per_second,
        peak_bytes=result.peak_bytes,
        whole=(count, sum(g.documents * g.score for g in whole) / count) if count else (0, 0.0),
        split=(split.documents, split.score) if split else (0, 0.0),
    )


def _bucket(tokens: int) -> str:
    low = 0
    for high in _BOUNDS:
        if tokens <= high:
            return f"{low + 1} to {high}"
        low = high
    return f"over {low}"
