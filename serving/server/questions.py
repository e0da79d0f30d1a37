"""The question that tells whether a model answers, and when a server counts as ready.

Triton 2.51 calls a model ready once it is loaded: also when the process that runs it has died, and a text
model when its encoder is not there. Only a question tells.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runtime.admission import QUEUE_FULL
from ..runtime.request_record import PROBE_ID
from .model_configs import model_configs

__all__ = [
    "Answer",
    "Questions",
    "Readiness",
    "SECONDS_PER_QUESTION",
    "Unreachable",
    "fault_at",
    "read_questions",
]

_TEXT = "Is this model ready?"
SECONDS_PER_QUESTION = 5.0
"""How long a model may take for its answer."""
_REMEMBERED_SECONDS = 1.0
_ENCODER_INPUTS = {"input_ids": 0, "global_attention_mask": 1, "token_type_ids": 0}
"""The inputs that an encoder may have, and what is sent for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What the models of a repository are asked.

    Attributes:
        bodies: model to the JSON body of an inference request.
        of_the_server: the models that must answer if the server is to be ready: text models, and encoders
            that no text model calls.
    """

    bodies: Mapping[str, bytes] = field(default_factory=dict)
    of_the_server: tuple[str, ...] = ()


def read_questions(repository: Path) -> Questions:
    """Find out from the configurations what each model of ours can be asked; others are not asked."""
    bodies: dict[str, bytes] = {}
    called: set[str] = set()
    for name, config in model_configs(repository):
        inputs = {tensor.name for tensor in config.input}
        body = _body(inputs)
        if body is not None:
            bodies[name] = body
        if "encoder" in config.parameters:
            called.add(config.parameters["encoder"].string_value)
    return Questions(bodies=bodies, of_the_server=tuple(name for name in bodies if name not in called))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered: an HTTP status and a body."""

    status: int
    content: bytes


class Unreachable(Exception):
    """Triton cannot be asked: it is starting, stopping, or has ended."""


class Readiness:
    """Asks models, each at most once a second however often one asks for its readiness.

    That a question did not reach Triton is not remembered: it cost no run, and may be over in a moment. While
    Triton starts, its gRPC port answers before its HTTP port does, by which the models are asked.
    """

    def __init__(self, ask: Callable[[str, bytes], Awaitable[Answer]]) -> None:
        """Ask nothing yet.

        Args:
            ask: sends the body of an inference request to a model, or raises `Unreachable`.
        """
        self.questions = Questions()
        self._ask = ask
        self._locks: dict[str, asyncio.Lock] = {}
        self._known: dict[str, tuple[float, str | None]] = {}

    async def fault(self, model: str | None) -> str | None:
        """Why a model, or the server where `model` is None, does not answer; None if it does.

        A model that is overloaded counts as ready: it refuses at once, as it should.
        """
        names = self.questions.of_the_server if model is None else (model,)
        for name in names:
            reason = await self._fault_of(name) if name in self.questions.bodies else None
            if reason is not None:
                return f"{name} is loaded, but does not answer: {reason}"
        return None

    async def _fault_of(self, name: str) -> str | None:
        async with self._locks.setdefault(name, asyncio.Lock()):
            known = self._known.get(name)
            if known is not None and time.monotonic() - known[0] < _REMEMBERED_SECONDS:
                return known[1]
            try:
                reason = await self._asked(name)
            except Unreachable as error:
                return str(error)
            self._known[name] = (time.monotonic(), reason)
            return reason

    async def _asked(self, name: str) -> str | None:
        try:
            answer = await asyncio.wait_for(
                self._ask(name, self.questions.bodies[name]), SECONDS_PER_QUESTION
            )
        except asyncio.TimeoutError:
            return f"no answer within {SECONDS_PER_QUESTION:g} seconds"
        if answer.status == 200 or QUEUE_FULL.encode() in answer.content:
            return None
        return _message(answer)


def fault_at(url: str) -> str | None:
    """Ask a gateway whether its server is ready; return why not, or None if it is."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/v2/health/ready", timeout=60.0):
            return None
    except urllib.error.HTTPError as error:
        return _message(Answer(error.code, error.read()))
    except OSError as error:
        return str(error)


def _message(answer: Answer) -> str:
    try:
        return str(json.loads(answer.content)["error"])
    except (ValueError, TypeError, KeyError):
        return f"status {answer.status}"


def _body(inputs: set[str]) -> bytes | None:
    """The question for a model with these inputs; None if it is none of ours."""
    if inputs in ({"TEXT"}, {"QUESTION", "CONTEXT"}):
        tensors = [_tensor(name, "BYTES", _TEXT) for name in sorted(inputs)]
    elif "input_ids" in inputs and inputs <= set(_ENCODER_INPUTS):
        tensors = [_tensor(name, "INT64", _ENCODER_INPUTS[name]) for name in sorted(inputs)]
    else:
        return None
    return json.dumps({"id": PROBE_ID, "inputs": tensors}).encode()


def _tensor(name: str, datatype: str, value: Any) -> dict[str, Any]:
    return {"name": name, "shape": [1, 1], "datatype": datatype, "data": [value]}
