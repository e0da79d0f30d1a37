"""The KServe v2 protocol over gRPC for asyncio, by tritonclient."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..runtime.errors import RequestError
from .calls import InferenceCall, Outputs
from .connection import Connection
from .grpc_messages import (
    channel_options,
    grpc_failures,
    infer_arguments,
    inquire,
    read_inquiry,
    read_outputs,
    sent_headers,
)
from .inquiries import Inquiry

__all__ = ["AioGrpcTransport"]


class AioGrpcTransport:
    """One grpc.aio channel, which belongs to the event loop of its first call."""

    def __init__(self, connection: Connection) -> None:
        """Prepare the transport; the channel is made with the first call.

        Raises:
            RequestError: tritonclient is not installed.
            InvalidInput: a TLS file cannot be read.
        """
        try:
            import grpc.aio
            import tritonclient.grpc
            import tritonclient.grpc.aio
        except ImportError as error:
            raise RequestError(
                f"tritonclient's gRPC client cannot be imported ({error}); install 'longserve[client]'"
            ) from error
        self._grpc: Any = tritonclient.grpc
        self._make_client: Any = tritonclient.grpc.aio.InferenceServerClient
        self._usage_error: type[Exception] = grpc.aio.UsageError
        self._server = str(connection.address)
        self._headers = sent_headers(connection)
        self._options = channel_options(connection)
        self._client: Any = None
        self._closed = False

    async def infer(self, call: InferenceCall, timeout: float) -> Outputs:
        """See `AsyncTransport.infer`."""
        arguments = infer_arguments(self._grpc, call, timeout)
        with self._failures(call.at, timeout):
            result = await self._open().infer(**arguments, headers=self._headers)
        return read_outputs(self._grpc, result, call, self._server)

    async def ask(self, inquiry: Inquiry, timeout: float) -> Any:
        """See `AsyncTransport.ask`."""
        method, arguments = inquire(inquiry)
        with self._failures(inquiry.at, timeout):
            answer = await getattr(self._open(), method)(
                **arguments, headers=self._headers, client_timeout=timeout
            )
        return read_inquiry(inquiry, answer)

    async def close(self) -> None:
        """Close the channel; calls in flight end as `RequestError`."""
        self._closed = True
        if self._client is not None:
            await self._client.close()

    @contextmanager
    def _failures(self, at: Callable[[str], str], timeout: float) -> Iterator[None]:
        try:
            with grpc_failures(self._grpc, lambda: at(self._server), self._usage_error, timeout):
                yield
        except asyncio.CancelledError as error:
            # grpc.aio cancels what is in flight on a channel that is closed; the task itself is not cancelled
            if not self._closed:
                raise
            raise RequestError(f"{at(self._server)}: the client was closed before the answer") from error

    def _open(self) -> Any:
        if self._client is None:
            self._client = self._make_client(**self._options)
        return self._client
