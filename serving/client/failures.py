"""What a server or tritonclient reports as failure, as one of our errors.

tritonclient raises one exception type for everything, `InferenceServerException`, whose `status()` is
`StatusCode.NAME` over gRPC, the number over HTTP, and None where tritonclient itself refused the request.
Triton's own error codes become statuses as its `src/http_server.cc` and `src/grpc/grpc_utils.cc` say; some
of them cover several causes, which only the message tells apart.
"""

from __future__ import annotations

import re

from ..runtime.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    RequestError,
    ServerUnavailable,
    ServingError,
)

__all__ = ["STATUS_ERRORS", "failure"]

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
    "StatusCode.PERMISSION_DENIED": RequestError,
    "StatusCode.RESOURCE_EXHAUSTED": Overloaded,
    "StatusCode.UNAUTHENTICATED": RequestError,
    "StatusCode.UNAVAILABLE": ServerUnavailable,
    "StatusCode.UNIMPLEMENTED": RequestError,
    "StatusCode.UNKNOWN": InferenceFailed,
    "400": InvalidInput,
    "401": RequestError,
    "403": RequestError,
    "404": ModelNotFound,
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
    ("request timeout expired", DeadlineExceeded),
    ("message larger than max", InvalidInput),
)
"""Part of a message, in lower case, to error. It wins over the status."""

_REQUEST_ID = re.compile(r"^\[request id: [^\]]*\] *")
"""What Triton puts before a message, also where the request had no id."""

_NOT_LOADED = "has no available versions"


def failure(status: str | None, message: str | None, *, model: str, server: str) -> ServingError:
    """Return the error for a failed request.

    Args:
        status: `StatusCode.NAME`, an HTTP status number as a string, or None.
        message: what the server or tritonclient said.
        model: the model that was asked.
        server: the server's address.
    """
    text = _REQUEST_ID.sub("", (message or "").strip()) or "no reason given"
    kind = _kind(status, text.lower())
    if kind is InvalidInput:
        return InvalidInput(text)
    where = f"model {model!r} at {server}"
    if kind is ServerUnavailable:
        return ServerUnavailable(f"{where} is not available: {text}; check that the server is up and ready")
    if kind is ModelNotFound:
        return ModelNotFound(f"{where} does not exist: {text}; check the model's name")
    if kind is Overloaded:
        return Overloaded(f"{where} is overloaded: {text}; try again later, or send less at a time")
    if kind is DeadlineExceeded:
        return DeadlineExceeded(f"{where} did not answer in time: {text}; give a longer timeout")
    if kind is InferenceFailed:
        return InferenceFailed(f"{where} failed: {text}; see the server's log")
    status_shown = f" (status {status})" if status else ""
    return RequestError(f"{where} did not take the request{status_shown}: {text}")


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
