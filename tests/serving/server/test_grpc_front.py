"""The gRPC front on its own: what it lets through, what it caps, how it stops; Triton is a fake here."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from draining import drain
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2, service_pb2_grpc
from waiting import until

from longserve.serving import PortInUse
from longserve.serving.server import Ports
from longserve.serving.server.access import AccessPolicy
from longserve.serving.server.gateway import Gateway, GatewayLimits
from longserve.serving.server.grpc_front import GrpcPort
from longserve.serving.server.journal import Journal
from longserve.serving.server.turnstile import Holding, Turnstile
from longserve.serving.server.upstream import Upstream

KEY = "0123456789abcdef"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Records what reaches it, and answers when the test lets it."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.ended: list[bool] = []
        self.wait = threading.Event()
        self.wait.set()
        self.failure: tuple[grpc.StatusCode, str] | None = None
        self.server = grpc.server(ThreadPoolExecutor(100), options=[("grpc.so_reuseport", 0)])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self.server)
        health = grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x01")
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": health}),)
        )
        self.server.start()

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.received.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.wait.wait(30)
        self.ended.append(context.is_active())
        if self.failure is not None:
            context.abort(*self.failure)
        return service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=True)

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.RepositoryIndexResponse()


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    fake = FakeTriton()
    yield fake
    fake.wait.set()
    fake.server.stop(None).wait()


@pytest.fixture
def open_front(triton: FakeTriton) -> Iterator[Callable[..., tuple[Gateway, int]]]:
    """Start a gateway with a gRPC port in front of `triton`; return it and the port."""
    opened: list[Gateway] = []

    def start(
        upstream: int | None = None,
        grace: float = 5.0,
        turnstile: Turnstile | None = None,
        log: io.StringIO | None = None,
        **limits: Any,
    ) -> tuple[Gateway, int]:
        ports = Ports(http=0, grpc=0, metrics=0).resolve("127.0.0.1")
        gateway = Gateway(
            host="127.0.0.1",
            port=ports.http,
            upstream=Upstream(1, {}),
            access=AccessPolicy(key=KEY),
            limits=GatewayLimits(**limits),
            grace=grace,
            turnstile=turnstile,
            report=None if log is None else Journal(log).report_defect,
            grpc=GrpcPort(
                host="127.0.0.1",
                port=ports.grpc,
                upstream=triton.port if upstream is None else upstream,
                metadata=(("triton-grpc-protocol-inner", "secret"),),
            ),
        )
        gateway.start()
        opened.append(gateway)
        return gateway, ports.grpc

    yield start
    triton.wait.set()
    for gateway in opened:
        gateway.begin_stop()
        gateway.join()


@pytest.fixture
def stub(open_front: Callable[..., tuple[Gateway, int]]) -> Iterator[Any]:
    with connected(open_front()[1]) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def connected(port: int) -> Any:
    return grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    )


def request_of(shape: tuple[int, ...] = (1, 1), content: bytes = b"\5\0\0\0hello", **fields: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[content], **fields)
    request.inputs.add(name="TEXT", datatype="BYTES", shape=shape)
    return request


def refusal(ask: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as raised:
        ask()
    return raised.value.code().name, raised.value.details()


def test_a_request_passes_with_the_key_of_the_gateway(stub: Any, triton: FakeTriton) -> None:
    request = request_of(id="7")
    answer = stub.ModelInfer(request, metadata=(("of-the-caller", "x"),))
    assert (answer.model_name, answer.id) == ("m", "7")
    assert triton.received == [request]
    assert triton.metadata[0]["triton-grpc-protocol-inner"] == "secret"
    assert "of-the-caller" not in triton.metadata[0]


@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_triton_never_hears_that_a_client_has_gone(stub: Any, triton: FakeTriton, how: str) -> None:
    triton.wait.clear()
    call = stub.ModelInfer.future(request_of(), timeout=0.2 if how == "deadline" else None)
    until(lambda: len(triton.received) == 1)
    if how == "cancel":
        call.cancel()
    with pytest.raises((grpc.RpcError, grpc.FutureCancelledError)):
        call.result()
    time.sleep(0.2)
    triton.wait.set()
    until(lambda: triton.ended == [True])


def test_the_deadline_of_a_client_stands_for_a_timeout(stub: Any, triton: FakeTriton) -> None:
    stub.ModelInfer(request_of(), timeout=20)
    given = request_of()
    given.parameters["timeout"].int64_param = 5
    stub.ModelInfer(given, timeout=20)
    stub.ModelInfer(request_of())
    first, second, third = (dict(request.parameters) for request in triton.received)
    assert 15e6 < first["timeout"].int64_param < 21e6
    assert second["timeout"].int64_param == 5 and third == {}


def test_administration_needs_the_key(stub: Any) -> None:
    index = service_pb2.RepositoryIndexRequest()
    name = "triton-grpc-protocol-admin-key"
    for metadata in ((), ((name, KEY[:-1]),), (("admin-key", KEY),)):
        code, details = refusal(lambda given=metadata: stub.RepositoryIndex(index, metadata=given))
        assert code == "UNAVAILABLE" and f"is restricted, expecting header '{name}'" in details
    assert stub.RepositoryIndex(index, metadata=((name, KEY),)) == service_pb2.RepositoryIndexResponse()


@pytest.mark.parametrize(
    "method", ["/inference.GRPCInferenceService/Other", "/other.Service/ModelInfer", "/x"]
)
def test_what_is_not_served_says_so(open_front: Any, method: str) -> None:
    with connected(open_front()[1]) as channel:
        assert refusal(lambda: channel.unary_unary(method)(b""))[0] == "UNIMPLEMENTED"


def test_a_message_that_is_none_is_refused(open_front: Any, triton: FakeTriton) -> None:
    with connected(open_front()[1]) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert refusal(lambda: infer(b"\xff\xff")) == (
            "INVALID_ARGUMENT",
            "the message is no ModelInferRequest",
        )
    assert triton.received == []


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((2**61 + 1,), "2305843009213693953 elements"),
        ((0, 2**61), "2305843009213693952 elements"),
        ((2**32, 2**32), "18446744073709551616 elements"),
        ((1, -1), "holds -1"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(
    stub: Any, triton: FakeTriton, shape: tuple[int, ...], said: str
) -> None:
    code, details = refusal(lambda: stub.ModelInfer(request_of(shape)))
    assert code == "INVALID_ARGUMENT" and said in details
    assert triton.received == []


def test_a_message_that_would_take_all_memory_is_refused_unparsed(
    open_front: Any, triton: FakeTriton
) -> None:
    content = request_of().SerializeToString() + b"\x2a\0" * 1_000_000
    with connected(open_front()[1]) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        begun = time.monotonic()
        code, details = refusal(lambda: infer(content))
        assert code == "INVALID_ARGUMENT" and "more than 272 fields" in details
        assert time.monotonic() - begun < 1.0
    assert triton.received == []


def test_a_message_above_the_cap_is_refused(open_front: Any, triton: FakeTriton) -> None:
    with connected(open_front(max_request_bytes=1000)[1]) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        code, details = refusal(lambda: infer(request_of(content=b"x" * 1000)))
        assert code == "RESOURCE_EXHAUSTED" and "larger than max" in details
        infer(request_of(content=b"x" * 900))
    assert len(triton.received) == 1


def test_more_bytes_than_there_is_room_for_are_overload(open_front: Any, triton: FakeTriton) -> None:
    triton.wait.clear()
    with connected(open_front(max_request_bytes=1000)[1]) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        held = [infer.future(request_of(content=b"x" * 900)) for _ in range(17)]
        until(lambda: len(triton.received) == 17)
        code, details = refusal(lambda: infer(request_of(content=b"x" * 900)))
        assert code == "RESOURCE_EXHAUSTED" and "overloaded" in details
        triton.wait.set()
        assert all(call.result().model_name == "m" for call in held)
        assert infer(request_of(content=b"x" * 900)).model_name == "m"


def test_what_a_model_has_no_room_for_does_not_reach_triton(open_front: Any, triton: FakeTriton) -> None:
    triton.wait.clear()
    with connected(open_front(turnstile=Turnstile({"m": Holding(2, "1")}))[1]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        held = [stub.ModelInfer.future(request_of()) for _ in range(2)]
        until(lambda: len(triton.received) == 2)
        full = ("UNAVAILABLE", "Exceeds maximum queue size")
        assert refusal(lambda: stub.ModelInfer(request_of())) == full
        (answer,) = stub.ModelStreamInfer(iter([request_of()]))
        assert answer.error_message == full[1]
        held[0].cancel()  # its client has gone, but Triton is still at it
        until(held[0].done)
        assert refusal(lambda: stub.ModelInfer(request_of())) == full
        assert len(triton.received) == 2
        triton.wait.set()
        assert held[1].result().model_name == "m"
        until(lambda: len(triton.ended) == 2)
        triton.failure = (grpc.StatusCode.INTERNAL, "broken")
        for _ in range(4):  # also one that fails makes room
            assert refusal(lambda: stub.ModelInfer(request_of()))[0] == "INTERNAL"


def test_a_stream_has_an_answer_for_each_request(stub: Any, triton: FakeTriton) -> None:
    requests = [request_of(id=str(index)) for index in range(80)]
    requests[3] = request_of((1, -1), id="3")
    answers = list(stub.ModelStreamInfer(iter(requests)))
    (failed,) = [answer for answer in answers if answer.error_message]
    assert "holds -1" in failed.error_message and failed.infer_response.id == "3"
    ids = {answer.infer_response.id for answer in answers if not answer.error_message}
    assert ids == {str(index) for index in range(80) if index != 3}


def test_a_defect_is_answered_and_logged_without_its_message(
    open_front: Any, triton: FakeTriton, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def check(message: Any, size: int) -> None:
        if message.id == "quartz":
            raise ValueError("terces"[::-1])

    monkeypatch.setattr("longserve.serving.server.grpc_front.check_infer_message", check)

    async def fault(model: str | None) -> str | None:
        raise KeyError("terces"[::-1])

    log = io.StringIO()
    gateway, port = open_front(log=log)
    monkeypatch.setattr(gateway._grpc, "_fault", fault)
    with connected(port) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        code, details = refusal(lambda: stub.ModelInfer(request_of(id="quartz")))
        assert code == "INTERNAL" and "a defect of its own" in details
        assert refusal(lambda: stub.ServerReady(service_pb2.ServerReadyRequest())) == (code, details)
        many = [request_of(id="quartz") for _ in range(70)]  # more than a stream has at a time
        answers = list(stub.ModelStreamInfer(iter([*many, request_of(id="good")]), timeout=20))
    failed = [answer for answer in answers if answer.error_message]
    assert len(failed) == 70 and len(answers) == 71
    assert {answer.infer_response.id for answer in failed} == {"quartz"}
    told = log.getvalue()
    assert "gateway: unexpected ValueError" in told and "grpc_front.py" in told
    assert "gateway: unexpected KeyError" in told
    assert "secret" not in told + details + "".join(capfd.readouterr())


def test_connections_are_bounded(open_front: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longserve.serving.server.grpc_front.connections_allowed", lambda: 3)
    _, port = open_front()
    with contextlib.ExitStack() as opened:
        for _ in range(3):
            opened.enter_context(socket.create_connection(("127.0.0.1", port)))
        refused = opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        with contextlib.suppress(ConnectionError):
            assert refused.recv(1) == b""
    with connected(port) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(service_pb2.ServerLiveRequest(), wait_for_ready=True, timeout=20).live


def test_ready_means_that_the_models_answer(open_front: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway, port = open_front()
    faults: dict[str | None, str] = {}

    async def fault(model: str | None) -> str | None:
        return faults.get(model)

    monkeypatch.setattr(gateway._grpc, "_fault", fault)
    with connected(port) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def ready() -> tuple[bool, bool, bytes]:
            server = stub.ServerReady(service_pb2.ServerReadyRequest()).ready
            model = stub.ModelReady(service_pb2.ModelReadyRequest(name="m")).ready
            return server, model, channel.unary_unary(HEALTH_CHECK)(b"")

        assert ready() == (True, True, b"\x08\x01")
        faults["m"] = "does not answer"
        assert ready() == (True, False, b"\x08\x01")
        faults[None] = "m does not answer"
        assert ready() == (False, False, b"\x08\x02")
        assert stub.ServerLive(service_pb2.ServerLiveRequest()).live


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ((grpc.StatusCode.INTERNAL, "Stub process 'm_0' is not healthy."), "UNAVAILABLE"),
        ((grpc.StatusCode.INTERNAL, "Failed to obtain the health mutex."), "UNAVAILABLE"),
        ((grpc.StatusCode.INTERNAL, "division by zero"), "INTERNAL"),
        ((grpc.StatusCode.NOT_FOUND, "unknown model"), "NOT_FOUND"),
    ],
)
def test_the_errors_of_triton_are_passed_back(
    stub: Any, triton: FakeTriton, failure: tuple[grpc.StatusCode, str], expected: str
) -> None:
    triton.failure = failure
    assert refusal(lambda: stub.ModelInfer(request_of())) == (expected, failure[1])


def test_a_triton_that_does_not_answer_is_unavailable_until_it_does(open_front: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        gone = free.getsockname()[1]
    _, port = open_front(upstream=gone)
    with connected(port) as channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        code, details = refusal(lambda: infer(request_of()))
        assert code == "UNAVAILABLE" and "Triton does not answer" in details and str(gone) not in details


def test_a_triton_that_goes_away_while_the_front_connects(open_front: Any) -> None:
    """With gRPC's own retries (gRPC 1.83 to 1.85) the call costs 0.5 GB a second until its deadline."""

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                drain(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        _, port = open_front(upstream=listener.getsockname()[1])
        with connected(port) as channel:
            infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            assert refusal(lambda: infer(request_of(), timeout=3))[0] == "UNAVAILABLE"
        listener.shutdown(socket.SHUT_RDWR)


def test_a_stop_lets_what_is_under_way_end(open_front: Any, triton: FakeTriton) -> None:
    gateway, port = open_front()
    triton.wait.clear()
    with connected(port) as channel, connected(port) as other:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        under_way: Future[Message] = infer.future(request_of())
        left = service_pb2_grpc.GRPCInferenceServiceStub(other).ModelInfer.future(request_of())
        until(lambda: len(triton.received) == 2)
        left.cancel()
        gateway.begin_stop()
        time.sleep(0.2)
        triton.wait.set()
        assert under_way.result().model_name == "m"
    gateway.join()
    assert triton.ended == [True, True]


def test_a_taken_port_is_named(triton: FakeTriton) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        gateway = Gateway(
            host="127.0.0.1",
            port=Ports(http=0, grpc=0, metrics=0).resolve("127.0.0.1").http,
            upstream=Upstream(1, {}),
            access=AccessPolicy(),
            limits=GatewayLimits(),
            grace=1.0,
            grpc=GrpcPort(host="127.0.0.1", port=port, upstream=triton.port, metadata=()),
        )
        with pytest.raises(PortInUse, match=rf"port {port} \(grpc\)"):
            gateway.start()
        gateway.join()
