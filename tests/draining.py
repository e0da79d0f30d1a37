"""A gRPC server that takes no more calls: it accepts a connection and says at once that it goes away."""

from __future__ import annotations

import socket
import struct

__all__ = ["drain"]

_SETTINGS, _GOAWAY = 4, 7
_NO_ERROR = 0


def drain(connection: socket.socket) -> None:
    """Greet, say that no stream is taken (RFC 9113), and hold the connection until either side shuts it."""
    connection.sendall(_frame(_SETTINGS, b"") + _frame(_GOAWAY, struct.pack(">II", 0, _NO_ERROR)))
    while connection.recv(4096):
        pass


def _frame(kind: int, content: bytes) -> bytes:
    """A frame of the connection itself (stream 0) without flags."""
    return len(content).to_bytes(3, "big") + bytes([kind, 0]) + bytes(4) + content
