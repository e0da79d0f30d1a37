"""The KServe v2 protocol over gRPC, by tritonclient."""

from __future__ import annotations

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

__all__ = ["GrpcTransport"]


class GrpcTransport:
    """One gRPC channel. tritonclient's unary calls on it are thread-safe, as its docstring says."""

    def __init__(self, connection: Connection) -> None:
        """Prepare the channel; it connects with the first call.

        Raises:
            RequestError: tritonclient is not installed.
            InvalidInput: a TLS file cannot be read.
        """
        try:
            import tritonclient.grpc
        except ImportError as error:
            raise RequestError(
                f"tritonclient's gRPC client cannot be imported ({error}); install 'longserve[client]'"
            ) from error
        self._grpc: Any = tritonclient.grpc
        self._server = str(connection.address)
        self._headers = sent_headers(connection)
        self._client = tritonclient.grpc.InferenceServerClient(**channel_options(connection))

    def infer(self, call: InferenceCall, timeout: float) -> Outputs:
        """See `Transport.infer`."""
        arguments = infer_arguments(self._grpc, call, timeout)
        with grpc_failures(self._grpc, lambda: call.at(self._server), ValueError, timeout):
            result = self._client.infer(**arguments, headers=self._headers)
        return read_outputs(self._grpc, result, call, self._server)

    def ask(self, inquiry: Inquiry, timeout: float) -> Any:
        """See `Transport.ask`."""
        method, arguments = inquire(inquiry)
        with grpc_failures(self._grpc, lambda: inquiry.at(self._server), ValueError, timeout):
            answer = getattr(self._client, method)(**arguments, headers=self._headers, client_timeout=timeout)
        return read_inquiry(inquiry, answer)

    def close(self) -> None:
        """Close the channel; calls in flight end as `ServerUnavailable`."""
        self._client.close()
