"""Running a comparison: every model reads every document, in turns, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..measurement.errors import MeasurementError
from ..measurement.machine import describe_machine, library_versions
from ..measurement.stopped_process import StoppedProcess
from ..runtime.engine_settings import EngineName
from ..runtime.manifest import Task
from .documents import Document, read_documents
from .errors import CompareError
from .models import Model, check_labels, open_models
from .readings import GroupTime, ModelReadings, Reading
from .results import Comparison
from .summary import summarize

__all__ = ["CompareSettings", "compare"]

_GROUP = 16
_GROUPED = 128
"""Most documents that the throughput is measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareSettings:
    """How models are compared.

    Attributes:
        engine: what runs all of them.
        threads: of each; 0: one per core.
        rounds: how often each document is timed.
        worth: a difference of the metric that is not worth a slower model, 0 to 1.
        seed: of the order of the documents and of the resampling.
        timeout: seconds that a model may take to load, or for one document or group.

    Raises:
        CompareError: a number out of range.
    """

    engine: EngineName = EngineName.ONNXRUNTIME
    threads: int = 0
    rounds: int = 1
    worth: float = 0.01
    seed: int = 0
    timeout: float = 600.0

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise CompareError(f"rounds is {self.rounds}; give 1 or more")
        if not 0 <= self.worth < 1:
            raise CompareError(f"worth is {self.worth}; give a share from 0 to 1, as 0.01 for a point")


@dataclass(slots=True)
class _Running:
    """A model's process and what it has told so far."""

    model: Model
    process: StoppedProcess
    readings: list[list[Reading]] = field(default_factory=list)
    groups: list[GroupTime] = field(default_factory=list)
    peak: int = 0

    def read(self, document: Document) -> Reading:
        """Have a document read."""
        try:
            reply = self.process.ask("read", text=document.text, question=document.question)
        except MeasurementError as error:
            raise CompareError(f"{self.model.name}, document of line {document.line}: {error}") from error
        self.peak = max(self.peak, reply["peak"])
        return Reading(
            predicted=reply["predicted"],
            seconds=reply["seconds"],
            tokens=reply["tokens"],
            windows=tuple((start, end) for start, end in reply["windows"]),
        )

    def group(self, documents: Sequence[Document]) -> float:
        """Have documents read together; return the seconds."""
        questions = [document.question for document in documents if document.question is not None]
        texts = [document.text for document in documents]
        try:
            reply = self.process.ask("group", texts=texts, questions=questions or None)
        except MeasurementError as error:
            raise CompareError(f"{self.model.name}, {len(texts)} documents together: {error}") from error
        self.peak = max(self.peak, reply["peak"])
        return float(reply["seconds"])


def compare(
    source: str | Path,
    models: Sequence[str],
    settings: CompareSettings | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare bundles on a file of labelled documents.

    All models stay loaded, each in a process of its own that is stopped unless it is its turn. A document is
    read by one model after the other, each time beginning with another one, so that what happens to the
    machine happens to all; before, each model reads a few documents that are not timed.

    Args:
        source: a `.jsonl` or `.parquet` file (`documents` says what rows hold).
        models: bundles, as PATH or NAME=PATH.
        settings: how.
        progress: is told how many steps are done, of how many.

    Raises:
        CompareError: the models do not go together, the documents cannot be used, the labels are not the
            models', or a model fails on a document.
        BundleError: a bundle cannot be used.
        MeasurementError: a model cannot be loaded.
    """
    chosen, path = settings or CompareSettings(), Path(source)
    task, opened = open_models(models)
    documents = read_documents(path, task)
    labels = check_labels(opened, documents, path) if task is Task.TEXT_CLASSIFICATION else ()
    impossible = task is Task.QUESTION_ANSWERING and any(not document.answers for document in documents)
    with contextlib.ExitStack() as stack:
        running = [
            _Running(model, stack.enter_context(_start(model, chosen, impossible=impossible)))
            for model in opened
        ]
        _measure(running, documents, chosen, progress or (lambda done, total: None))
        measured = [_finished(one) for one in running]
    return summarize(
        measured,
        documents,
        task=task,
        labels=labels,
        source=str(path),
        rounds=chosen.rounds,
        worth=chosen.worth,
        seed=chosen.seed,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=describe_machine(),
        versions=library_versions(),
    )


def _start(model: Model, settings: CompareSettings, *, impossible: bool) -> StoppedProcess:
    spec = {
        "bundle": str(model.bundle.path.resolve()),
        "engine": settings.engine.value,
        "threads": settings.threads,
        "impossible": impossible,
    }
    try:
        return StoppedProcess(
            "longserve.serving.compare.model_worker", [json.dumps(spec)], timeout=settings.timeout
        )
    except MeasurementError as error:
        raise MeasurementError(f"{model.name} cannot be loaded: {error}") from error


def _measure(
    running: Sequence[_Running],
    documents: Sequence[Document],
    settings: CompareSettings,
    progress: Callable[[int, int], None],
) -> None:
    by_size = sorted(range(len(documents)), key=lambda index: len(documents[index].text))
    for index in dict.fromkeys((by_size[-1], by_size[len(by_size) // 2], by_size[0])):
        for one in running:
            one.read(documents[index])  # warm-up: the first runs of an engine are slower
    grouped = by_size[:: max(1, len(by_size) // _GROUPED)][:_GROUPED]
    groups = [grouped[first : first + _GROUP] for first in range(0, len(grouped), _GROUP)]
    total = settings.rounds * len(documents) + len(groups)
    order = list(range(len(documents)))
    random.Random(settings.seed).shuffle(order)
    for one in running:
        one.readings = [[] for _ in documents]
    for turn in range(settings.rounds * len(documents)):
        index = order[turn % len(documents)]
        for one in _rotated(running, turn):
            one.readings[index].append(one.read(documents[index]))
        progress(turn + 1, total)
    for turn, members in enumerate(groups):
        for one in _rotated(running, turn):
            seconds = one.group([documents[index] for index in members])
            one.groups.append(GroupTime(documents=tuple(members), seconds=seconds))
        progress(settings.rounds * len(documents) + turn + 1, total)


def _rotated(running: Sequence[_Running], turn: int) -> list[_Running]:
    first = turn % len(running)
    return [*running[first:], *running[:first]]


def _finished(one: _Running) -> ModelReadings:
    loaded: dict[str, Any] = one.process.loaded
    return ModelReadings(
        name=one.model.name,
        bundle=one.model.bundle,
        runs_on=loaded["runs_on"],
        load_seconds=loaded["load_seconds"],
        loaded_bytes=loaded["memory"]["resident"],
        peak_bytes=max(one.peak, loaded["memory"]["peak"]),
        readings=tuple(tuple(readings) for readings in one.readings),
        groups=tuple(one.groups),
    )
