"""Whether a server's models answer: each is asked a question, because being ready says less.

Triton counts a model as ready once it is loaded. It goes on doing so when the process that runs it has died,
and a text model counts as ready without its encoder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from ..runtime.errors import InvalidInput, Overloaded, RequestError
from ..runtime.request_record import PROBE_ID
from .address import parse_address
from .client import Client
from .connection import Tls, make_connection
from .inquiries import Inquiry, Topic
from .retry import RetryPolicy
from .transport import Transport, open_transport

__all__ = ["ModelReadiness", "Readiness", "ask_models", "wait_for_answers"]

_TEXT = "Is this model ready?"
_ENCODER = "_encoder"
_INPUTS_OF_ENCODER = {"input_ids", "global_attention_mask", "token_type_ids"}
_PAUSE = 0.25
_SERVER = "(server)"
"""Stands for the server in a list of models."""


class Readiness(str, Enum):
    """What a model did with a question."""

    ANSWERS = "answers"
    BUSY = "busy"
    """It is overloaded: it works, but takes no more at the moment."""
    SILENT = "silent"
    """It did not answer, or with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReadiness:
    """How one model did.

    Attributes:
        model: its name.
        readiness: what it did.
        seconds: how long that took.
        reason: why it did not answer; "" if it did.
    """

    model: str
    readiness: Readiness
    seconds: float
    reason: str = ""


def ask_models(
    url: str,
    models: Sequence[str] = (),
    *,
    timeout: float = 5.0,
    tls: Tls | None = None,
    headers: Mapping[str, str] | None = None,
    transport: Transport | None = None,
) -> list[ModelReadiness]:
    """Ask each model a tiny question, once.

    Args:
        url: the server, as for `Client`.
        models: text models or encoders of longserve; by default every text model of the server, and each
            encoder that no text model there calls. Then the server itself must be ready too, which it is not
            while a model of its repository is not loaded; if it is not, it comes first, as `(server)`.
        timeout: seconds that each answer may take.
        tls, headers, transport: as for `Client`.

    Raises:
        ServerUnavailable, DeadlineExceeded: no server answers there, so its models cannot be listed.
        AccessDenied: the server does not list its models; name them.
        InvalidInput: an argument cannot be used, or a model that was named is none of longserve's.
    """
    carrier = transport or open_transport(make_connection(parse_address(url), tls, headers))
    once = RetryPolicy(attempts=1)
    with Client(url, timeout=timeout, retry=once, tls=tls, headers=headers, transport=carrier) as client:
        if models:
            return [_ask(client, carrier, name, timeout) for name in models]
        return _ask_all(client, carrier, timeout)


def wait_for_answers(
    ask: Callable[[], list[ModelReadiness]], accepted: Collection[Readiness], seconds: float
) -> list[ModelReadiness]:
    """Ask again and again until every model does what is accepted, or the time is over.

    Args:
        ask: asks the models, as `ask_models` does.
        accepted: what counts as ready.
        seconds: when to give up.

    Returns:
        What the last asking gave.

    Raises:
        RequestError: at the end there was still no server.
    """
    deadline = time.monotonic() + seconds
    while True:
        over = time.monotonic() >= deadline
        try:
            found = ask()
            if over or (found and all(each.readiness in accepted for each in found)):
                return found
        except RequestError:
            if over:
                raise
        time.sleep(_PAUSE)


def _ask_all(client: Client, transport: Transport, timeout: float) -> list[ModelReadiness]:
    served = {model.name: model for model in client.models()}
    found = []
    if not transport.ask(Inquiry(topic=Topic.READY), timeout):
        reason = "it says that a model of its repository is not loaded or does not answer"
        found.append(ModelReadiness(model=_SERVER, readiness=Readiness.SILENT, seconds=0.0, reason=reason))
    for name, model in served.items():
        if name.endswith(_ENCODER) and name.removesuffix(_ENCODER) in served:
            continue  # its text model calls it
        if not model.ready:
            reason = f"it is not loaded: {model.reason or 'no reason given'}"
            found.append(ModelReadiness(model=name, readiness=Readiness.SILENT, seconds=0.0, reason=reason))
            continue
        try:
            found.append(_ask(client, transport, name, timeout))
        except InvalidInput:
            continue  # none of longserve's
    return found


def _ask(client: Client, transport: Transport, name: str, timeout: float) -> ModelReadiness:
    started = time.monotonic()
    readiness, reason = Readiness.ANSWERS, ""
    try:
        question = _question_for(client, transport, name, timeout)
        question()
    except Overloaded as error:
        readiness, reason = Readiness.BUSY, str(error)
    except RequestError as error:
        readiness, reason = Readiness.SILENT, str(error)
    seconds = time.monotonic() - started
    return ModelReadiness(model=name, readiness=readiness, seconds=seconds, reason=reason)


def _question_for(client: Client, transport: Transport, name: str, timeout: float) -> Callable[[], object]:
    """Return what asks the model, chosen by its inputs."""
    metadata = transport.ask(Inquiry(topic=Topic.METADATA, model=name), timeout)
    inputs = {tensor["name"] for tensor in metadata["inputs"]}
    if inputs == {"TEXT"}:
        return lambda: client.classify(_TEXT, model=name, request_id=PROBE_ID)
    if inputs == {"QUESTION", "CONTEXT"}:
        return lambda: client.answer(_TEXT, _TEXT, model=name, request_id=PROBE_ID)
    if "input_ids" in inputs and inputs <= _INPUTS_OF_ENCODER:
        mask = [1] if "global_attention_mask" in inputs else None
        types = [0] if "token_type_ids" in inputs else None
        return lambda: client.logits([0], mask, types, model=name, request_id=PROBE_ID)
    raise InvalidInput(
        f"model {name!r} takes {', '.join(sorted(inputs))}, so it is none of longserve's; "
        "name a text model or an encoder"
    )
