from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from draining import drain
from waiting import until

from longserve.serving import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    RetryPolicy,
    ServerUnavailable,
    ServingError,
)
from longserve.serving.client.calls import Outputs
from longserve.serving.client.failures import STATUS_ERRORS

OpenClient = Callable[..., Any]
ServeGrpc = Callable[..., str]


def test_a_request_and_its_answer(
    open_client: OpenClient,
    serve_grpc: ServeGrpc,
    grpc_answer: Callable[[Outputs], Any],
    answer_outputs: Outputs,
) -> None:
    requests: list[Any] = []

    def infer(request: Any, context: Any) -> Any:
        requests.append(request)
        return grpc_answer(answer_outputs)

    with open_client(serve_grpc(infer), timeout=9) as client:
        assert client.server_ready()
        answers = client.answer("où?", "in the box", model="m", top_k=3, handle_impossible_answer=True)
    assert [answer.answer for answer in answers] == ["the box", ""]
    (request,) = requests
    assert request.model_name == "m"
    assert [(i.name, i.datatype, list(i.shape)) for i in request.inputs] == [
        ("QUESTION", "BYTES", [1, 1]),
        ("CONTEXT", "BYTES", [1, 1]),
    ]
    assert request.raw_input_contents[0][4:] == "où?".encode()
    assert request.parameters["top_k"].int64_param == 3
    assert request.parameters["handle_impossible_answer"].bool_param is True
    assert request.parameters["timeout"].int64_param == 9_000_000


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_arrives_as_its_error(
    open_client: OpenClient, serve_grpc: ServeGrpc, code: grpc.StatusCode
) -> None:
    def infer(request: Any, context: Any) -> Any:
        context.abort(code, "the cause")

    with open_client(serve_grpc(infer)) as client, pytest.raises(ServingError, match="the cause") as caught:
        client.classify("a")
    assert type(caught.value) is STATUS_ERRORS[f"StatusCode.{code.name}"]
    assert caught.value.__cause__ is not None


def test_the_deadline_is_kept(open_client: OpenClient, serve_grpc: ServeGrpc) -> None:
    release = threading.Event()

    def infer(request: Any, context: Any) -> Any:
        release.wait(10)

    with open_client(serve_grpc(infer)) as client:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="model 'longformer_classification' at grpc://"):
            client.classify("a", timeout=0.3)
        assert time.monotonic() - began < 3
    release.set()


def test_no_server_and_one_that_comes_later(
    open_client: OpenClient,
    serve_grpc: ServeGrpc,
    grpc_answer: Callable[[Outputs], Any],
    classification_outputs: Outputs,
    free_port: int,
) -> None:
    with open_client(f"grpc://127.0.0.1:{free_port}") as client:
        assert not client.server_ready()
        with pytest.raises(ServerUnavailable, match="is not available"):
            client.classify("a")
        serve_grpc(lambda request, context: grpc_answer(classification_outputs), port=free_port)
        began = time.monotonic()
        while not client.server_ready() and time.monotonic() - began < 20:
            time.sleep(0.1)
        assert time.monotonic() - began < 10, "the channel waited too long before it connected again"
        assert client.classify("a").label == "weather"


def test_a_server_that_is_not_ready(open_client: OpenClient, serve_grpc: ServeGrpc) -> None:
    with open_client(serve_grpc(lambda request, context: None, ready=False)) as client:
        assert not client.server_ready()


def test_tensors_that_cannot_be_read(
    open_client: OpenClient,
    serve_grpc: ServeGrpc,
    grpc_answer: Callable[[Outputs], Any],
    classification_outputs: Outputs,
) -> None:
    def infer(request: Any, context: Any) -> Any:
        answer = grpc_answer(classification_outputs)
        answer.raw_output_contents[1] = b"\0"
        return answer

    with open_client(serve_grpc(infer)) as client, pytest.raises(InferenceFailed, match="cannot be read"):
        client.classify("a")


def test_the_answer_to_another_request_is_none(
    open_client: OpenClient,
    serve_grpc: ServeGrpc,
    grpc_answer: Callable[[Outputs], Any],
    classification_outputs: Outputs,
) -> None:
    def infer(request: Any, context: Any) -> Any:
        answer = grpc_answer(classification_outputs)
        answer.id = "mine" if request.id == "mine" else "other"
        return answer

    with open_client(serve_grpc(infer)) as client:
        assert client.classify("a", request_id="mine").label == "weather"
        with pytest.raises(InferenceFailed, match="the answer to another request, 'other'"):
            client.classify("a")


def test_an_http_port(open_client: OpenClient, serve_connections: Callable[..., str]) -> None:
    url = serve_connections(lambda connection, index: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    with open_client(url.replace("http", "grpc")) as client, pytest.raises(ServerUnavailable):
        client.classify("a", timeout=5)


def test_a_server_that_goes_away_while_a_client_connects_and_another(
    open_client: OpenClient,
    serve_grpc: ServeGrpc,
    grpc_answer: Callable[[Outputs], Any],
    classification_outputs: Outputs,
) -> None:
    """With gRPC's own retries (gRPC 1.83 to 1.85) the first call costs 0.5 GB a second until its deadline."""
    connections: list[socket.socket] = []

    def go_away() -> None:
        connections.append(listener.accept()[0])
        drain(connections[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        leaving = threading.Thread(target=go_away, daemon=True)
        leaving.start()
        client = open_client(f"grpc://127.0.0.1:{port}", retry=RetryPolicy(attempts=2))
        began = time.monotonic()
        with pytest.raises(ServerUnavailable):
            client.classify("a", timeout=3)
        assert time.monotonic() - began < 2
        connections[0].shutdown(socket.SHUT_RDWR)
        leaving.join(10)
        connections[0].close()
    serve_grpc(lambda request, context: grpc_answer(classification_outputs), port=port)
    with client:
        until(client.server_ready)
        assert client.classify("a").label == "weather"


def test_the_servers_words_are_passed_on_for_the_callers_mistakes(
    open_client: OpenClient, serve_grpc: ServeGrpc
) -> None:
    def infer(request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the text is empty; give at least one character")

    with (
        open_client(serve_grpc(infer)) as client,
        pytest.raises(InvalidInput, match=r"refused the input: the text is empty; give"),
    ):
        client.classify("a")
