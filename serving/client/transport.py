"""What a client needs of a protocol."""

from __future__ import annotations

from typing import Protocol

from .address import Address
from .calls import InferenceCall, Outputs

__all__ = ["Transport", "open_transport"]


class Transport(Protocol):
    """Carries calls to one server. Every method may be called from any thread."""

    def infer(self, call: InferenceCall, timeout: float) -> Outputs:
        """Send a request and return the response's tensors.

        Args:
            call: the request.
            timeout: seconds until the answer must be there.

        Raises:
            InvalidInput: the server refused the input.
            RequestError: one of its kinds; see `serving/runtime/errors.py`.
        """
        ...

    def server_ready(self, timeout: float) -> bool:
        """Return whether the server answers and says that it is ready.

        Args:
            timeout: seconds to wait for the answer.
        """
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


def open_transport(address: Address) -> Transport:
    """Return a transport for the address's protocol. No connection is made yet.

    Raises:
        RequestError: tritonclient is not installed.
    """
    if address.scheme == "grpc":
        from .grpc_transport import GrpcTransport

        return GrpcTransport(address)
    from .http_transport import HttpTransport

    return HttpTransport(address)
