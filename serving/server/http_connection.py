"""One connection of a client to the HTTP port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from .defects import DEFECT
from .http_answers import error_response

__all__ = ["Connections"]

_FULL = "the gateway is overloaded: too many connections are open; try again later"


class Connections:
    """Makes what handles each connection, up to a bound."""

    def __init__(self, server: web.Server, most: int, report: Callable[[str], None] | None, **options: Any):
        """Make none yet.

        Args:
            server: answers the requests.
            most: connections at a time.
            report: is told when there are that many.
            options: of `aiohttp.web.RequestHandler`.
        """
        self._server = server
        self._most = most
        self._report = report
        self._options = options
        self._full = False

    def make(self) -> asyncio.BaseProtocol:
        """What handles the next one."""
        return _Connection(self, self._server, loop=asyncio.get_running_loop(), **self._options)

    def has_room(self) -> bool:
        """Whether there may be one more."""
        count = len(self._server.connections)
        if count < self._most:
            self._full = self._full and count > self._most // 2
            return True
        if not self._full and self._report is not None:
            self._report(f"{count} connections are open (http), as many as may be; further ones are closed")
        self._full = True
        return False


class _Connection(web.RequestHandler):
    """Is closed at once if there is no room for it."""

    __slots__ = ("_among",)

    def __init__(self, among: Connections, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._among = among

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, or where the gateway has a defect.

        aiohttp's own answer shows the bytes that came, and its version.
        """
        self.log_exception("unexpected", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        said = DEFECT if status >= 500 else f"this is no HTTP/1.1 request: {type(exc).__name__}"
        response: web.StreamResponse = error_response(status, said)
        response.force_close()
        return response

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._among.has_room():
            super().connection_made(transport)
            return
        assert isinstance(transport, asyncio.Transport)
        body = json.dumps({"error": _FULL})
        head = "HTTP/1.1 503 Service Unavailable\r\nServer: longserve\r\nContent-Type: application/json\r\n"
        transport.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
        transport.close()
