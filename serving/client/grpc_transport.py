"""The KServe v2 protocol over gRPC, by tritonclient."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..runtime.errors import InferenceFailed, RequestError
from .address import Address
from .calls import InferenceCall, Outputs
from .failures import failure

__all__ = ["GrpcTransport"]

_CHANNEL_ARGUMENTS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC's default backoff grows to two minutes, in which a restarted server would look dead
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # as the HTTP transport: proxies of the environment are for the web, not for a model server
    ("grpc.enable_http_proxy", 0),
    # one connection per transport, not shared with others to the same address in this process
    ("grpc.use_local_subchannel_pool", 1),
]


class GrpcTransport:
    """One gRPC channel. tritonclient's unary calls on it are thread-safe, as its docstring says."""

    def __init__(self, address: Address) -> None:
        """Prepare the channel; it connects with the first call.

        Raises:
            RequestError: tritonclient is not installed.
        """
        try:
            import tritonclient.grpc
        except ImportError as error:
            raise RequestError(
                f"tritonclient's gRPC client cannot be imported ({error}); install 'longserve[client]'"
            ) from error
        self._grpc: Any = tritonclient.grpc
        self._server = str(address)
        self._client = tritonclient.grpc.InferenceServerClient(
            address.authority, channel_args=_CHANNEL_ARGUMENTS
        )

    def infer(self, call: InferenceCall, timeout: float) -> Outputs:
        """See `Transport.infer`."""
        inputs = []
        for name, text in call.inputs.items():
            tensor = self._grpc.InferInput(name, [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[text]], dtype=np.object_))
            inputs.append(tensor)
        try:
            result = self._client.infer(
                call.model,
                inputs,
                timeout=int(timeout * 1e6),
                client_timeout=timeout,
                parameters=dict(call.parameters),
            )
        except self._grpc.InferenceServerException as error:
            raise failure(error.status(), error.message(), model=call.model, server=self._server) from error
        except ValueError as error:  # what grpc raises on a channel that another thread has just closed
            raise RequestError(f"the client of {self._server} is closed ({error}); open a new one") from error
        try:
            return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}
        except (ValueError, TypeError, KeyError, IndexError, self._grpc.InferenceServerException) as error:
            raise InferenceFailed(
                f"{call.model} at {self._server} returned tensors that cannot be read: {error}"
            ) from error

    def server_ready(self, timeout: float) -> bool:
        """See `Transport.server_ready`."""
        try:
            return bool(self._client.is_server_ready(client_timeout=timeout))
        except self._grpc.InferenceServerException:
            return False

    def close(self) -> None:
        """Close the channel; calls in flight end as `ServerUnavailable`."""
        self._client.close()
