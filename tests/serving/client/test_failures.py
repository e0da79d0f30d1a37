from __future__ import annotations

import http
from types import SimpleNamespace

import grpc
import pytest

from longserve.serving.client.failures import STATUS_ERRORS, failure
from longserve.serving.client.grpc_messages import grpc_failures
from longserve.serving.runtime.errors import (
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


def made(status: str | None, message: str | None) -> ServingError:
    return failure(status, message, "model 'a_model' at grpc://host:1 (request 7)")


def missing(given: str, lacking: str) -> str:
    """Triton's words for the inputs of another task."""
    return (
        f"expected 1 inputs but got 2 inputs for model 'm'. Got input(s) {given}, but missing required "
        f"input(s) {lacking}. Please provide all required input(s)."
    )


@pytest.mark.parametrize("status", [f"StatusCode.{code.name}" for code in grpc.StatusCode])
def test_every_grpc_status_is_mapped_on_purpose(status: str) -> None:
    assert status in STATUS_ERRORS
    assert type(made(status, "why")) is STATUS_ERRORS[status]


@pytest.mark.parametrize("status", [str(status.value) for status in http.HTTPStatus if status >= 300])
def test_every_http_status_is_an_error_that_names_where_and_why(status: str) -> None:
    error = made(status, "the cause")
    assert isinstance(error, RequestError | InvalidInput)
    assert "model 'a_model' at grpc://host:1 (request 7)" in str(error) and "the cause" in str(error)
    if status in STATUS_ERRORS:
        assert type(error) is STATUS_ERRORS[status]
    else:
        assert type(error) is (InferenceFailed if status >= "500" else RequestError)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        ("400", "[request id: <id_unknown>] unexpected inference input 'TEXT'", InvalidInput),
        ("404", "Request for unknown model: 'a_model' is not found", ModelNotFound),
        ("400", "Request for unknown model: 'a_model' is not found", ModelNotFound),
        ("StatusCode.NOT_FOUND", "Request for unknown model: 'a_model' is not found", ModelNotFound),
        ("503", "Request for unknown model: 'a_model' has no available versions", ServerUnavailable),
        ("503", "[request id: 1] Exceeds maximum queue size", Overloaded),
        ("StatusCode.UNAVAILABLE", "Exceeds maximum queue size", Overloaded),
        ("503", "the gateway is overloaded: too many bytes wait here; try again later", Overloaded),
        ("429", "slow down", Overloaded),
        ("StatusCode.UNAVAILABLE", "Request timeout expired", DeadlineExceeded),
        ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded),
        ("StatusCode.UNAVAILABLE", "failed to connect to all addresses", ServerUnavailable),
        ("StatusCode.CANCELLED", "Channel closed!", ServerUnavailable),
        ("StatusCode.RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)", InvalidInput),
        ("500", "onnxruntime failed", InferenceFailed),
        ("599", "odd", InferenceFailed),
        ("302", "moved", RequestError),
        ("StatusCode.UNAUTHENTICATED", "no token", AccessDenied),
        ("403", "This API is restricted, expecting header 'key'", AccessDenied),
        ("StatusCode.UNAVAILABLE", "This protocol is restricted, expecting header 'k'", AccessDenied),
        (None, "tritonclient refused", RequestError),
        (None, None, RequestError),
    ],
)
def test_messages_tell_causes_of_one_status_apart(
    status: str | None, message: str | None, kind: type[ServingError]
) -> None:
    error = made(status, message)
    assert type(error) is kind
    assert (message or "no reason given").split("] ")[-1] in str(error)
    assert "[request id" not in str(error)
    assert "model 'a_model' at grpc://host:1 (request 7)" in str(error)


@pytest.mark.parametrize(
    ("status", "message", "kind", "hint"),
    [
        (
            "StatusCode.RESOURCE_EXHAUSTED",
            "SERVER: Received message larger than max (9 vs. 4)",
            InvalidInput,
            "send less, or raise the server's --max-request-bytes",
        ),
        (
            "StatusCode.UNAVAILABLE",
            "Failed parsing HTTP/2 (Trying to connect an http1.x server (HTTP status 400))",
            ServerUnavailable,
            "is it the HTTP port?",
        ),
        ("400", missing("['TEXT']", "['QUESTION','CONTEXT']"), InvalidInput, "`longserve ask`"),
        ("400", missing("['CONTEXT','QUESTION']", "['TEXT']"), InvalidInput, "`longserve classify`"),
        ("400", missing("['TEXT']", "['input_ids','global_attention_mask']"), InvalidInput, "an encoder"),
    ],
)
def test_what_a_message_leaves_to_be_found_out_is_said(
    status: str, message: str, kind: type[ServingError], hint: str
) -> None:
    error = made(status, message)
    assert type(error) is kind and message.rstrip(".") in str(error) and hint in str(error)


@pytest.mark.parametrize(("timeout", "kind"), [(0.0, DeadlineExceeded), (60.0, ServerUnavailable)])
def test_a_call_cancelled_when_its_time_is_up_ran_out_of_time(
    timeout: float, kind: type[ServingError]
) -> None:
    class Raised(Exception):
        def status(self) -> str:
            return "StatusCode.CANCELLED"

        def message(self) -> str:
            return "CANCELLED"

    module = SimpleNamespace(InferenceServerException=Raised)
    with pytest.raises(kind), grpc_failures(module, lambda: "m", ValueError, timeout):
        raise Raised
