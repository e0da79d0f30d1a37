"""Small servers that speak, or break, the protocols; the real Triton is tested elsewhere."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from longserve.serving import Client, RetryPolicy
from longserve.serving.client.calls import Outputs

from .facade import BlockingAsyncClient

Handler = Callable[[socket.socket, int], None]


@pytest.fixture(params=["Client", "AsyncClient"])
def open_client(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Make either client; without retries, unless the test asks for them."""
    kind: Any = {"Client": Client, "AsyncClient": BlockingAsyncClient}[request.param]

    def make(*arguments: Any, **options: Any) -> Any:
        return kind(*arguments, **{"retry": RetryPolicy(attempts=1), **options})

    return make


@pytest.fixture
def classification_outputs() -> Outputs:
    """The tensors of a classification model's response to one text."""
    return {
        "LABEL": np.array([["weather", "sports"]], dtype=np.object_),
        "SCORE": np.array([[0.75, 0.25]], dtype=np.float32),
        "TOKENS": np.array([[5000]], dtype=np.int32),
        "WINDOWS": np.array([[2]], dtype=np.int32),
    }


@pytest.fixture
def answer_outputs() -> Outputs:
    """The tensors of a question-answering model's response to one question, filled up to three."""
    return {
        "ANSWER": np.array([[b"the box", "", b""]], dtype=np.object_),
        "SCORE": np.array([[0.5, 0.25, 0]], dtype=np.float32),
        "START": np.array([[3, 0, -1]], dtype=np.int32),
        "END": np.array([[10, 0, -1]], dtype=np.int32),
        "TOKENS": np.array([[30]], dtype=np.int32),
        "WINDOWS": np.array([[1]], dtype=np.int32),
    }


def http_message(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture(scope="session")
def http_answer() -> Callable[[Outputs], bytes]:
    """Make the HTTP response that carries these tensors as JSON."""

    def make(outputs: Outputs) -> bytes:
        types = {"O": "BYTES", "f": "FP32", "i": "INT32"}
        tensors = [
            {
                "name": name,
                "datatype": types[array.dtype.kind],
                "shape": list(array.shape),
                "data": [v.decode() if isinstance(v, bytes) else v for v in array.ravel().tolist()],
            }
            for name, array in outputs.items()
        ]
        return http_message("200 OK", json.dumps({"outputs": tensors}).encode())

    return make


@pytest.fixture(scope="session")
def make_http_message() -> Callable[..., bytes]:
    """Make an HTTP response from status, body and header lines."""
    return http_message


@pytest.fixture(scope="session")
def read_request() -> Callable[[socket.socket], tuple[str, bytes] | None]:
    """Read one HTTP request: its first line and its body; None where the client hung up."""

    def read(connection: socket.socket) -> tuple[str, bytes] | None:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return None
            data += piece
        head, body = data.split(b"\r\n\r\n", 1)
        length = 0
        for line in head.decode("latin-1").split("\r\n")[1:]:
            name, value = line.split(":", 1)
            if name.lower() == "content-length":
                length = int(value)
        while len(body) < length:
            body += connection.recv(65536)
        return head.decode("latin-1").split("\r\n")[0], body

    return read


@pytest.fixture
def serve_connections() -> Iterator[Callable[[Handler], str]]:
    """Start a TCP server whose connections are handled by a function of (socket, index); returns its URL."""
    listeners: list[socket.socket] = []
    connections: list[socket.socket] = []

    def start(handler: Handler) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def handle(connection: socket.socket, index: int) -> None:
            with connection:
                try:
                    handler(connection, index)
                except OSError:
                    return  # the client hung up, as some tests want

        def accept() -> None:
            index = 0
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.settimeout(20)
                connections.append(connection)
                threading.Thread(target=handle, args=(connection, index), daemon=True).start()
                index += 1

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for opened in [*listeners, *connections]:
        opened.close()


@pytest.fixture
def serve_grpc() -> Iterator[Callable[..., str]]:
    """Start a gRPC server whose ModelInfer is a function of (request, context); returns its URL."""
    servers: list[Any] = []

    def start(
        infer: Callable[[Any, Any], Any], ready: bool = True, port: int = 0, credentials: Any = None
    ) -> str:
        class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
            def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
                return infer(request, context)

            def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
                return service_pb2.ServerReadyResponse(ready=ready)

        server = grpc.server(ThreadPoolExecutor(8))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
        if credentials is None:
            bound = server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
        server.start()
        servers.append(server)
        return f"{'grpc' if credentials is None else 'grpcs'}://127.0.0.1:{bound}"

    yield start
    for server in servers:
        server.stop(grace=0).wait(10)


@pytest.fixture(scope="session")
def grpc_answer() -> Callable[[Outputs], Any]:
    """Make the gRPC response that carries these tensors."""

    def make(outputs: Outputs) -> Any:
        response = service_pb2.ModelInferResponse()
        for name, array in outputs.items():
            types = {"O": "BYTES", "f": "FP32", "i": "INT32"}
            response.outputs.add(name=name, datatype=types[array.dtype.kind], shape=array.shape)
            if array.dtype.kind == "O":
                response.raw_output_contents.append(serialize_byte_tensor(array).item())
            else:
                response.raw_output_contents.append(array.tobytes())
        return response

    return make


@pytest.fixture
def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
