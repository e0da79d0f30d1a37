"""The gateway on its own: what it lets through, what it caps, how it stops; Triton is a small server here."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from waiting import until

from longserve.serving import PortInUse, UnfitEnvironment
from longserve.serving.server import Ports
from longserve.serving.server.access import AccessPolicy
from longserve.serving.server.gateway import Gateway, GatewayLimits
from longserve.serving.server.infer_request import InferBody, check_infer
from longserve.serving.server.journal import Journal
from longserve.serving.server.turnstile import Holding, Turnstile
from longserve.serving.server.upstream import Upstream

KEY = "0123456789abcdef"
INFER = "/v2/models/m/infer"
REQUEST = json.dumps(
    {"inputs": [{"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": ["quartz"]}]}
).encode()


class FakeTriton(ThreadingHTTPServer):
    """Records what reaches it and answers what the test sets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[str, str, dict[str, str], bytes]] = []
        self.status = 200
        self.answer = b'{"outputs": []}'
        self.headers: dict[str, str] = {"Content-Type": "application/json"}
        self.wait = threading.Event()
        self.wait.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeTriton

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append((self.command, self.path, headers, content))
        self.server.wait.wait(30)
        self.send_response(self.server.status)
        for name, value in {**self.server.headers, "Content-Length": len(self.server.answer)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(self.server.answer)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    with FakeTriton() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.wait.set()
        server.shutdown()


def started(upstream: int, **options: Any) -> Gateway:
    """A gateway before the Triton on this port."""
    defaults = {"access": AccessPolicy(key=KEY), "limits": GatewayLimits(), "grace": 5.0}
    gateway = Gateway(
        host="127.0.0.1",
        port=Ports(http=0, grpc=0, metrics=0).resolve("127.0.0.1").http,
        upstream=Upstream(upstream, {"inner": "secret"}),
        **{**defaults, **options},
    )
    gateway.start()
    return gateway


@pytest.fixture
def open_gateway(triton: FakeTriton) -> Iterator[Callable[..., int]]:
    """Start a gateway in front of `triton`, with these limits; return its port."""
    opened: list[Gateway] = []

    def start(
        upstream: int | None = None,
        log: io.StringIO | None = None,
        turnstile: Turnstile | None = None,
        **limits: Any,
    ) -> int:
        gateway = started(
            upstream or triton.server_address[1],
            limits=GatewayLimits(**limits),
            report=None if log is None else Journal(log).report_defect,
            turnstile=turnstile,
        )
        opened.append(gateway)
        return gateway._port

    yield start
    triton.wait.set()
    for gateway in opened:
        gateway.begin_stop()
        gateway.join()


def ask(
    port: int, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of an answer. A body that is an iterator is sent in chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body=body, headers=named, encode_chunked=hasattr(body, "__next__"))
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, dict(response.headers), json.loads(content)


def test_an_inference_goes_through_with_the_inner_key(triton: FakeTriton, open_gateway: Any) -> None:
    triton.headers["Inference-Header-Content-Length"] = "15"
    status, headers, answer = ask(open_gateway(), "POST", INFER, REQUEST, cookie="a", accept_encoding="gzip")
    assert (status, answer) == (200, {"outputs": []})
    assert headers["Inference-Header-Content-Length"] == "15"
    assert headers["Content-Type"] == "application/json" and headers["Server"] == "longserve"
    ((method, path, received, content),) = triton.received
    assert (method, path) == ("POST", INFER)
    assert json.loads(content) == json.loads(REQUEST)
    assert received["inner"] == "secret" and not {"cookie", "accept-encoding"} & set(received)


def test_binary_tensors_go_through(triton: FakeTriton, open_gateway: Any) -> None:
    tensor = {"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}}
    header = json.dumps({"inputs": [tensor]}).encode()
    length = str(len(header))
    port = open_gateway()
    body = header + b"\1\0\0\0x"
    assert ask(port, "POST", INFER, body, Inference_Header_Content_Length=length)[0] == 200
    received, content = triton.received[0][2:]
    inner = int(received["inference-header-content-length"])
    assert content[inner:] == b"\1\0\0\0x" and json.loads(content[:inner])["inputs"] == [tensor]
    for bad in ("-1", "1e3", "", "99999999999999999999", "x"):
        status, _, answer = ask(port, "POST", INFER, body, Inference_Header_Content_Length=bad)
        assert status == 400 and "Inference-Header-Content-Length" in answer["error"]
    assert len(triton.received) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 405),
        ("DELETE", "/v2", 405),
        ("GET", "/", 404),
        ("GET", "/metrics", 404),
        ("POST", "/v2/models/m/generate", 404),
        ("POST", "/v2/models/m%00x/infer", 404),
        ("POST", "/v2/repository/index", 403),
        ("POST", "/v2/repository/models/m/load", 403),
        ("GET", "/v2/logging", 403),
        ("POST", "/v2/systemsharedmemory/region/x/register", 403),
        ("POST", INFER, 400),
    ],
)
def test_what_is_refused_never_reaches_triton(
    triton: FakeTriton, open_gateway: Any, method: str, path: str, status: int
) -> None:
    found, _, answer = ask(open_gateway(), method, path, b"{}" if method == "POST" else None)
    assert found == status and answer["error"]
    assert triton.received == []


def test_the_key_opens_administration(triton: FakeTriton, open_gateway: Any) -> None:
    port = open_gateway()
    assert ask(port, "POST", "/v2/repository/index", b"{}", admin_key=KEY)[0] == 200
    assert ask(port, "GET", "/v2/logging?x=1", admin_key=KEY)[0] == 200
    assert [(method, path) for method, path, _, _ in triton.received] == [
        ("POST", "/v2/repository/index"),
        ("GET", "/v2/logging"),
    ]
    assert all("admin-key" not in headers for _, _, headers, _ in triton.received)


def test_a_body_that_is_too_large_is_refused_however_it_is_sent(
    triton: FakeTriton, open_gateway: Any
) -> None:
    port = open_gateway(max_request_bytes=1000)
    for body in (b"x" * 1001, iter([b"x" * 600] * 2), iter([b"x"] * 1001)):
        status, _, answer = ask(port, "POST", INFER, body)
        assert status == 413 and "1000 bytes" in answer["error"]
    assert ask(port, "POST", INFER, iter([REQUEST[:9], REQUEST[9:]]))[0] == 200
    assert len(triton.received) == 1


def test_a_compressed_body_is_refused(triton: FakeTriton, open_gateway: Any) -> None:
    assert ask(open_gateway(), "POST", INFER, b"\x1f\x8b", content_encoding="gzip")[0] == 415
    assert triton.received == []


def test_more_than_there_is_room_for_is_refused_at_once_and_later_taken(
    triton: FakeTriton, open_gateway: Any
) -> None:
    port = open_gateway(max_request_bytes=len(REQUEST))
    triton.wait.clear()
    with ThreadPoolExecutor(17) as pool:
        waiting = [pool.submit(ask, port, "POST", INFER, REQUEST) for _ in range(16)]
        until(lambda: len(triton.received) == 16)
        status, _, answer = ask(port, "POST", INFER, REQUEST)
        assert status == 503 and "overloaded" in answer["error"]
        triton.wait.set()
        assert [each.result()[0] for each in waiting] == [200] * 16
    assert ask(port, "POST", INFER, REQUEST)[0] == 200


def test_what_a_model_has_no_room_for_does_not_reach_triton(triton: FakeTriton, open_gateway: Any) -> None:
    port = open_gateway(turnstile=Turnstile({"m": Holding(2, "1")}))
    triton.wait.clear()
    with ThreadPoolExecutor(3) as pool:
        held = [pool.submit(ask, port, "POST", INFER, REQUEST) for _ in range(2)]
        until(lambda: len(triton.received) == 2)
        for path in (INFER, "/v2/models/m/versions/1/infer", "/v2/models/%6D/infer"):
            status, headers, answer = ask(port, "POST", path, REQUEST)
            assert (status, answer) == (503, {"error": "Exceeds maximum queue size"})
            assert headers["Server"] == "longserve"
        assert ask(port, "POST", INFER, b"{}")[0] == 400, "a mistake is told, full or not"
        other = pool.submit(ask, port, "POST", "/v2/models/other/infer", REQUEST)
        until(lambda: len(triton.received) == 3)
        triton.wait.set()
        assert [each.result()[0] for each in (*held, other)] == [200] * 3
    triton.status = 500  # also one that fails makes room
    assert [ask(port, "POST", INFER, REQUEST)[0] for _ in range(4)] == [500] * 4
    assert len(triton.received) == 7


def test_a_body_that_does_not_come_is_given_up_and_holds_nobody_up(
    triton: FakeTriton, open_gateway: Any
) -> None:
    port = open_gateway(body_timeout=0.5)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
        slow.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nab".encode())
        assert ask(port, "POST", INFER, REQUEST)[0] == 200
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
    assert len(triton.received) == 1


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked_or_refused(
    triton: FakeTriton, open_gateway: Any
) -> None:
    port = open_gateway(max_request_bytes=1000)

    def told(expected: str, length: int) -> tuple[bytes, socket.socket]:
        connection = socket.create_connection(("127.0.0.1", port), timeout=20)
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nExpect: {expected}\r\n\r\n"
        connection.sendall(head.encode())
        return connection.recv(4096), connection

    for expected in ("100-continue", "100-Continue"):
        said, connection = told(expected, len(REQUEST))
        with connection:
            assert said == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(REQUEST)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    for expected, length, status in (("100-continue", 1001, b"413"), ("cake", len(REQUEST), b"417")):
        said, connection = told(expected, length)
        with connection:
            assert said.startswith(b"HTTP/1.1 " + status) and b"Connection: close" in said
    assert len(triton.received) == 2


def test_a_large_request_holds_nobody_up_while_it_is_checked(
    triton: FakeTriton, open_gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Semaphore(0), threading.Event()

    def check(body: InferBody) -> InferBody:
        if len(body.content) > 1000:
            entered.release()
            assert go_on.wait(20)
        return check_infer(body)

    monkeypatch.setattr("longserve.serving.server.gateway.check_infer", check)
    port = open_gateway()
    large = REQUEST.replace(b"quartz", b"quartz " * 20_000)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, port, "POST", INFER, large) for _ in range(2)]
        assert entered.acquire(timeout=20)
        assert ask(port, "POST", INFER, REQUEST)[0] == ask(port, "GET", "/v2")[0] == 200
        assert not entered.acquire(timeout=0.3), "they are checked one at a time"
        go_on.set()
        assert [each.result()[0] for each in asked] == [200, 200]


def test_a_connection_without_a_request_is_closed(open_gateway: Any) -> None:
    port = open_gateway(idle_timeout=0.3)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as idle:
        assert idle.recv(1) == b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as idle:
        idle.sendall(b"GET /v2 HT")
        assert idle.recv(1) == b""


def refused_for_connections(answer: tuple[int, dict[str, str], Any]) -> bool:
    status, _, body = answer
    return status == 503 and "too many connections" in body["error"]


def test_more_connections_than_may_be_are_closed_with_the_reason(
    open_gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longserve.serving.server.http_port.connections_allowed", lambda: 20)
    log = io.StringIO()
    port = open_gateway(log=log)
    with contextlib.ExitStack() as opened:
        for _ in range(2):  # also when it is full for a second time
            idle = [opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(25)]
            until(lambda: refused_for_connections(ask(port, "GET", "/v2")))
            for connection in idle:
                connection.close()
            until(lambda: ask(port, "GET", "/v2")[0] == 200)
    assert (
        log.getvalue() == "20 connections are open (http), as many as may be; further ones are closed\n" * 2
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"\0\xff\xfe\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v2 HTTP/9.9\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nquartz\r\n",
        b"GET /v2 HTTP/1.1\r\nquartz\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nX: " + b"q" * 20_000 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_malformed_frames_are_refused_and_logged_nowhere(
    triton: FakeTriton,
    open_gateway: Any,
    raw: bytes,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = io.StringIO()
    port = open_gateway(log=log)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(raw)
        head, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == b"400" and b"\r\nServer: longserve\r\n" in head
    assert json.loads(body)["error"].startswith("this is no HTTP/1.1 request: ")
    assert ask(port, "GET", "/v2")[0] == 200
    assert [path for _, path, _, _ in triton.received] == ["/v2"]
    assert log.getvalue() == "" and caplog.text == "" and capfd.readouterr() == ("", "")


def test_a_defect_is_answered_and_logged_without_its_message(
    open_gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(body: Any) -> None:
        raise ValueError("terces"[::-1])

    monkeypatch.setattr("longserve.serving.server.gateway.check_infer", check)
    log = io.StringIO()
    status, headers, answer = ask(open_gateway(log=log), "POST", INFER, REQUEST)
    assert (status, headers["Server"]) == (500, "longserve") and "a defect of its own" in answer["error"]
    assert "gateway: unexpected ValueError" in log.getvalue()
    assert "secret" not in log.getvalue() + answer["error"]


def test_a_triton_that_does_not_answer_is_unavailable(open_gateway: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        gone = free.getsockname()[1]
    status, _, answer = ask(open_gateway(upstream=gone), "POST", INFER, REQUEST)
    assert status == 503 and "Triton does not answer" in answer["error"]


def test_a_dead_model_is_unavailable_and_another_failure_is_not(
    triton: FakeTriton, open_gateway: Any
) -> None:
    port = open_gateway()
    triton.status = 500
    for said in (b"Stub process 'm_0_0' is not healthy.", b"Failed to obtain the health mutex."):
        triton.answer = b'{"error": "%s"}' % said
        assert ask(port, "POST", INFER, REQUEST)[0] == 503
    triton.answer = b'{"error": "division by zero"}'
    assert ask(port, "POST", INFER, REQUEST)[0] == 500


def test_a_stop_lets_what_is_under_way_end(triton: FakeTriton) -> None:
    gateway = started(triton.server_address[1], grace=10.0)
    triton.wait.clear()
    with ThreadPoolExecutor(1) as pool, socket.create_connection(("127.0.0.1", gateway._port)) as idle:
        under_way = pool.submit(ask, gateway._port, "POST", INFER, REQUEST)
        while not triton.received:
            time.sleep(0.01)
        gateway.begin_stop()
        idle.settimeout(5)
        assert idle.recv(1) == b"", "an idle connection holds up no stop"
        with pytest.raises(OSError):
            ask(gateway._port, "GET", "/v2")
        triton.wait.set()
        assert under_way.result()[0] == 200
    gateway.join()


@pytest.mark.parametrize("rounds", range(8))
def test_a_request_that_comes_as_it_stops_is_answered_or_refused(triton: FakeTriton, rounds: int) -> None:
    """The client connects after that many rounds of the event loop since the stop; then the loop goes on."""
    gateway = started(triton.server_address[1], grace=1.0)
    assert gateway._loop is not None
    reached, go_on = threading.Event(), threading.Event()

    async def stop() -> None:
        gateway.begin_stop()
        for _ in range(rounds):
            await asyncio.sleep(0)
        reached.set()
        go_on.wait(10)

    gc.collect()
    gc.disable()  # it closes, whenever it runs, what was forgotten
    try:
        asyncio.run_coroutine_threadsafe(stop(), gateway._loop)
        assert reached.wait(10)
        try:
            with socket.create_connection(("127.0.0.1", gateway._port), 5.0) as client:
                client.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n")
                go_on.set()
                assert client.recv(1024).startswith(b"HTTP/1.1 200 ")
        except ConnectionError:
            assert rounds > 1, "until then the loop has not got to the stop"
    finally:
        go_on.set()
        gc.enable()
        gateway.join()


def test_a_taken_port_and_a_foreign_address_are_named() -> None:
    def start(host: str, port: int) -> None:
        Gateway(
            host=host,
            port=port,
            upstream=Upstream(1, {}),
            access=AccessPolicy(),
            limits=GatewayLimits(),
            grace=1.0,
        ).start()

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"port {port} \(http\)"):
            start("127.0.0.1", port)
    with pytest.raises(UnfitEnvironment, match=r"192\.0\.2\.1"):
        start("192.0.2.1", 0)
