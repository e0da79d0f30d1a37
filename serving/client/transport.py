"""What the clients need of a protocol."""

from __future__ import annotations

from typing import Any, Protocol

from .calls import InferenceCall, Outputs
from .connection import Connection
from .inquiries import Inquiry

__all__ = ["AsyncTransport", "Transport", "open_async_transport", "open_transport"]


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

    def ask(self, inquiry: Inquiry, timeout: float) -> Any:
        """Ask about the server or a model; return the answer's JSON as HTTP gives it, a bool for readiness.

        Args:
            inquiry: what is asked.
            timeout: seconds until the answer must be there.

        Raises:
            RequestError: one of its kinds; see `serving/runtime/errors.py`.
        """
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class AsyncTransport(Protocol):
    """Carries calls to one server, from one event loop. The methods are those of `Transport`."""

    async def infer(self, call: InferenceCall, timeout: float) -> Outputs:
        """See `Transport.infer`. A cancelled call is given up at once."""
        ...

    async def ask(self, inquiry: Inquiry, timeout: float) -> Any:
        """See `Transport.ask`."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


def open_transport(connection: Connection) -> Transport:
    """Return a transport for the address's protocol. No connection is made yet.

    Raises:
        RequestError: tritonclient is not installed.
        InvalidInput: a TLS file cannot be used.
    """
    if connection.address.uses_grpc:
        from .grpc_transport import GrpcTransport

        return GrpcTransport(connection)
    from .http_transport import HttpTransport

    return HttpTransport(connection)


def open_async_transport(connection: Connection) -> AsyncTransport:
    """As `open_transport`, for asyncio."""
    if connection.address.uses_grpc:
        from .aio_grpc_transport import AioGrpcTransport

        return AioGrpcTransport(connection)
    from .aio_http_transport import AioHttpTransport

    return AioHttpTransport(connection)
