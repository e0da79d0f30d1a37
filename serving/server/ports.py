"""The three ports of a Triton server."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from dataclasses import dataclass

from ..runtime.errors import PortInUse, UnfitEnvironment

__all__ = ["InnerPorts", "LOOPBACK", "Ports", "ServerUrls", "listens"]

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """TCP ports of one server; 0 lets `resolve` pick a free one."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    def __post_init__(self) -> None:
        for name, port in self.items():
            if not 0 <= port <= 65535:
                raise PortInUse(f"the {name} port is {port}; give 1 to 65535, or 0 for a free one")
        chosen = [port for _, port in self.items() if port]
        if len(set(chosen)) < len(chosen):
            listed = ", ".join(f"{name} {port}" for name, port in self.items())
            raise PortInUse(f"the ports must differ but are {listed}")

    def items(self) -> list[tuple[str, int]]:
        """Name and port, in the order http, grpc, metrics."""
        return [("http", self.http), ("grpc", self.grpc), ("metrics", self.metrics)]

    def resolve(self, host: str) -> Ports:
        """Check that every port is free on `host` and replace each 0 by a free port.

        Raises:
            PortInUse: names each taken port.
            UnfitEnvironment: this machine has no such address, or the ports need more rights.
        """
        taken: list[str] = []
        found: dict[str, int] = {}
        with ExitStack() as held:  # hold all of them until the end, so that the free ones differ
            for name, port in self.items():
                try:
                    found[name] = held.enter_context(_bound(host, port)).getsockname()[1]
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise UnfitEnvironment(
                            f"cannot listen on {host} port {port} ({name}): {error.strerror or error}; "
                            "give another --host or port"
                        ) from error
                    taken.append(f"{port} ({name})")
        if taken:
            raise PortInUse(
                f"taken on {host}: port {', port '.join(taken)}; stop what listens there, or choose others "
                "with --http-port, --grpc-port and --metrics-port (0 picks a free one)"
            )
        return Ports(**found)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUrls:
    """Where a server answers."""

    http: str
    grpc: str
    metrics: str

    @classmethod
    def of(cls, host: str, ports: Ports) -> ServerUrls:
        """The addresses on `host`."""
        name = f"[{host}]" if ":" in host else host
        return cls(
            http=f"http://{name}:{ports.http}",
            grpc=f"grpc://{name}:{ports.grpc}",
            metrics=f"http://{name}:{ports.metrics}/metrics",
        )


class InnerPorts:
    """Two loopback ports for Triton itself, which nobody else can get until they are closed.

    A socket is bound to each and does not listen, so every connection is Triton's, which sets SO_REUSEPORT as
    they do and runs as the same user.
    """

    def __init__(self) -> None:
        """Take two free ports."""
        self._holders = [_reserved(), _reserved()]
        self.http, self.grpc = (int(holder.getsockname()[1]) for holder in self._holders)

    def arguments(self) -> list[str]:
        """Triton's arguments that have it listen there."""
        return [
            f"--http-address={LOOPBACK}",
            f"--http-port={self.http}",
            "--reuse-http-port=true",
            f"--grpc-address={LOOPBACK}",
            f"--grpc-port={self.grpc}",
            "--reuse-grpc-port=true",
        ]

    def close(self) -> None:
        """Let others have the ports."""
        for holder in self._holders:
            holder.close()


def listens(host: str, port: int) -> bool:
    """Whether something takes connections there."""
    try:
        socket.create_connection((host, port), timeout=5.0).close()
    except OSError:
        return False
    return True


def _reserved() -> socket.socket:
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind((LOOPBACK, 0))
    return holder


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # As servers do: a port whose old connections are in TIME_WAIT is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener
