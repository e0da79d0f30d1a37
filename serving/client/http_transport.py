"""The KServe v2 protocol over HTTP: tritonclient's messages on the standard library's connections.

tritonclient's own HTTP client must not be used by several threads (its sockets belong to one gevent loop)
and has no deadline for a whole request, so only its message encoding and decoding is used here.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
import time
from collections import deque
from functools import partial
from typing import Any

from ..runtime.errors import DeadlineExceeded, RequestError
from .calls import InferenceCall, Outputs
from .connection import Connection, Tls
from .failures import failure
from .forks import renew_after_fork
from .http_messages import (
    HEADER_LENGTH,
    HttpRequest,
    cut_off,
    import_tritonclient,
    infer_request,
    inquiry_request,
    not_http,
    read_inquiry,
    read_outputs,
)
from .inquiries import Inquiry

__all__ = ["HttpTransport"]

_IDLE_CONNECTIONS = 16
_CHUNK = 1 << 16
_DISCONNECTED = (
    ConnectionResetError,
    BrokenPipeError,
    ConnectionAbortedError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)
"""What a kept connection raises if the server closed it meanwhile (`RemoteDisconnected` is among them)."""


class HttpTransport:
    """A pool of HTTP connections: each call takes one for itself and gives it back."""

    def __init__(self, connection: Connection) -> None:
        """Prepare the pool; a connection is made when a call needs one.

        Raises:
            RequestError: tritonclient is not installed.
            InvalidInput: a TLS file cannot be used.
        """
        self._http: Any = import_tritonclient()
        self._address = connection.address
        self._server = str(connection.address)
        self._headers = connection.headers
        self._tls = (connection.tls or Tls()).context() if connection.address.uses_tls else None
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._lock = threading.Lock()
        self._closed = False
        renew_after_fork(self, HttpTransport._renew)

    def infer(self, call: InferenceCall, timeout: float) -> Outputs:
        """See `Transport.infer`."""
        deadline = _Deadline(timeout, call.at(self._server))
        request = infer_request(self._http, call, timeout, self._server)
        response, content = self._exchange(request, deadline)
        header_length = response.getheader(HEADER_LENGTH)
        return read_outputs(self._http, response.status, header_length, content, request)

    def ask(self, inquiry: Inquiry, timeout: float) -> Any:
        """See `Transport.ask`."""
        request = inquiry_request(inquiry, self._server)
        response, content = self._exchange(request, _Deadline(timeout, request.where))
        return read_inquiry(inquiry, response.status, content, request.where)

    def close(self) -> None:
        """Close the idle connections, and those in use when their calls end."""
        with self._lock:
            self._closed = True
        self._close_idle()

    def _renew(self) -> None:
        """Forget the parent process's connections."""
        idle, self._idle = self._idle, deque()
        self._lock = threading.Lock()
        for connection in idle:
            connection.close()  # closes this process's descriptor: no TLS message, no shutdown

    def _close_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.close()

    def _exchange(self, request: HttpRequest, deadline: _Deadline) -> tuple[http.client.HTTPResponse, bytes]:
        """Send a request and read the whole response."""
        connection, reused = self._take(request.where)
        try:
            try:
                return self._attempt(connection, request, deadline)
            except _DISCONNECTED:
                # The server may close an idle connection at any time, even as we write to it, and then the
                # others too. An inference may have begun: it is sent again if `RetryPolicy` says so.
                if not reused:
                    raise
                self._close_idle()
                if request.body is not None:
                    raise
            return self._attempt(self._new(), request, deadline)
        except TimeoutError as error:
            raise deadline.exceeded() from error
        except ssl.SSLCertVerificationError as error:
            raise RequestError(
                f"{request.where}: its certificate is not trusted ({error.verify_message}); "
                "give its authority's certificate as Tls(ca=…), and the name that it was issued for"
            ) from error
        except (*_DISCONNECTED, http.client.IncompleteRead) as error:
            raise cut_off("the server closed the connection", request.where) from error
        except http.client.HTTPException as error:
            raise not_http(error, request.where) from error
        except OSError as error:
            raise cut_off(str(error), request.where) from error

    def _attempt(
        self, connection: http.client.HTTPConnection, request: HttpRequest, deadline: _Deadline
    ) -> tuple[http.client.HTTPResponse, bytes]:
        done = False
        try:
            connection.timeout = deadline.remaining()
            if connection.sock is None:
                connection.connect()
            connection.sock.settimeout(deadline.remaining())
            headers = {**self._headers, **request.headers}
            path = self._address.path + request.path
            connection.request(request.method, path, body=request.body, headers=headers)
            connection.response_class = partial(_Response, deadline=deadline)  # type: ignore[assignment]
            response = connection.getresponse()
            content = _read(response)
            done = connection.sock is not None
            return response, content
        finally:
            # Whatever went wrong, also an interrupt, leaves the connection in the middle of a message
            if done:
                self._give_back(connection)
            else:
                connection.close()

    def _new(self) -> http.client.HTTPConnection:
        host, port = self._address.host, self._address.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port)
        return http.client.HTTPSConnection(host, port, context=self._tls)

    def _take(self, where: str) -> tuple[http.client.HTTPConnection, bool]:
        """Return a connection, and whether it was used before."""
        with self._lock:
            if self._closed:
                raise RequestError(f"{where}: the client is closed; open a new one")
            while self._idle:
                connection = self._idle.pop()
                if _is_quiet(connection):
                    return connection, True
                connection.close()
        return self._new(), False

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()


class _Deadline:
    """The moment until which an answer must be there."""

    def __init__(self, seconds: float, where: str) -> None:
        self._where = where
        self._seconds = seconds
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
        error = failure("504", f"no answer after {self._seconds:.3g} s", self._where)
        assert isinstance(error, DeadlineExceeded)
        return error


class _Response(http.client.HTTPResponse):
    """A response whose every byte must come before the deadline: http.client knows a limit for each `recv`
    alone, so a trickle of header lines, or of `100 Continue`, would never end."""

    def __init__(self, sock: socket.socket, *arguments: Any, deadline: _Deadline, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Reader(sock, deadline))


class _Reader(io.RawIOBase):
    """Reads from a socket, each time with the time that is left."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._stream = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._deadline.remaining())
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _read(response: http.client.HTTPResponse) -> bytes:
    """Read a body in pieces as they arrive: its length is the server's word."""
    content = bytearray()
    expected = None if response.chunked else response.length
    while expected is None or len(content) < expected:
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
        # TLS cannot peek; whatever comes unasked, the connection is not taken again
        connection.sock.recv(1, 0 if isinstance(connection.sock, ssl.SSLSocket) else socket.MSG_PEEK)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    return False
