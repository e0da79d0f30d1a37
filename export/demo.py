"""The whole job on the demo checkpoints: export, prove, build, serve, ask, stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longserve.serving import Client
from longserve.serving.repository import RepositoryOptions, build_repository
from longserve.serving.runtime.manifest import Task
from longserve.serving.server import Ports, TritonServer

from .errors import ExportError
from .exporter import ExportResult, export_bundle
from .progress import Progress

__all__ = [
    "Checked",
    "DEMO_MODELS",
    "DemoDocument",
    "DemoModel",
    "ask_all",
    "export_all",
    "read_documents",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoModel:
    """A demo checkpoint and the Triton model made of it."""

    name: str
    checkpoint: str
    task: Task


DEMO_MODELS = (
    DemoModel(
        name="longformer_classification",
        checkpoint="longformer-tiny-classification",
        task=Task.TEXT_CLASSIFICATION,
    ),
    DemoModel(name="longformer_qa", checkpoint="longformer-tiny-qa", task=Task.QUESTION_ANSWERING),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoDocument:
    """A document of the demo and what is known of it.

    Attributes:
        name: file name.
        text: the document.
        question: what is asked of it; None for a document to be classified.
        expected: the right answer or label.
        evidence_token: position of the answer in the tokenized document; None for scattered evidence.
    """

    name: str
    text: str
    question: str | None
    expected: str
    evidence_token: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What the server said of a document over one protocol."""

    document: DemoDocument
    protocol: str
    found: str
    score: float
    tokens: int
    windows: int

    @property
    def right(self) -> bool:
        """Whether the answer or label is the expected one."""
        return self.found == self.document.expected


def read_documents(directory: Path) -> list[DemoDocument]:
    """Read the demo's documents and `documents.json`, which says what is known of each.

    Raises:
        ExportError: they are not there or cannot be read.
    """
    try:
        index = json.loads((directory / "documents.json").read_text(encoding="utf-8"))
        return [
            DemoDocument(
                name=entry["file"],
                text=(directory / entry["file"]).read_text(encoding="utf-8"),
                question=entry.get("question"),
                expected=entry["answer"] if "question" in entry else entry["label"],
                evidence_token=entry.get("evidence_token"),
            )
            for entry in index
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"the demo's documents in {directory} cannot be read "
            f"({type(error).__name__}: {error}); run it in "
            "a checkout of longserve, or name its examples with --examples"
        ) from error


def export_all(examples: Path, bundles: Path, repository: Path, progress: Progress) -> Iterator[ExportResult]:
    """Export each demo checkpoint and build its Triton models; yields each result when it is done.

    The same as `longserve export` and `longserve repo` for each.
    """
    for model in DEMO_MODELS:
        result = export_bundle(
            str(examples / "checkpoints" / model.checkpoint),
            model.task,
            bundles / model.name,
            overwrite=True,
            progress=progress,
        )
        progress.stage(f"build {model.name}")
        build_repository(result.path, model.name, repository, RepositoryOptions(portable=True))
        yield result


def ask_all(
    repository: Path, documents: list[DemoDocument], log: Any, report: Callable[[str], None]
) -> list[Checked]:
    """Serve the repository on free ports, ask for every document over both protocols, stop.

    Args:
        repository: the model repository.
        documents: what to ask.
        log: stream for Triton's warnings and errors.
        report: is told what happens, one line each.
    """
    checked: list[Checked] = []
    with TritonServer(repository, ports=Ports(http=0, grpc=0, metrics=0), log=log) as server:
        report(f"Triton is ready: {server.urls.grpc}, {server.urls.http}")
        for url in (server.urls.grpc, server.urls.http):
            with Client(url) as client:
                checked.extend(_ask(client, url.split(":")[0], document) for document in documents)
    report("Triton has stopped")
    return checked


def _ask(client: Client, protocol: str, document: DemoDocument) -> Checked:
    if document.question is None:
        label = client.classify(document.text)
        found, score, tokens, windows = label.label, label.score, label.tokens, label.windows
    else:
        best = client.answer(document.question, document.text)[0]
        found, score, tokens, windows = best.answer, best.score, best.tokens, best.windows
    return Checked(
        document=document, protocol=protocol, found=found, score=score, tokens=tokens, windows=windows
    )
