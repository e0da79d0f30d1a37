"""gRPC as both gRPC transports speak it: tritonclient's messages and what its exceptions mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..runtime.errors import InferenceFailed, RequestError
from .calls import InferenceCall, Outputs
from .connection import Connection
from .failures import check_identity, failure
from .inquiries import Inquiry, Topic

__all__ = [
    "channel_options",
    "grpc_failures",
    "infer_arguments",
    "inquire",
    "read_inquiry",
    "read_outputs",
    "sent_headers",
]

_CHANNEL_ARGUMENTS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC's default backoff grows to two minutes, in which a restarted server would look dead
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # as the HTTP transport: proxies of the environment are for the web, not for a model server
    ("grpc.enable_http_proxy", 0),
    # `RetryPolicy` sends again what was not taken. gRPC's own retries (1.83 to 1.85) of a call that meets a
    # connection that its server is just closing go on without a pause until the deadline, at 0.5 GB a second
    ("grpc.enable_retries", 0),
    # one connection per transport, not shared with others to the same address in this process
    ("grpc.use_local_subchannel_pool", 1),
]
_METHODS = {
    Topic.CONFIG: "get_model_config",
    Topic.INDEX: "get_model_repository_index",
    Topic.METADATA: "get_model_metadata",
    Topic.STATISTICS: "get_inference_statistics",
}
_ANSWERS = {Topic.CONFIG: "config", Topic.INDEX: "models", Topic.STATISTICS: "model_stats"}
"""The field of gRPC's answer that HTTP gives bare."""


class _Headers(dict[str, str]):
    """Headers whose items are the tuple that grpc.aio insists on; tritonclient passes on what it gets."""

    def items(self) -> Any:
        return tuple(super().items())


def channel_options(connection: Connection) -> dict[str, Any]:
    """Return the arguments of either `InferenceServerClient`.

    Raises:
        InvalidInput: a TLS file cannot be read.
    """
    options: dict[str, Any] = {"url": connection.address.authority, "channel_args": _CHANNEL_ARGUMENTS}
    if connection.address.uses_tls:
        import grpc

        tls = connection.tls
        files = [tls.read(name) if tls else None for name in ("ca", "key", "cert")]
        options["creds"] = grpc.ssl_channel_credentials(*files)
    return options


def sent_headers(connection: Connection) -> dict[str, str]:
    """Return the headers of every request."""
    return _Headers(connection.headers)


def infer_arguments(module: Any, call: InferenceCall, timeout: float) -> dict[str, Any]:
    """Return the arguments of either client's `infer`; `module` is `tritonclient.grpc`."""
    inputs = []
    for name, array in call.inputs.items():
        tensor = module.InferInput(name, list(array.shape), "BYTES" if array.dtype == object else "INT64")
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return {
        "model_name": call.model,
        "inputs": inputs,
        "request_id": call.request_id,
        "timeout": int(timeout * 1e6),
        "client_timeout": timeout,
        "parameters": dict(call.parameters),
    }


def read_outputs(module: Any, result: Any, call: InferenceCall, server: str) -> Outputs:
    """Return the tensors of a response.

    Raises:
        InferenceFailed: a tensor cannot be read, or it is another request's answer.
    """
    where = call.at(server)
    response = result.get_response()
    check_identity(response.id or call.request_id, call.request_id, where)
    try:
        return {output.name: result.as_numpy(output.name) for output in response.outputs}
    except (ValueError, TypeError, KeyError, IndexError, module.InferenceServerException) as error:
        raise InferenceFailed(f"{where} returned tensors that cannot be read: {error}") from error


def inquire(inquiry: Inquiry) -> tuple[str, dict[str, Any]]:
    """Return the name of either client's method that asks this, and its arguments."""
    if inquiry.topic is Topic.READY:
        if inquiry.model is None:
            return "is_server_ready", {}
        return "is_model_ready", {"model_name": inquiry.model}
    arguments: dict[str, Any] = {"as_json": True}
    if inquiry.model is not None:
        arguments["model_name"] = inquiry.model
    return _METHODS[inquiry.topic], arguments


def read_inquiry(inquiry: Inquiry, answer: Any) -> Any:
    """Return the answer as HTTP would give it."""
    field = _ANSWERS.get(inquiry.topic)
    return answer if field is None else answer.get(field, [])


_CLOCKS = 0.05
"""Seconds. A server that sees the deadline pass first resets the call, and the client reads that it was
cancelled."""


@contextmanager
def grpc_failures(
    module: Any, where: Callable[[], str], closed: type[Exception], timeout: float
) -> Iterator[None]:
    """Raise tritonclient's exceptions as ours.

    Args:
        module: `tritonclient.grpc`.
        where: names model, server and request.
        closed: what grpc raises on a channel that was closed meanwhile.
        timeout: seconds that the call was given.
    """
    end = time.monotonic() + timeout - _CLOCKS
    try:
        yield
    except module.InferenceServerException as error:
        status = error.status()
        if status == "StatusCode.CANCELLED" and time.monotonic() >= end:
            status = "StatusCode.DEADLINE_EXCEEDED"
        raise failure(status, error.message(), where()) from error
    except closed as error:
        raise RequestError(f"{where()}: the client is closed ({error}); open a new one") from error
