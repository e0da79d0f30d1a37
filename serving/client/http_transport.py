"""The KServe v2 protocol over HTTP: tritonclient's messages on the standard library's connections.

tritonclient's own HTTP client must not be used by several threads (its sockets belong to one gevent loop)
and has no deadline for a whole request, so only its message encoding and decoding is used here.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections import deque
from typing import Any
from urllib.parse import quote

import numpy as np

from ..runtime.errors import DeadlineExceeded, InferenceFailed, RequestError, ServingError
from .address import Address
from .calls import InferenceCall, Outputs
from .failures import failure

__all__ = ["HttpTransport"]

_IDLE_CONNECTIONS = 16
_CHUNK = 1 << 16
_DISCONNECTED = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)
"""What a kept connection raises if the server closed it meanwhile (`RemoteDisconnected` is among them)."""


class HttpTransport:
    """A pool of HTTP connections: each call takes one for itself and gives it back."""

    def __init__(self, address: Address) -> None:
        """Prepare the pool; a connection is made when a call needs one.

        Raises:
            RequestError: tritonclient is not installed.
        """
        try:
            import tritonclient.http
        except ImportError as error:
            raise RequestError(
                f"tritonclient's HTTP client cannot be imported ({error}); install 'longserve[client]'"
            ) from error
        self._http: Any = tritonclient.http
        self._address = address
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._lock = threading.Lock()
        self._closed = False

    def infer(self, call: InferenceCall, timeout: float) -> Outputs:
        """See `Transport.infer`."""
        deadline = _Deadline(timeout, call.model, self._address)
        inputs = []
        for name, text in call.inputs.items():
            tensor = self._http.InferInput(name, [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[text]], dtype=np.object_))
            inputs.append(tensor)
        body, header_length = self._http.InferenceServerClient.generate_request_body(
            inputs, timeout=int(timeout * 1e6), parameters=dict(call.parameters)
        )
        headers = {"Content-Type": "application/octet-stream"}
        if header_length is not None:
            headers["Inference-Header-Content-Length"] = str(header_length)
        path = f"/v2/models/{quote(call.model, safe='')}/infer"
        response, content = self._exchange("POST", path, body, headers, deadline)
        if response.status != 200:
            raise failure(str(response.status), _reason(content), model=call.model, server=str(self._address))
        try:
            return self._decode(response, content)
        except (
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            self._http.InferenceServerException,
        ) as error:
            raise InferenceFailed(
                f"{call.model} at {self._address} returned what cannot be read as a KServe v2 response "
                f"({type(error).__name__}: {error})"
            ) from error

    def server_ready(self, timeout: float) -> bool:
        """See `Transport.server_ready`."""
        deadline = _Deadline(timeout, "the server", self._address)
        try:
            response, _ = self._exchange("GET", "/v2/health/ready", None, {}, deadline)
        except RequestError:
            return False
        return response.status == 200

    def close(self) -> None:
        """Close the idle connections, and those in use when their calls end."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.close()

    def _decode(self, response: http.client.HTTPResponse, content: bytes) -> Outputs:
        header_length = response.getheader("Inference-Header-Content-Length")
        result = self._http.InferenceServerClient.parse_response_body(
            content, header_length=None if header_length is None else int(header_length)
        )
        names = [output["name"] for output in result.get_response()["outputs"]]
        return {name: result.as_numpy(name) for name in names}

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], deadline: _Deadline
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Send a request and read the whole response."""
        connection, reused = self._take(deadline)
        try:
            try:
                return self._attempt(connection, method, path, body, headers, deadline)
            except _DISCONNECTED:
                # The server may close an idle connection at any time, even as we write to it. Nothing was
                # answered, and an inference has no effect but its answer, so it can be sent again.
                if not reused:
                    raise
            fresh = http.client.HTTPConnection(self._address.host, self._address.port)
            return self._attempt(fresh, method, path, body, headers, deadline)
        except TimeoutError as error:
            raise deadline.exceeded() from error
        except http.client.HTTPException as error:
            if isinstance(error, (*_DISCONNECTED, http.client.IncompleteRead)):
                raise self._unavailable(deadline, "the server closed the connection") from error
            said = f"the answer is not HTTP ({type(error).__name__}: {error}); is it the gRPC port?"
            raise self._unavailable(deadline, said) from error
        except OSError as error:
            raise self._unavailable(deadline, str(error)) from error

    def _unavailable(self, deadline: _Deadline, cause: str) -> ServingError:
        return failure("503", cause, model=deadline.subject, server=str(self._address))

    def _attempt(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
        deadline: _Deadline,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        done = False
        try:
            connection.timeout = deadline.remaining()
            if connection.sock is None:
                connection.connect()
            connection.sock.settimeout(deadline.remaining())
            connection.request(method, self._address.path + path, body=body, headers=headers)
            connection.sock.settimeout(deadline.remaining())
            response = connection.getresponse()
            content = _read(response, connection, deadline)
            done = connection.sock is not None
            return response, content
        finally:
            # Whatever went wrong, also an interrupt, leaves the connection in the middle of a message
            if done:
                self._give_back(connection)
            else:
                connection.close()

    def _take(self, deadline: _Deadline) -> tuple[http.client.HTTPConnection, bool]:
        """Return a connection, and whether it was used before."""
        with self._lock:
            if self._closed:
                raise RequestError(f"the client of {self._address} is closed; open a new one")
            while self._idle:
                connection = self._idle.pop()
                if _is_quiet(connection):
                    return connection, True
                connection.close()
        return http.client.HTTPConnection(self._address.host, self._address.port), False

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()


class _Deadline:
    """The moment until which an answer must be there."""

    def __init__(self, seconds: float, subject: str, address: Address) -> None:
        self.subject = subject
        self._seconds = seconds
        self._address = address
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left.

        Raises:
            DeadlineExceeded: none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.exceeded()
        return left

    def exceeded(self) -> DeadlineExceeded:
        cause = f"no answer after {self._seconds:g} s"
        error = failure("504", cause, model=self.subject, server=str(self._address))
        assert isinstance(error, DeadlineExceeded)
        return error


def _read(
    response: http.client.HTTPResponse, connection: http.client.HTTPConnection, deadline: _Deadline
) -> bytes:
    """Read a body in pieces as they arrive, so that a trickle of bytes cannot outlast the deadline."""
    content = bytearray()
    expected = None if response.chunked else response.length
    while expected is None or len(content) < expected:
        left = deadline.remaining()
        if connection.sock is not None:
            connection.sock.settimeout(left)
        piece = response.read1(_CHUNK if expected is None else min(_CHUNK, expected - len(content)))
        if not piece and expected is not None:
            raise http.client.IncompleteRead(bytes(content), expected - len(content))
        if not piece:
            break
        content += piece
    response.close()
    return bytes(content)


def _is_quiet(connection: http.client.HTTPConnection) -> bool:
    """Whether an idle connection can be used: one that has something to read was closed by the server."""
    if connection.sock is None:
        return False
    try:
        connection.sock.setblocking(False)
        connection.sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _reason(content: bytes) -> str:
    """The server's reason in an error response; any other text, cut short, where it is not Triton's JSON."""
    try:
        parsed = json.loads(content)
    except ValueError:
        parsed = None
    if isinstance(parsed, dict) and isinstance(parsed.get("error"), str):
        return str(parsed["error"])
    text = content.decode("utf-8", errors="replace").strip()
    return text if len(text) <= 200 else text[:199] + "…"
