"""The address of a server, as the caller writes it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from ..runtime.errors import InvalidInput

__all__ = ["Address", "parse_address"]

_DEFAULT_PORTS = {"grpc": 8001, "grpcs": 443, "http": 8000, "https": 443}
"""Triton's own defaults; it has none with TLS, which mostly ends at a proxy on the port of HTTPS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server listens.

    Attributes:
        scheme: protocol, `grpc` or `http`, or with TLS `grpcs` or `https`.
        host: name or address, IPv6 without brackets.
        port: TCP port.
        path: prefix of every HTTP path, "" or `/base`.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def uses_grpc(self) -> bool:
        """Whether the protocol is gRPC, else it is HTTP."""
        return self.scheme.startswith("grpc")

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme.endswith("s")

    @property
    def authority(self) -> str:
        """`host:port`, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_address(url: str) -> Address:
    """Parse `grpc://host[:port]` or `http://host[:port][/base]`, or `grpcs://` and `https://` with TLS.

    The protocol must be named: the ports of gRPC (8001) and HTTP (8000) differ, and a guess would fail
    obscurely. Without a port it is Triton's default, with TLS 443.

    Raises:
        InvalidInput: another or no protocol, no host, or a port that is none.
    """
    remedy = (
        "give grpc://HOST:PORT or http://HOST:PORT (Triton's defaults: grpc 8001, http 8000), "
        "grpcs:// or https:// with TLS"
    )
    if not isinstance(url, str):
        raise InvalidInput(f"the server's url is of type {type(url).__name__}; {remedy}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidInput(f"the server's url is {url!r} ({error}); {remedy}") from None
    if "://" not in url or parts.scheme not in _DEFAULT_PORTS:
        raise InvalidInput(f"the server's url is {url!r}, which names no protocol it can use; {remedy}")
    if not parts.hostname or port == 0:
        raise InvalidInput(f"the server's url is {url!r}, which names no host and port; {remedy}")
    if "@" in parts.netloc:
        raise InvalidInput(f"the server's url has a user or password before its host; {remedy}")
    path = parts.path.rstrip("/")
    if parts.query or parts.fragment or (path and parts.scheme.startswith("grpc")):
        raise InvalidInput(f"the server's url is {url!r}, which says more than host and port; {remedy}")
    return Address(
        scheme=parts.scheme, host=parts.hostname, port=port or _DEFAULT_PORTS[parts.scheme], path=path
    )
