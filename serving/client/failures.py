"""What a server or tritonclient reports as failure, as one of our errors.

tritonclient raises one exception type for everything, `InferenceServerException`, whose `status()` is
`StatusCode.NAME` over gRPC, the number over HTTP, and None where tritonclient itself refused the request.
Triton's own error codes become statuses as its `src/http_server.cc` and `src/grpc/grpc_utils.cc` say; some
of them cover several causes, which only the message tells apart.
"""

from __future__ import annotations

import re

from ..runtime.errors import (
    AccessDenied,
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    RequestError,
    ServerUnavailable,
    ServingError,
)

__all__ = ["STATUS_ERRORS", "check_identity", "failure"]

STATUS_ERRORS: dict[str, type[ServingError]] = {
    "StatusCode.ABORTED": InferenceFailed,
    "StatusCode.ALREADY_EXISTS": InferenceFailed,
    "StatusCode.CANCELLED": ServerUnavailable,
    "StatusCode.DATA_LOSS": InferenceFailed,
    "StatusCode.DEADLINE_EXCEEDED": DeadlineExceeded,
    "StatusCode.FAILED_PRECONDITION": InferenceFailed,
    "StatusCode.INTERNAL": InferenceFailed,
    "StatusCode.INVALID_ARGUMENT": InvalidInput,
    "StatusCode.NOT_FOUND": ModelNotFound,
    "StatusCode.OK": InferenceFailed,
    "StatusCode.OUT_OF_RANGE": InvalidInput,
    "StatusCode.PERMISSION_DENIED": AccessDenied,
    "StatusCode.RESOURCE_EXHAUSTED": Overloaded,
    "StatusCode.UNAUTHENTICATED": AccessDenied,
    "StatusCode.UNAVAILABLE": ServerUnavailable,
    "StatusCode.UNIMPLEMENTED": RequestError,
    "StatusCode.UNKNOWN": InferenceFailed,
    "400": InvalidInput,
    "401": AccessDenied,
    "403": AccessDenied,
    "404": ModelNotFound,
    "407": AccessDenied,
    "408": DeadlineExceeded,
    "409": InferenceFailed,
    "413": InvalidInput,
    "422": InvalidInput,
    "429": Overloaded,
    "499": ServerUnavailable,
    "500": InferenceFailed,
    "501": RequestError,
    "502": ServerUnavailable,
    "503": ServerUnavailable,
    "504": DeadlineExceeded,
}
"""Status to error, where the message says nothing more precise."""

_MESSAGE_ERRORS: tuple[tuple[str, type[ServingError]], ...] = (
    ("unknown model", ModelNotFound),
    ("exceeds maximum queue size", Overloaded),
    # over HTTP it is 503, like what is not up
    ("the gateway is overloaded", Overloaded),
    ("request timeout expired", DeadlineExceeded),
    ("message larger than max", InvalidInput),
    # --grpc-restricted-protocol refuses with UNAVAILABLE
    ("is restricted, expecting header", AccessDenied),
)
"""Part of a message, in lower case, to error. It wins over the status."""

_SAYINGS: dict[type[ServingError], str] = {
    AccessDenied: "{where} denied access: {text}; give the credentials as headers, if you have them",
    DeadlineExceeded: "{where} did not answer in time: {text}; give a longer timeout",
    InferenceFailed: "{where} failed: {text}; see the server's log",
    InvalidInput: "{where} refused the input: {text}",
    ModelNotFound: "{where} does not exist: {text}; check the model's name",
    Overloaded: "{where} is overloaded: {text}; try again later, or send less at a time",
    ServerUnavailable: "{where} is not available: {text}; check that the server is up and ready",
}
"""How each error names where, what and what to do. The server's words already do so for a bad input."""

_HINTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile("message larger than max"),
        "send less, or raise the server's --max-request-bytes",
    ),
    (re.compile(r"connect an http1\.x server"), "is it the HTTP port?"),
    (
        re.compile(r"missing required input\(s\) \['?(question|context)\b"),
        "the model answers questions: ask it with answer(), on the command line `longserve ask`",
    ),
    (
        re.compile(r"missing required input\(s\) \['text'"),
        "the model classifies texts: ask it with classify(), on the command line `longserve classify`",
    ),
    (
        re.compile(r"missing required input\(s\) \[.*'input_ids'"),
        "the model is an encoder, which takes token ids: name its text model, or ask it with logits()",
    ),
)
"""What a message in lower case means, where the server's words leave that to be found out."""

_REQUEST_ID = re.compile(r"^\[request id: [^\]]*\] *")
"""What Triton puts before a message, also where the request had no id."""

_NOT_LOADED = "has no available versions"


def failure(status: str | None, message: str | None, where: str) -> ServingError:
    """Return the error for a failed request.

    Args:
        status: `StatusCode.NAME`, an HTTP status number as a string, or None.
        message: what the server or tritonclient said.
        where: model, server and request (`InferenceCall.at`).
    """
    text = _REQUEST_ID.sub("", (message or "").strip()) or "no reason given"
    kind = _kind(status, text.lower())
    hints = [hint for found, hint in _HINTS if found.search(text.lower())]
    text = "; ".join([text.rstrip("."), *hints]) if hints else text
    said = _SAYINGS.get(kind)
    if said is None:
        status_shown = f" (status {status})" if status else ""
        return RequestError(f"{where} did not take the request{status_shown}: {text}")
    return kind(said.format(where=where, text=text))


def check_identity(answered: object, asked: str, where: str) -> None:
    """Take no answer for that to another request.

    Args:
        answered: the id in the answer. A server that leaves it out, as the protocol lets it, repeats `asked`.
        asked: the request's id.
        where: names model, server and request.

    Raises:
        InferenceFailed: they differ.
    """
    if answered != asked:
        raise InferenceFailed(
            f"{where} gave the answer to another request, {answered!r}; something between client and server, "
            "such as a proxy, mixes answers up"
        )


def _kind(status: str | None, message: str) -> type[ServingError]:
    if _NOT_LOADED in message:
        return ServerUnavailable
    for part, kind in _MESSAGE_ERRORS:
        if part in message:
            return kind
    if status is None:
        return RequestError
    if status in STATUS_ERRORS:
        return STATUS_ERRORS[status]
    return InferenceFailed if status.startswith("5") else RequestError
