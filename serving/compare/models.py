"""The models of a comparison: bundles, their names, and whether they go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime.bundle import Bundle
from ..runtime.manifest import Task
from .documents import Document
from .errors import LabelMismatch, ModelsError

__all__ = ["Model", "check_labels", "open_models"]

_MOST_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A bundle and what the user calls it."""

    name: str
    bundle: Bundle


def open_models(given: Sequence[str]) -> tuple[Task, tuple[Model, ...]]:
    """Open bundles given as PATH or NAME=PATH, and return their task too.

    Raises:
        BundleError: one of them cannot be used.
        ModelsError: none is given, two have one name, one has no tokenizer, or they are for different tasks.
    """
    if not given:
        raise ModelsError("no model is given; give one bundle at least")
    models = []
    for argument in given:
        name, separator, path = argument.partition("=")
        if not separator or "/" in name:
            name, path = Path(argument).name or Path(argument).resolve().name, argument
        bundle = Bundle.open(path)
        if not bundle.manifest.has_tokenizer:
            raise ModelsError(
                f"{name} has no tokenizer.json, so it cannot read documents; export it again from a "
                "checkpoint with a tokenizer"
            )
        models.append(Model(name=name, bundle=bundle))
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise ModelsError(f"two models are called {name!r}; give them names of their own: NAME=PATH")
    tasks = {model.bundle.manifest.task for model in models}
    if len(tasks) > 1:
        listed = ", ".join(f"{model.name} is for {model.bundle.manifest.task.value}" for model in models)
        raise ModelsError(f"the models do different things: {listed}; give bundles of one task")
    return tasks.pop(), tuple(models)


def check_labels(models: Sequence[Model], documents: Sequence[Document], source: Path) -> tuple[str, ...]:
    """Return the labels of the documents, sorted; every model must know all of them.

    Raises:
        LabelMismatch: one does not.
    """
    first_line: dict[str, int] = {}
    for document in documents:
        if document.label is not None:
            first_line.setdefault(document.label, document.line)
    for model in models:
        known = model.bundle.manifest.labels
        unknown = [label for label in first_line if label not in known]
        if unknown:
            raise LabelMismatch(
                f"{source}, line {first_line[unknown[0]]}: {model.name} has no label {unknown[0]!r}; it has "
                f"{_listed(known)}, and the documents have {_listed(sorted(first_line))}; "
                "rename the labels, or leave out the documents or the model"
            )
    return tuple(sorted(first_line))


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(map(repr, labels[:_MOST_SHOWN]))
    return shown + (f" and {len(labels) - _MOST_SHOWN} more" if len(labels) > _MOST_SHOWN else "")
