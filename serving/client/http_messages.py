"""HTTP as both HTTP transports speak it: tritonclient's message encoding and decoding."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from ..runtime.errors import InferenceFailed, RequestError, ServingError
from .calls import InferenceCall, Outputs
from .failures import check_identity, failure
from .inquiries import Inquiry, Topic

__all__ = [
    "HttpRequest",
    "cut_off",
    "import_tritonclient",
    "infer_request",
    "inquiry_request",
    "not_http",
    "read_inquiry",
    "read_outputs",
]

HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request, without the part of the address that all share.

    Attributes:
        method: `GET` or `POST`.
        path: begins with `/v2`.
        where: names model, server and request for error messages.
        identity: of an inference: what the server repeats in its answer.
        body: what is posted.
        headers: of this request alone.
    """

    method: str
    path: str
    where: str
    identity: str = ""
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


def import_tritonclient() -> Any:
    """Return `tritonclient.http`.

    Raises:
        RequestError: it is not installed.
    """
    try:
        import tritonclient.http
    except ImportError as error:
        raise RequestError(
            f"tritonclient's HTTP client cannot be imported ({error}); install 'longserve[client]'"
        ) from error
    return tritonclient.http


def infer_request(module: Any, call: InferenceCall, timeout: float, server: str) -> HttpRequest:
    """Encode an inference; `module` is `tritonclient.http`."""
    inputs = []
    for name, array in call.inputs.items():
        tensor = module.InferInput(name, list(array.shape), "BYTES" if array.dtype == object else "INT64")
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    body, header_length = module.InferenceServerClient.generate_request_body(
        inputs, request_id=call.request_id, timeout=int(timeout * 1e6), parameters=dict(call.parameters)
    )
    headers = {"Content-Type": "application/octet-stream"}
    if header_length is not None:
        headers[HEADER_LENGTH] = str(header_length)
    path = f"/v2/models/{quote(call.model, safe='')}/infer"
    return HttpRequest(
        method="POST",
        path=path,
        where=call.at(server),
        identity=call.request_id,
        body=body,
        headers=headers,
    )


def read_outputs(
    module: Any, status: int, header_length: str | None, content: bytes, request: HttpRequest
) -> Outputs:
    """Decode the response to an inference.

    Raises:
        InvalidInput, RequestError: the server says so.
        InferenceFailed: the response cannot be read.
    """
    if status != 200:
        raise failure(str(status), _reason(content), request.where)
    try:
        result = module.InferenceServerClient.parse_response_body(
            content, header_length=None if header_length is None else int(header_length)
        )
        response = result.get_response()
        answered = response.get("id", request.identity)
        outputs = {output["name"]: result.as_numpy(output["name"]) for output in response["outputs"]}
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        RecursionError,
        module.InferenceServerException,
    ) as error:
        raise InferenceFailed(
            f"{request.where} returned what cannot be read as a KServe v2 response "
            f"({type(error).__name__}: {error})"
        ) from error
    check_identity(answered, request.identity, request.where)
    return outputs


def inquiry_request(inquiry: Inquiry, server: str) -> HttpRequest:
    """Encode an inquiry."""
    where = inquiry.at(server)
    if inquiry.topic is Topic.INDEX:
        path, headers = "/v2/repository/index", {"Content-Type": "application/json"}
        return HttpRequest(method="POST", path=path, where=where, body=b"{}", headers=headers)
    if inquiry.model is None:
        path = {Topic.READY: "/v2/health/ready", Topic.STATISTICS: "/v2/models/stats"}[inquiry.topic]
    else:
        ends = {
            Topic.READY: "/ready",
            Topic.METADATA: "",
            Topic.CONFIG: "/config",
        }
        path = f"/v2/models/{quote(inquiry.model, safe='')}{ends[inquiry.topic]}"
    return HttpRequest(method="GET", path=path, where=where)


def read_inquiry(inquiry: Inquiry, status: int, content: bytes, where: str) -> Any:
    """Decode the response to an inquiry; a readiness that is refused is False.

    Raises:
        RequestError: the server says so, or the response is not JSON.
    """
    if inquiry.topic is Topic.READY:
        return status == 200
    if status != 200:
        raise failure(str(status), _reason(content), where)
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InferenceFailed(f"{where} answered what is not JSON: {error}") from error
    if inquiry.topic is Topic.STATISTICS:
        return answer.get("model_stats", []) if isinstance(answer, dict) else answer
    return answer


def cut_off(cause: str, where: str) -> ServingError:
    """The error for a connection that was not made or broke."""
    return failure("503", cause, where)


def not_http(error: Exception, where: str) -> ServingError:
    """The error for a port that answers in another protocol."""
    cause = f"the answer is not HTTP ({type(error).__name__}: {error}); is it the gRPC port?"
    return failure("503", cause, where)


def _reason(content: bytes) -> str:
    """The server's reason in an error response; any other text, cut short, where it is not Triton's JSON."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict) and isinstance(parsed.get("error"), str):
        return str(parsed["error"])
    text = content.decode("utf-8", errors="replace").strip()
    return text if len(text) <= 200 else text[:199] + "…"
