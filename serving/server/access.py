"""Who may ask a server what: the address that it listens on, and the parts of its protocol that it closes."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from ..runtime.errors import ServerError

__all__ = [
    "ADMINISTRATION",
    "ADMIN_HEADER",
    "AccessPolicy",
    "Api",
    "check_host",
    "closed_apis",
    "is_loopback",
    "read_admin_key",
    "resolve_host",
]

ADMIN_HEADER = "admin-key"
"""HTTP header that carries the key; over gRPC it is the metadata `triton-grpc-protocol-admin-key`, as Triton
has it."""
_SHORTEST_KEY = 16
_KEY_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")


class Api(str, Enum):
    """The parts into which Triton divides its protocol (`tritonserver --help`, `--http-restricted-api`)."""

    HEALTH = "health"
    METADATA = "metadata"
    INFERENCE = "inference"
    SHARED_MEMORY = "shared-memory"
    MODEL_CONFIG = "model-config"
    MODEL_REPOSITORY = "model-repository"
    STATISTICS = "statistics"
    TRACE = "trace"
    LOGGING = "logging"


ADMINISTRATION = frozenset({Api.MODEL_REPOSITORY, Api.SHARED_MEMORY, Api.TRACE, Api.LOGGING})
"""Always closed: who may use them can load code, map the server's memory, or have it write files."""


def closed_apis(*, public: bool) -> frozenset[Api]:
    """What is closed by default: to other machines also the models' configurations, which hold no secret but
    say how the server is built."""
    return ADMINISTRATION | {Api.MODEL_CONFIG} if public else ADMINISTRATION


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPolicy:
    """What a server closes, and the key that opens it.

    Attributes:
        closed: the closed parts of the protocol.
        key: opens them. By default a random one that nobody is told.

    Raises:
        ServerError: the key is short, or has a character that a header could not carry.
    """

    closed: frozenset[Api] = ADMINISTRATION
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    def __post_init__(self) -> None:
        if len(self.key) < _SHORTEST_KEY or not set(self.key) <= _KEY_CHARACTERS:
            raise ServerError(
                f"the admin key has {len(self.key)} characters; give {_SHORTEST_KEY} or more, of letters, "
                "digits, '-', '_', '.' and '~'"
            )

    def admits(self, api: Api, headers: Mapping[str, str]) -> bool:
        """Whether an HTTP request with these headers may use a part of the protocol."""
        if api not in self.closed:
            return True
        given = headers.get(ADMIN_HEADER, "").encode("utf-8", errors="surrogateescape")
        return secrets.compare_digest(given, self.key.encode())


def read_admin_key(path: Path) -> str:
    """Return the key that a file holds, on its first line.

    Raises:
        ServerError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(f"the admin key file {path} cannot be read: {error}") from error
    return lines[0].strip() if lines else ""


def is_loopback(host: str) -> bool:
    """Whether everything that `host` names is this machine's loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0]).split("%")[0]).is_loopback for *_, address in found)


def check_host(host: str, *, public: bool) -> None:
    """Refuse an address that other machines reach, unless that is wanted.

    Raises:
        ServerError: it is not a loopback address, and `public` is False.
    """
    if not public and not is_loopback(host):
        raise ServerError(
            f"{host} is no loopback address: every machine that reaches this one could send requests, which "
            "are neither encrypted nor authenticated; read docs/security.md, then add --public"
        )


def resolve_host(host: str) -> str:
    """Return the IP address that a host means: itself, or of a name the first of IPv4, or else the first.

    Triton takes no names for its metrics. One address stands for all three ports, so that they are the same.

    Raises:
        ServerError: it means none, or one with a zone (`%eth0`), which Triton does not take either.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ServerError(f"{host} is no address of this machine: {error}; give another --host") from error
    address = min(found, key=lambda one: one[0] != socket.AF_INET)[4]
    if "%" in str(address[0]) or address[3:4] not in ((), (0,)):
        raise ServerError(f"{host} has a zone, which Triton does not take; give another --host")
    return str(address[0])
