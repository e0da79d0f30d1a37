"""What can be asked about a server and its models, and what the answers mean.

The protocol is KServe v2's with Triton's extensions: model repository, statistics, model configuration
(`docs/protocol` in triton-inference-server/server). Both protocols give the same JSON; gRPC's has some
numbers as strings, as protobuf's JSON mapping wants it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..runtime.errors import InferenceFailed, ModelNotFound

__all__ = [
    "INDEX_SECONDS",
    "Inquiry",
    "ModelLimits",
    "ServedModel",
    "Topic",
    "naming_models",
    "read_index",
    "read_labels",
    "read_limits",
    "read_statistics",
    "tensors_shown",
]


INDEX_SECONDS = 5.0
"""How long a server may take to list its models for an error message."""
_MOST_NAMED = 12
_CAPS = ("max_queue_size", "max_text_bytes", "max_windows")


class Topic(Enum):
    """What is asked."""

    CONFIG = "configuration"
    INDEX = "repository index"
    METADATA = "metadata"
    READY = "readiness"
    STATISTICS = "statistics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """A question about a model, or about the server where `model` is None."""

    topic: Topic
    model: str | None = None

    def at(self, server: str) -> str:
        """Name what was asked for an error message."""
        whose = f"the server at {server}" if self.model is None else f"model {self.model!r} at {server}"
        return f"{whose} ({self.topic.value})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One Triton model of a server.

    Attributes:
        name: the model's name.
        versions: its versions, in order.
        ready: whether it answers.
        reason: why not, in Triton's words; "" if it is ready.
    """

    name: str
    versions: tuple[str, ...]
    ready: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What a model takes.

    Attributes:
        max_length: longest sequence in tokens; longer texts are read in windows.
        max_batch_size: most texts or sequences of one request. (`Client` sends each text as its own.)
        max_queue_size: requests that each process of a text model holds; one more is refused as `Overloaded`.
            None for an encoder.
        max_text_bytes: largest text, question or context, in bytes of UTF-8; None for an encoder.
        max_windows: most windows of one text; None for an encoder.
    """

    max_length: int
    max_batch_size: int
    max_queue_size: int | None
    max_text_bytes: int | None
    max_windows: int | None


def read_index(answer: Any, where: str) -> list[ServedModel]:
    """Read a repository index: one entry per model and version.

    Raises:
        InferenceFailed: the answer cannot be read.
    """
    try:
        entries = [(e["name"], e.get("version", ""), e.get("state", ""), e.get("reason", "")) for e in answer]
    except (TypeError, KeyError, AttributeError) as error:
        raise _unreadable(where, error) from error
    return _served(entries)


def read_statistics(answer: Any, where: str) -> list[ServedModel]:
    """Read the statistics of all models: those that are loaded have an entry.

    Raises:
        InferenceFailed: the answer cannot be read.
    """
    try:
        entries = [(e["name"], e.get("version", ""), "READY", "") for e in answer]
    except (TypeError, KeyError, AttributeError) as error:
        raise _unreadable(where, error) from error
    return _served(entries)


def read_labels(config: Any, where: str) -> tuple[str, ...]:
    """Read the labels from a text model's configuration, by index; empty for question answering.

    Raises:
        InferenceFailed: the configuration is not that of a longserve text model.
    """
    try:
        parameters = _parameters(config)
        if parameters["task"] == "question-answering":
            return ()
        return tuple(str(label) for label in json.loads(parameters["labels"]))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise _unreadable(where, error) from error


def read_limits(config: Any, where: str) -> ModelLimits:
    """Read the limits from the configuration of a text model or an encoder.

    Raises:
        InferenceFailed: the configuration is not that of a longserve model.
    """
    try:
        parameters = _parameters(config)
        caps = {name: int(parameters[name]) for name in _CAPS if name in parameters}
        return ModelLimits(
            max_length=int(parameters["max_length"]),
            max_batch_size=int(config["max_batch_size"]),
            max_queue_size=caps.get("max_queue_size"),
            max_text_bytes=caps.get("max_text_bytes"),
            max_windows=caps.get("max_windows"),
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise _unreadable(where, error) from error


def naming_models(error: ModelNotFound, served: Sequence[ServedModel]) -> ModelNotFound:
    """Say which models the server has instead."""
    names = [model.name for model in served]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ModelNotFound(f"{error}; the server has {', '.join(names[:_MOST_NAMED]) or 'none'}{more}")


def tensors_shown(metadata: Any) -> str:
    """Describe a model's tensors, from its metadata, for a message."""
    sides = []
    for side in ("inputs", "outputs"):
        tensors = (
            f"{tensor['name']} {tensor['datatype']} [{', '.join(str(size) for size in tensor['shape'])}]"
            for tensor in metadata[side]
        )
        sides.append(f"{side} {', '.join(tensors)}")
    return "; ".join(sides)


def _served(entries: Sequence[tuple[str, str, str, str]]) -> list[ServedModel]:
    models = {}
    for name in sorted({entry[0] for entry in entries}):
        mine = [entry for entry in entries if entry[0] == name]
        ready = [version for _, version, state, _ in mine if state == "READY"]
        versions = tuple(ready or [version for _, version, _, _ in mine if version])
        reason = "" if ready else "; ".join(filter(None, (entry[3] for entry in mine)))
        models[name] = ServedModel(name=name, versions=versions, ready=bool(ready), reason=reason)
    return list(models.values())


def _parameters(config: Mapping[str, Any]) -> dict[str, str]:
    return {name: entry["string_value"] for name, entry in config["parameters"].items()}


def _unreadable(where: str, error: Exception) -> InferenceFailed:
    return InferenceFailed(
        f"{where} answered what cannot be read ({type(error).__name__}: {error}); is it a longserve model?"
    )
