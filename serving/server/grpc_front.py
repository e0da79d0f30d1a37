"""The gRPC port of a server: what the gateway is for HTTP.

Triton 2.51 ends when a call is cancelled, or its deadline passes, in the moment that Triton takes it up
(triton-inference-server/server, issues 7368 and 8034, fixed in later releases), and a cancelled call may keep
it from stopping in order. A message may have 2 GiB there, and a dimension of 2^61 + 1 ends a model's process.
So Triton listens on a loopback port of its own, closed to all but this front, which:

- never cancels a call at Triton: one whose client has gone runs to its end, or to the `timeout` that it
  carries, for which the client's deadline stands where there is none;
- caps a message's size, the bytes that wait here together, and the number of calls under way;
- checks the tensors' shapes, and refuses what a text model has no room for (see `turnstile`);
- closes the administrative parts of the protocol to those without the key;
- calls a model ready only if it answers a question (see `questions`).

A `ModelStreamInfer` is served by single calls, as every model of ours gives one response to a request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn

from ..runtime.errors import InvalidInput, PortInUse
from .access import ADMIN_HEADER, AccessPolicy, Api
from .defects import DEFECT, describe_defect
from .descriptors import connections_allowed
from .infer_message import check_infer_message, count_fields
from .stubs import says_dead
from .turnstile import ModelFull, Turnstile

__all__ = ["GRPC_KEY_PREFIX", "GrpcFront", "GrpcPort"]

GRPC_KEY_PREFIX = "triton-grpc-protocol-"
"""What Triton puts before the name of a key that opens a restricted protocol, to have the metadata's name."""
_SERVICE = "/inference.GRPCInferenceService/"
_HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"
"""A `grpc.health.v1.HealthCheckResponse` with status 1 and 2."""
_APIS: Mapping[str, Api] = MappingProxyType(
    {
        "ServerLive": Api.HEALTH,
        "ServerReady": Api.HEALTH,
        "ModelReady": Api.HEALTH,
        "ServerMetadata": Api.METADATA,
        "ModelMetadata": Api.METADATA,
        "ModelInfer": Api.INFERENCE,
        "ModelStreamInfer": Api.INFERENCE,
        "ModelConfig": Api.MODEL_CONFIG,
        "ModelStatistics": Api.STATISTICS,
        "RepositoryIndex": Api.MODEL_REPOSITORY,
        "RepositoryModelLoad": Api.MODEL_REPOSITORY,
        "RepositoryModelUnload": Api.MODEL_REPOSITORY,
        "SystemSharedMemoryStatus": Api.SHARED_MEMORY,
        "SystemSharedMemoryRegister": Api.SHARED_MEMORY,
        "SystemSharedMemoryUnregister": Api.SHARED_MEMORY,
        "CudaSharedMemoryStatus": Api.SHARED_MEMORY,
        "CudaSharedMemoryRegister": Api.SHARED_MEMORY,
        "CudaSharedMemoryUnregister": Api.SHARED_MEMORY,
        "TraceSetting": Api.TRACE,
        "LogSettings": Api.LOGGING,
    }
)
"""The methods of the service (`grpc_service.proto` of triton-inference-server/common) and the part of the
protocol that each belongs to."""
_MOST_CALLS = 1024
_MOST_IN_A_STREAM = 64
_BUFFERED_REQUESTS = 16
_TIMEOUT = "timeout"
_MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcPort:
    """Where the front listens, and where Triton does.

    Attributes:
        host: address to listen on.
        port: port to listen on.
        upstream: Triton's own gRPC port on the loopback.
        metadata: opens it.
    """

    host: str
    port: int
    upstream: int
    metadata: tuple[tuple[str, str], ...]


class _Failed(Exception):
    """A call that ends with an error."""

    def __init__(self, code: Any, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.request_id = ""


class GrpcFront:
    """Listens and passes on to Triton what fits. All of it runs in the event loop that starts it."""

    def __init__(
        self,
        where: GrpcPort,
        *,
        access: AccessPolicy,
        max_request_bytes: int,
        fault: Callable[[str | None], Awaitable[str | None]],
        turnstile: Turnstile,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Describe the front; nothing is started yet.

        Args:
            where: the ports.
            access: what is closed to those without the key.
            max_request_bytes: largest message.
            fault: why a model, or with None the server, does not answer although Triton calls it ready.
            turnstile: lets requests through to the models.
            report: is told of defects of the front.
        """
        self._where = where
        self._access = access
        self._max_request_bytes = max_request_bytes
        self._room = _BUFFERED_REQUESTS * max_request_bytes
        self._fault = fault
        self._turnstile = turnstile
        self._report = report
        self._under_way: set[asyncio.Task[bytes]] = set()
        self._server: Any = None
        self._channel: Any = None
        self._methods: dict[str, Any] = {}

    async def start(self) -> None:
        """Listen.

        Raises:
            PortInUse: it cannot listen there.
        """
        import grpc
        from google.protobuf.message import DecodeError
        from tritonclient.grpc import service_pb2

        self._grpc, self._messages, self._malformed = grpc, service_pb2, DecodeError
        self._channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{self._where.upstream}",
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.min_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 250),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_retries", 0),  # they may take all memory: see `grpc_messages` of the client
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._server = grpc.aio.server(
            handlers=[self],
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", self._max_request_bytes),
                ("grpc.so_reuseport", 0),
                ("grpc.max_allowed_incoming_connections", connections_allowed()),
            ],
        )
        host = f"[{self._where.host}]" if ":" in self._where.host else self._where.host
        try:
            self._server.add_insecure_port(f"{host}:{self._where.port}")
        except RuntimeError as error:
            raise PortInUse(f"cannot listen on {host} port {self._where.port} (grpc): {error}") from error
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Take no new call; those under way get `grace` seconds, also where the client has gone."""
        end = time.monotonic() + grace
        if self._server is not None:
            await self._server.stop(grace)
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=max(0.0, end - time.monotonic()))
        if self._channel is not None:
            await self._channel.close()

    def service(self, call: Any) -> Any:
        """Return what handles a method (`grpc.GenericRpcHandler`); None: there is no such method."""
        name = call.method.removeprefix(_SERVICE)
        api = Api.HEALTH if call.method == _HEALTH_CHECK else _APIS.get(name)
        if api is None:
            return None
        if name == "ModelStreamInfer":
            return self._grpc.stream_stream_rpc_method_handler(self._stream)
        handle = {
            _HEALTH_CHECK: self._health_check,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ModelInfer": self._infer,
        }.get(name)

        async def answer(request: bytes, context: Any) -> bytes:
            try:
                self._admit(api, context)
                if handle is not None:
                    return await handle(request, context)
                return await self._ask_triton(call.method, request)
            except _Failed as failed:
                await self._abort(context, failed)
            except Exception as error:
                defect = self._defect(error)
                await context.abort(defect.code, defect.details)
                raise  # never reached: abort raises

        return self._grpc.unary_unary_rpc_method_handler(answer)

    def _admit(self, api: Api, context: Any) -> None:
        given = dict(context.invocation_metadata() or ())
        name = GRPC_KEY_PREFIX + ADMIN_HEADER
        key = given.get(name, "")
        if not self._access.admits(api, {ADMIN_HEADER: key} if isinstance(key, str) else {}):
            raise _Failed(
                self._grpc.StatusCode.UNAVAILABLE,
                f"This protocol ({api.value}) is restricted, expecting header '{name}'",
            )

    async def _abort(self, context: Any, failed: _Failed) -> NoReturn:
        await context.abort(failed.code, failed.details)
        raise failed  # never reached: abort raises

    async def _infer(self, request: bytes, context: Any) -> bytes:
        request_id = ""
        try:
            message = self._parsed(request)
            request_id = message.id
            check_infer_message(message, len(request))
            remaining = context.time_remaining()
            if remaining is not None and _TIMEOUT not in message.parameters:
                message.parameters[_TIMEOUT].int64_param = max(1, round(remaining * _MICROSECONDS))
            call = self._passed_on(message, len(request))
            del message  # it may be many times as large
            return await asyncio.shield(call)
        except _Failed as failed:
            failed.request_id = request_id
            raise
        except Exception as error:
            ended = self._refused(str(error)) if isinstance(error, InvalidInput) else self._defect(error)
            ended.request_id = request_id
            raise ended from error

    def _parsed(self, request: bytes) -> Any:
        count_fields(request)
        try:
            return self._messages.ModelInferRequest.FromString(request)
        except self._malformed:
            raise InvalidInput("the message is no ModelInferRequest") from None

    def _passed_on(self, message: Any, size: int) -> asyncio.Task[bytes]:
        """Pass a request on to Triton, if there is room for it."""
        if size > self._room or len(self._under_way) >= _MOST_CALLS:
            raise _Failed(
                self._grpc.StatusCode.RESOURCE_EXHAUSTED,
                "the gateway is overloaded: too many requests wait here; try again later",
            )
        content = message.SerializeToString()
        try:
            self._turnstile.enter(message.model_name, message.id)
        except ModelFull as full:
            raise _Failed(self._grpc.StatusCode.UNAVAILABLE, str(full)) from None
        self._room -= size
        call = asyncio.ensure_future(self._ask_triton(f"{_SERVICE}ModelInfer", content))
        self._under_way.add(call)
        call.add_done_callback(partial(self._end, size, message.model_name))
        return call

    def _end(self, size: int, model: str, call: asyncio.Task[bytes]) -> None:
        self._under_way.discard(call)
        self._turnstile.leave(model)
        self._room += size
        if not call.cancelled():
            call.exception()  # if the client has gone, nobody else asks for it

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer each request of a stream as soon as it is done, maybe before an earlier one."""
        try:
            self._admit(Api.INFERENCE, context)
        except _Failed as failed:
            await self._abort(context, failed)
        answers: asyncio.Queue[bytes | None] = asyncio.Queue()
        room = asyncio.Semaphore(_MOST_IN_A_STREAM)

        async def answer(request: bytes) -> None:
            try:
                answers.put_nowait(await self._streamed(request, context))
            finally:
                room.release()

        async def read() -> None:
            pending: set[asyncio.Task[None]] = set()
            async for request in requests:
                await room.acquire()
                task = asyncio.ensure_future(answer(request))
                pending.add(task)
                task.add_done_callback(pending.discard)
            await asyncio.gather(*pending)

        reader = asyncio.ensure_future(read())
        reader.add_done_callback(lambda _: answers.put_nowait(None))
        try:
            while (one := await answers.get()) is not None:
                yield one
            await reader  # it may have failed
        finally:
            reader.cancel()

    async def _streamed(self, request: bytes, context: Any) -> bytes:
        """A `ModelStreamInferResponse`, which carries an error as text."""
        answer = self._messages.ModelStreamInferResponse()
        try:
            content = await self._infer(request, context)
        except _Failed as failed:
            answer.error_message = failed.details
            answer.infer_response.id = failed.request_id  # as Triton does, so that one knows which failed
        else:
            answer.infer_response.ParseFromString(content)
        return bytes(answer.SerializeToString())

    async def _server_ready(self, request: bytes, context: Any) -> bytes:
        content = await self._ask_triton(f"{_SERVICE}ServerReady", request)
        answer = self._messages.ServerReadyResponse.FromString(content)
        return await self._truly_ready(answer, None)

    async def _model_ready(self, request: bytes, context: Any) -> bytes:
        content = await self._ask_triton(f"{_SERVICE}ModelReady", request)
        answer = self._messages.ModelReadyResponse.FromString(content)
        return await self._truly_ready(answer, self._messages.ModelReadyRequest.FromString(request).name)

    async def _truly_ready(self, answer: Any, model: str | None) -> bytes:
        answer.ready = answer.ready and await self._fault(model) is None
        return bytes(answer.SerializeToString())

    async def _health_check(self, request: bytes, context: Any) -> bytes:
        content = await self._ask_triton(_HEALTH_CHECK, request)
        return content if content != _SERVING or await self._fault(None) is None else _NOT_SERVING

    async def _ask_triton(self, method: str, request: bytes) -> bytes:
        """Ask Triton, and wait for its answer however long that takes."""
        ask = self._methods.get(method)
        if ask is None:
            ask = self._methods[method] = self._channel.unary_unary(method)
        try:
            return bytes(await ask(request, metadata=self._where.metadata))
        except self._grpc.aio.AioRpcError as error:
            raise self._failed(error.code(), error.details() or "") from None

    def _failed(self, code: Any, details: str) -> _Failed:
        codes = self._grpc.StatusCode
        if code is codes.UNAVAILABLE and f"127.0.0.1:{self._where.upstream}" in details:
            details = "Triton does not answer: it is starting, stopping, or has ended"
        if code is codes.INTERNAL and says_dead(details):
            code = codes.UNAVAILABLE
        return _Failed(code, details)

    def _defect(self, error: Exception) -> _Failed:
        if self._report is not None:
            self._report(describe_defect(error))
        return _Failed(self._grpc.StatusCode.INTERNAL, DEFECT)

    def _refused(self, message: str) -> _Failed:
        return _Failed(self._grpc.StatusCode.INVALID_ARGUMENT, message)
