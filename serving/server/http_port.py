"""The listening HTTP port of the gateway, and its stop, which leaves no connection open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .descriptors import connections_allowed

__all__ = ["HttpPort"]

_BACKLOG = 1024
_ROUNDS_OF_A_REQUEST = 10
"""Enough of the event loop to take a request from its connection's arrival to where it counts as under way:
the connection's task, its transport, the first bytes, their handler's task, the request's."""


class HttpPort:
    """Listens with aiohttp. All of it runs in the event loop that starts it."""

    def __init__(
        self,
        server: Any,
        host: str,
        port: int,
        grace: float,
        report: Callable[[str], None] | None = None,
        **options: Any,
    ) -> None:
        """Describe the port; nothing is started yet.

        Args:
            server: an `aiohttp.web.Server`.
            host: address to listen on.
            port: port to listen on.
            grace: seconds that requests under way may take at a stop.
            report: is told when there are as many connections as there may be.
            options: of `aiohttp.web.RequestHandler`, for each connection.
        """
        from aiohttp import web

        from .http_connection import Connections

        self._connections = Connections(server, connections_allowed(), report, **options)
        self._runner = web.ServerRunner(server, shutdown_timeout=grace)
        self._host = host
        self._port = port
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: it cannot listen there.
        """
        await self._runner.setup()
        self._listener = await asyncio.get_running_loop().create_server(
            self._connections.make, self._host, self._port, backlog=_BACKLOG
        )

    async def stop(self) -> None:
        """Take no new connection, let the requests under way end, and close all connections."""
        if self._listener is not None:
            # When its listener is closed, asyncio leaves open, without an answer until it is collected as
            # garbage, a connection that was accepted and not yet handed over (python/cpython, issue 109564).
            # So none is accepted any more before that, and those that were are handed over.
            for listening in self._listener.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
            for _ in range(_ROUNDS_OF_A_REQUEST):
                await asyncio.sleep(0)
            self._listener.close()
        await self._runner.cleanup()
