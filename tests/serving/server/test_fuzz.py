"""Thousands of inputs on every surface: no crash, no hang, no 5xx for a caller's mistake, ready afterwards.

The suite tries a few of each; `pytest --fuzz-examples 5000` on this file thousands.
"""

from __future__ import annotations

import errno
import json
import math
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kserve import GrpcCaller, HttpCaller, Refused, bytes_tensor
from triton_fixture import CLASSIFIER, QA, RunningServer

from .fuzzing import Frame, Message, TextCall, frames, grpc_messages, text_calls, v2_frames

pytestmark = pytest.mark.timeout(3000)
_SECONDS = 20.0
_PATIENCE = 0.1
_STATUS = re.compile(rb"HTTP/1\.[01] (\d\d\d)")
_EXPIRED = "Request timeout expired"


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[str, Counter[str]]]:
    """How often each surface answered how; written to `--fuzz-report`."""
    counted: dict[str, Counter[str]] = {}
    yield counted
    report = request.config.getoption("--fuzz-report")
    if report:
        shown = {name: dict(sorted(counter.items())) for name, counter in counted.items()}
        Path(report).write_text(json.dumps(shown, indent=2) + "\n", encoding="utf-8")


@pytest.fixture
def fuzz(
    request: pytest.FixtureRequest,
    outcomes: dict[str, Counter[str]],
    triton_server: RunningServer,
    http: HttpCaller,
) -> Callable[..., None]:
    """Run a check on many inputs, then see that the server is as it was.

    Some inputs must have ended as good ones do: a server that refuses everything would prove nothing.
    """
    examples = request.config.getoption("--fuzz-examples")

    def run(surface: str, inputs: st.SearchStrategy[Any], check: Callable[[Any], str], good_end: str) -> None:
        counter = outcomes.setdefault(surface, Counter())
        good = {"TEXT": bytes_tensor("the miller of the valley")}
        before = http.infer(CLASSIFIER, good)

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=examples < 1000,
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs)
        def each(item: Any) -> None:
            counter[check(item)] += 1

        each()
        assert triton_server.server.ailment() is None
        assert http.ready()
        after = http.infer(CLASSIFIER, good)
        assert before["LABEL"].tolist() == after["LABEL"].tolist()
        assert counter.total() >= examples // 2, "hypothesis tries few inputs where there are few"
        assert counter[good_end] >= counter.total() // 50, counter

    return run


def exchange(port: int, frame: Frame) -> bytes:
    """Send bytes and return what comes back until the server closes.

    Unless an answer is due, the client ends its side when none has come for a while. (At once would be too
    early: the gateway drops a request whose client has gone.)
    """
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as connection:
        try:
            connection.sendall(frame.content)
            if not frame.whole:
                received += _soon(connection)
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                received += piece
        except OSError as error:
            # the server may close before it has read everything
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                raise
    return received


def _soon(connection: socket.socket) -> bytes:
    """What comes back within `_PATIENCE`."""
    connection.settimeout(_PATIENCE)
    try:
        return connection.recv(65536)
    except TimeoutError:
        return b""
    finally:
        connection.settimeout(_SECONDS)


def check_frame(port: int, frame: Frame) -> str:
    """Return the statuses that came back; none may be a server's error."""
    received = exchange(port, frame)
    statuses = [int(status) for status in _STATUS.findall(received)]
    assert not [status for status in statuses if status >= 500], received[:300]
    assert statuses or not frame.whole, frame
    if frame.whole and statuses[0] != 200:
        assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]
    return str(statuses[0]) if statuses else "closed"


def test_http_frames(fuzz: Callable[..., None], triton_server: RunningServer) -> None:
    port = int(triton_server.urls.http.rsplit(":", 1)[1])
    fuzz("http frames", frames(), lambda frame: check_frame(port, frame), "200")


def test_v2_requests(fuzz: Callable[..., None], triton_server: RunningServer) -> None:
    port = int(triton_server.urls.http.rsplit(":", 1)[1])
    fuzz("v2 requests", v2_frames(), lambda frame: check_frame(port, frame), "200")


def check_answer(call: TextCall, answer: dict[str, Any]) -> None:
    """What an answer must be, whatever the texts."""
    assert (answer["TOKENS"] >= 1).all() and (answer["WINDOWS"] >= 1).all()
    assert all(math.isfinite(score) for score in answer["SCORE"].reshape(-1))
    if call.model == CLASSIFIER:
        assert set(answer["LABEL"].reshape(-1)) <= {b"alpha", b"beta", b"gamma", b"delta", b"epsilon"}
        return
    for row, context in enumerate(call.texts["CONTEXT"]):
        text = context.decode("utf-8")
        for found, start, end in zip(
            answer["ANSWER"][row], answer["START"][row], answer["END"][row], strict=True
        ):
            assert found.decode("utf-8") == (text[start:end] if start >= 0 else "")


def test_texts(fuzz: Callable[..., None], http: HttpCaller, grpc: GrpcCaller) -> None:
    callers = {"http": http, "grpc": grpc}

    def check(call: TextCall) -> str:
        caller = callers[call.protocol]
        tensors = {name: bytes_tensor(*texts) for name, texts in call.texts.items()}
        try:
            answer = caller.infer(call.model, tensors, call.parameters)
        except Refused as refused:
            if refused.status == "None":
                return "refused by tritonclient"
            expired = _EXPIRED in refused.message
            assert expired or refused.status == caller.invalid, refused
            return "expired" if expired else "refused"
        check_answer(call, answer)
        return "answered"

    fuzz("texts", text_calls(), check, "answered")


def test_grpc_messages(fuzz: Callable[..., None], triton_server: RunningServer) -> None:
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    channel = grpc.insecure_channel(triton_server.urls.grpc.removeprefix("grpc://"))
    infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
    callers_mistakes = {"INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}

    def check(message: Message) -> str:
        try:
            infer(_built(service_pb2, message), timeout=_SECONDS)
        except grpc.RpcError as error:
            name = error.code().name
            assert name in callers_mistakes or _EXPIRED in error.details(), (name, error.details(), message)
            return str(name)
        return "OK"

    with channel:
        fuzz("grpc messages", grpc_messages(), check, "OK")


def _built(service_pb2: Any, message: Message) -> Any:
    fields = message.fields
    request = service_pb2.ModelInferRequest(
        model_name=fields["model_name"], model_version=fields["model_version"], id=fields["id"]
    )
    for given_input in fields["inputs"]:
        tensor = request.inputs.add(
            name=given_input["name"], datatype=given_input["datatype"], shape=given_input["shape"]
        )
        if given_input["contents"] is not None:
            field, values = given_input["contents"]
            getattr(tensor.contents, field).extend(values)
    for raw in fields["raw"] or ():
        request.raw_input_contents.append(raw)
    for name in fields["outputs"]:
        request.outputs.add(name=name)
    for name, value in fields["parameters"].items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def test_the_models_are_both_there(http: HttpCaller) -> None:
    """A guard: fuzzing a server without these models would prove nothing."""
    pair = {"QUESTION": bytes_tensor("who"), "CONTEXT": bytes_tensor("the miller")}
    assert http.infer(QA, pair)["WINDOWS"].tolist() == [[1]]
