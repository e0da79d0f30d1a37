"""How a client reaches its server, beyond the address: TLS and headers."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ..runtime.errors import InvalidInput
from .address import Address

__all__ = ["Connection", "Tls", "make_connection"]

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""A token of RFC 9110, section 5.6.2."""
_OURS = {"content-type", "content-length", "content-encoding", "transfer-encoding", "host", "connection"}
_OURS |= {"inference-header-content-length", "expect", "te", "upgrade"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Certificates for `grpcs://` and `https://`, as paths of PEM files.

    Attributes:
        ca: certificates of the authorities to trust; the system's (HTTP) or gRPC's own by default.
        cert: this client's certificate chain, for a server that asks for one.
        key: the private key that belongs to `cert`, without a passphrase.

    Raises:
        InvalidInput: a file cannot be read, or `cert` and `key` are not given together.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InvalidInput("a client certificate needs both cert and key; give both, or neither")
        for name in ("ca", "cert", "key"):
            self.read(name)

    def read(self, name: str) -> bytes | None:
        """Return the content of the file `ca`, `cert` or `key`, or None where it was not given."""
        path = getattr(self, name)
        if path is None:
            return None
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise InvalidInput(
                f"the TLS file {name}={str(path)!r} cannot be read: {error.strerror}; give a PEM file's path"
            ) from error

    def context(self) -> ssl.SSLContext:
        """Return what the HTTP transports connect with: the certificate and the host's name are checked.

        Raises:
            InvalidInput: a file is no PEM, or key and certificate do not belong together.
        """
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
            if self.cert is not None:
                # A password here keeps OpenSSL from asking for one on the terminal
                context.load_cert_chain(str(self.cert), None if self.key is None else str(self.key), b"")
        except (ssl.SSLError, ValueError) as error:
            raise InvalidInput(
                f"the TLS files cannot be used ({error}); give PEM files, a certificate with its own key"
            ) from error
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What every transport is made from.

    Attributes:
        address: where the server listens.
        tls: certificates; only for an address with TLS.
        headers: sent with every request. They may be secret and are in no message and no `repr`.
    """

    address: Address
    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)


def make_connection(address: Address, tls: Tls | None, headers: Mapping[str, str] | None) -> Connection:
    """Check that the parts fit together.

    Raises:
        InvalidInput: TLS options for an address without TLS, or a header that cannot be sent.
    """
    if tls is not None and not address.uses_tls:
        raise InvalidInput(f"tls is given but {address} is without TLS; use {address.scheme}s://")
    checked = {}
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidInput(f"a header has the name {name!r}; use letters, digits and '-'")
        lower = name.lower()  # gRPC takes no other, and HTTP does not mind
        if lower in _OURS or lower.endswith("-bin") or lower.startswith("grpc-"):
            raise InvalidInput(f"the header {name!r} belongs to the protocol; leave it out")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise InvalidInput(f"the value of the header {name!r} is not printable ASCII text; encode it")
        checked[lower] = value
    return Connection(address=address, tls=tls, headers=MappingProxyType(checked))
