from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import serialize_byte_tensor

from longserve.serving import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    RequestError,
    RetryPolicy,
    ServerUnavailable,
    ServingError,
)
from longserve.serving.client.calls import Outputs

OpenClient = Callable[..., Any]
Handler = Callable[[socket.socket, int], None]
Serve = Callable[[Handler], str]
ReadRequest = Callable[[socket.socket], tuple[str, bytes] | None]
Message = Callable[..., bytes]


@pytest.fixture
def serve_answer(serve_connections: Serve, read_request: ReadRequest) -> Callable[..., str]:
    """Serve one fixed answer to every request, on kept connections."""

    def start(answer: bytes, requests: list[Any] | None = None) -> str:
        def handler(connection: socket.socket, index: int) -> None:
            while (request := read_request(connection)) is not None:
                if requests is not None:
                    requests.append((index, request))
                connection.sendall(answer)

        return serve_connections(handler)

    return start


def test_a_request_and_its_answer(
    open_client: OpenClient,
    serve_answer: Callable[..., str],
    http_answer: Callable[[Outputs], bytes],
    classification_outputs: Outputs,
) -> None:
    requests: list[Any] = []
    url = serve_answer(http_answer(classification_outputs), requests)
    with open_client(url + "/base", timeout=9) as client:
        assert client.classify("clé", model="a b/c", top_k=2).label == "weather"
        assert client.classify("two").tokens == 5000
    (first, (line, body)), (second, _) = requests
    assert line == "POST /base/v2/models/a%20b%2Fc/infer HTTP/1.1"
    header, end = json.JSONDecoder().raw_decode(body.decode("utf-8", errors="surrogateescape"))
    assert header["parameters"]["top_k"] == 2
    assert header["parameters"]["timeout"] == 9_000_000
    assert header["inputs"][0]["shape"] == [1, 1]
    text = np.array([["clé".encode()]], dtype=np.object_)
    assert body[end:] == serialize_byte_tensor(text).item()
    assert first == second, "the connection was not kept"


def test_binary_tensors_are_read(
    open_client: OpenClient, serve_answer: Callable[..., str], make_http_message: Message
) -> None:
    arrays = {
        "LABEL": ("BYTES", [1, 1], serialize_byte_tensor(np.array([["été".encode()]], dtype=object)).item()),
        "SCORE": ("FP32", [1, 1], np.float32(0.5).tobytes()),
        "TOKENS": ("INT32", [1, 1], np.int32(7).tobytes()),
        "WINDOWS": ("INT32", [1, 1], np.int32(1).tobytes()),
    }
    header = json.dumps(
        {
            "outputs": [
                {"name": n, "datatype": t, "shape": s, "parameters": {"binary_data_size": len(data)}}
                for n, (t, s, data) in arrays.items()
            ]
        }
    ).encode()
    body = header + b"".join(data for _, _, data in arrays.values())
    answer = make_http_message("200 OK", body, f"Inference-Header-Content-Length: {len(header)}")
    with open_client(serve_answer(answer)) as client:
        result = client.classify("a")
    assert (result.label, result.score, result.tokens) == ("été", 0.5, 7)


@pytest.mark.parametrize(
    ("status", "body", "kind", "cause"),
    [
        (
            "400 Bad Request",
            b'{"error":"the text is empty"}',
            InvalidInput,
            "refused the input: the text is empty$",
        ),
        ("404 Not Found", b'{"error":"Request for unknown model: \'x\' is not found"}', ModelNotFound, "'x'"),
        ("503 Busy", b'{"error":"Exceeds maximum queue size"}', Overloaded, "maximum queue size"),
        ("500 Oops", b"<html>proxy</html>", InferenceFailed, "<html>proxy</html>"),
        ("502 Bad Gateway", b"", ServerUnavailable, "no reason given"),
        ("418 Teapot", b'["short"]', RequestError, "status 418"),
        ("200 OK", b"not json", InferenceFailed, "cannot be read as a KServe v2 response"),
        ("200 OK", b"", InferenceFailed, "cannot be read"),
        ("200 OK", b"[" * 200_000, InferenceFailed, "cannot be read.*RecursionError"),
        ("500 Oops", b"[" * 200_000, InferenceFailed, r"\[\[…"),
        ("200 OK", b"[]", InferenceFailed, "cannot be read"),
        ("200 OK", b'{"outputs":[{"name":"LABEL"}]}', InferenceFailed, "cannot be read"),
        ("200 OK", b'{"outputs":[]}', InferenceFailed, "returned nothing but not LABEL"),
        (
            "200 OK",
            b'{"outputs":[{"name":"A","datatype":"FP32","shape":[2],"data":[1]}]}',
            InferenceFailed,
            "read",
        ),
    ],
)
def test_failures_in_answers(
    open_client: OpenClient,
    serve_answer: Callable[..., str],
    make_http_message: Message,
    status: str,
    body: bytes,
    kind: type[ServingError],
    cause: str,
) -> None:
    with open_client(serve_answer(make_http_message(status, body))) as client:
        with pytest.raises(kind, match=cause) as caught:
            client.classify("a")
        assert type(caught.value) is kind


def test_an_inquirys_answer_that_cannot_be_read(
    open_client: OpenClient, serve_answer: Callable[..., str], make_http_message: Message
) -> None:
    url = serve_answer(make_http_message("200 OK", b"[" * 200_000))
    with open_client(url) as client, pytest.raises(InferenceFailed, match="not JSON"):
        client.models()


def test_no_server(open_client: OpenClient, free_port: int) -> None:
    with open_client(f"http://127.0.0.1:{free_port}") as client:
        assert not client.server_ready()
        with pytest.raises(ServerUnavailable, match=r"refused|Connect call failed"):
            client.classify("a")


def test_an_unknown_host(
    open_client: OpenClient,
) -> None:
    with (
        open_client("http://host.invalid:8000") as client,
        pytest.raises(ServerUnavailable, match=r"host\.invalid"),
    ):
        client.classify("a")


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", b"HTTP/1.1 200 OK\r\nConte"]
)
def test_a_server_that_hangs_up(
    open_client: OpenClient, serve_connections: Serve, read_request: ReadRequest, answer: bytes
) -> None:
    def handler(connection: socket.socket, index: int) -> None:
        read_request(connection)
        connection.sendall(answer)

    with open_client(serve_connections(handler)) as client, pytest.raises(ServingError) as caught:
        client.classify("a")
    assert type(caught.value) in (ServerUnavailable, InferenceFailed)


def test_a_server_that_does_not_speak_http(
    open_client: OpenClient, serve_connections: Serve, read_request: ReadRequest
) -> None:
    def handler(connection: socket.socket, index: int) -> None:
        read_request(connection)
        connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00 gRPC settings\r\n\r\n")

    with (
        open_client(serve_connections(handler)) as client,
        pytest.raises(ServerUnavailable, match="not HTTP"),
    ):
        client.classify("a")


def send_nothing(connection: socket.socket) -> None:
    connection.recv(1)  # until the client hangs up


def send_a_trickle_of_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
    for _ in range(500):
        connection.sendall(b" ")
        time.sleep(0.05)


def send_a_trickle_of_header(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(60):
        connection.sendall(b"X-%d: a\r\n" % number)
        time.sleep(0.05)


def send_continue_again_and_again(connection: socket.socket) -> None:
    for _ in range(60):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.05)


@pytest.mark.parametrize(
    "send",
    [send_nothing, send_a_trickle_of_body, send_a_trickle_of_header, send_continue_again_and_again],
)
def test_the_deadline_holds_for_the_whole_call(
    open_client: OpenClient,
    serve_connections: Serve,
    read_request: ReadRequest,
    send: Callable[[socket.socket], None],
) -> None:
    def handler(connection: socket.socket, index: int) -> None:
        read_request(connection)
        send(connection)

    with open_client(serve_connections(handler)) as client:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"no answer after 0\.4 s"):
            client.classify("a", timeout=0.4)
        assert time.monotonic() - began < 2


def test_a_connection_that_the_server_closed_meanwhile_is_replaced(
    open_client: OpenClient,
    serve_connections: Serve,
    read_request: ReadRequest,
    http_answer: Callable[[Outputs], bytes],
    classification_outputs: Outputs,
) -> None:
    answered: list[int] = []
    closed = threading.Event()

    def handler(connection: socket.socket, index: int) -> None:
        if read_request(connection) is not None:
            answered.append(index)
            connection.sendall(http_answer(classification_outputs))
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    with open_client(serve_connections(handler)) as client:
        for _ in range(3):
            closed.clear()
            assert client.classify("a").label == "weather"
            assert closed.wait(5)
    assert answered == [0, 1, 2]


@pytest.fixture
def breaking(
    serve_connections: Serve,
    read_request: ReadRequest,
    http_answer: Callable[[Outputs], bytes],
    classification_outputs: Outputs,
) -> tuple[str, list[int]]:
    """A server that hangs up on the second request of its first connection; and the connections of all
    requests that it got."""
    seen: list[int] = []

    def handler(connection: socket.socket, index: int) -> None:
        while read_request(connection) is not None:
            seen.append(index)
            if seen == [0, 0]:
                return  # hangs up on the second request of the first connection
            connection.sendall(http_answer(classification_outputs))

    return serve_connections(handler), seen


def test_a_request_whose_kept_connection_breaks_is_sent_as_often_as_the_policy_says(
    open_client: OpenClient, breaking: tuple[str, list[int]]
) -> None:
    url, seen = breaking
    with open_client(url, retry=RetryPolicy(attempts=1)) as client:
        assert client.classify("a").label == "weather"
        with pytest.raises(ServerUnavailable, match="the server closed the connection"):
            client.classify("b")
    assert seen == [0, 0]


def test_a_request_whose_kept_connection_breaks_is_sent_again_on_a_new_one(
    open_client: OpenClient, breaking: tuple[str, list[int]]
) -> None:
    url, seen = breaking
    with open_client(url, retry=RetryPolicy(attempts=2)) as client:
        assert client.classify("a").label == client.classify("b").label == "weather"
    assert seen == [0, 0, 1]


def test_a_server_is_ready_although_a_kept_connection_breaks(
    open_client: OpenClient, breaking: tuple[str, list[int]]
) -> None:
    url, seen = breaking
    with open_client(url) as client:
        assert client.server_ready()
        assert client.server_ready()
    assert seen == [0, 0, 1]


def test_the_answer_to_another_request_is_none(
    open_client: OpenClient, serve_answer: Callable[..., str], make_http_message: Message
) -> None:
    body = b'{"id":"other","outputs":[{"name":"LABEL","datatype":"BYTES","shape":[1,1],"data":["a"]}]}'
    with (
        open_client(serve_answer(make_http_message("200 OK", body))) as client,
        pytest.raises(InferenceFailed, match="the answer to another request, 'other'"),
    ):
        client.classify("a")


def test_readiness_is_the_servers_word(
    open_client: OpenClient, serve_answer: Callable[..., str], make_http_message: Message
) -> None:
    requests: list[Any] = []
    with open_client(serve_answer(make_http_message("200 OK", b""), requests)) as client:
        assert client.server_ready()
    assert requests[0][1][0] == "GET /v2/health/ready HTTP/1.1"
    with open_client(serve_answer(make_http_message("400 Bad Request", b""))) as client:
        assert not client.server_ready()
