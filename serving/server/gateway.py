"""The HTTP and gRPC ports of a server: a gateway that lets through to Triton only what Triton can take.

The HTTP front end of Triton 2.51, the one in the `nvidia-pytriton` wheel, has no limit on a request's size
and ends on some malformed requests (see `infer_request`; and a chunked body of a million pieces,
CVE-2025-23310). So Triton itself listens on a loopback port of its own, closed to all but the gateway, which:

- caps a request's size, also of chunked ones, and the time that it may take to arrive;
- checks inference requests, so that a caller's mistake is a 400 that says what was wrong;
- refuses what a text model has no room for (see `turnstile`);
- closes the administrative parts of the protocol to those without the key;
- goes on answering, with 503, while Triton starts or is started anew;
- calls a model ready only if it answers a question (see `questions`).

gRPC has its own part of it (see `grpc_front`). It all runs in a thread with an event loop of its own, and
writes nothing of a request to any log.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ..runtime.errors import InvalidInput, PortInUse, ServerError, UnfitEnvironment
from .access import AccessPolicy, Api
from .defects import defect_logger
from .grpc_front import GrpcFront, GrpcPort
from .http_answers import NAME, error_response, go_on
from .http_port import HttpPort
from .infer_request import InferBody, check_infer
from .questions import Answer, Readiness, Unreachable
from .routes import Route, find_route, methods_of, model_of
from .stubs import says_dead
from .try_it import TryItPage
from .turnstile import ModelFull, Turnstile
from .upstream import Upstream

__all__ = ["DEFAULT_MAX_REQUEST_BYTES", "Gateway", "GatewayLimits"]

DEFAULT_MAX_REQUEST_BYTES = 16 << 20
"""16 MiB: a text of the default `max_text_bytes` with every character escaped in JSON."""
_JSON_LENGTH = "Inference-Header-Content-Length"
_PASSED_BACK = ("Content-Type", _JSON_LENGTH)
_BUFFERED_REQUESTS = 16
_LARGE_BODY = 64 << 10
"""Bytes of a body; a larger one is checked in a thread."""
_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLimits:
    """What the gateway takes.

    Attributes:
        max_request_bytes: largest body. At most sixteen times as much is held for all requests under way;
            one that goes beyond is refused as overload.
        body_timeout: seconds that a body may take to arrive.
        idle_timeout: seconds that a connection may wait for a request.

    Raises:
        ServerError: a limit that is not positive.
    """

    max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES
    body_timeout: float = 60.0
    idle_timeout: float = 75.0

    def __post_init__(self) -> None:
        for name in ("max_request_bytes", "body_timeout", "idle_timeout"):
            if getattr(self, name) <= 0:
                raise ServerError(f"{name} is {getattr(self, name)}; give a positive number")


class _Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(slots=True)
class _Held:
    """Bytes of one request's body that the gateway holds."""

    size: int = 0


class Gateway:
    """Listens on `host` and `port` and passes on to Triton what fits."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        upstream: Upstream,
        access: AccessPolicy,
        limits: GatewayLimits,
        grace: float,
        report: Callable[[str], None] | None = None,
        page: TryItPage | None = None,
        grpc: GrpcPort | None = None,
        turnstile: Turnstile | None = None,
    ) -> None:
        """Describe the gateway; nothing is started yet.

        Args:
            host: address to listen on.
            port: port to listen on.
            upstream: where Triton listens.
            access: what is closed to those without the key.
            limits: what is taken.
            grace: seconds that requests under way may take at a stop.
            report: is told of defects of the gateway.
            page: is served too; an inference then says how long it took (`Server-Timing`).
            grpc: the gRPC port is served too.
            turnstile: lets requests through to the models; by default all.
        """
        self._host = host
        self._port = port
        self._upstream = upstream
        self._access = access
        self._limits = limits
        self._grace = grace
        self._report = report
        self._page = page
        self._turnstile = turnstile or Turnstile()
        self.readiness = Readiness(self._question)
        self._grpc = None
        if grpc is not None:
            self._grpc = GrpcFront(
                grpc,
                access=access,
                max_request_bytes=limits.max_request_bytes,
                fault=self.readiness.fault,
                turnstile=self._turnstile,
                report=report,
            )
        self._room = _BUFFERED_REQUESTS * limits.max_request_bytes
        self._started: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._serving: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._session: Any = None
        self._checking = asyncio.Lock()

    def start(self) -> None:
        """Listen.

        Raises:
            PortInUse, UnfitEnvironment: it cannot listen there.
        """
        self._thread.start()
        try:
            self._started.result(_START_SECONDS)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(f"port {self._port} (http) on {self._host} was taken just now") from error
            raise UnfitEnvironment(
                f"cannot listen on {self._host} port {self._port} (http): {error.strerror or error}"
            ) from error

    def begin_stop(self) -> None:
        """Take no new request. Those under way get `grace` seconds; `join` waits for them."""
        if self._loop is not None and self._stopping is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it has stopped already
                self._loop.call_soon_threadsafe(self._stopping.set)

    def cut_off(self) -> None:
        """Let nothing under way end any more."""
        if self._loop is not None and self._serving is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._serving.cancel)

    def join(self) -> None:
        """Wait until the last request under way has its answer, and every connection is closed."""
        self._thread.join()

    def _run(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):  # cut off
                asyncio.run(self._serve())
        except (OSError, ImportError, PortInUse) as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        import aiohttp
        from aiohttp import web

        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._serving = asyncio.current_task()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0)
        timeout = aiohttp.ClientTimeout(total=None, connect=5.0)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as self._session:
            http = HttpPort(
                web.Server(self._answer),
                self._host,
                self._port,
                self._grace,
                self._report,
                logger=defect_logger(self._report),
                access_log=None,
                auto_decompress=False,
                keepalive_timeout=self._limits.idle_timeout,
            )
            try:
                await http.start()
                if self._grpc is not None:
                    await self._grpc.start()
                self._started.set_result(None)
                await self._stopping.wait()
            finally:
                await asyncio.gather(http.stop(), self._stop_grpc())

    async def _stop_grpc(self) -> None:
        if self._grpc is not None:
            await self._grpc.stop(self._grace)

    async def _answer(self, request: Any) -> Any:
        held = _Held()
        try:
            return await self._pass_on(request, held)
        except _Refused as refused:
            response = error_response(refused.status, refused.message)
            if "Expect" in request.headers:
                response.force_close()  # its body may come, or the next request
            return response
        except InvalidInput as error:
            return error_response(400, str(error))
        except ModelFull as full:
            return error_response(503, str(full))
        finally:
            self._room += held.size

    async def _pass_on(self, request: Any, held: _Held) -> Any:
        from aiohttp import web

        path = request.raw_path.partition("?")[0]
        if self._page is not None:
            resource = self._page.find(request.method, path)
            if resource is not None:
                return web.Response(body=resource.content, headers={**NAME, **resource.headers})
        arrived = time.perf_counter()
        route = self._admitted(request, path)
        body = await self._read(request, held) if request.method == "POST" else b""
        if route.api is Api.HEALTH and path.endswith("/ready"):
            return await self._ready(path)
        if route.api is not Api.INFERENCE:
            return await self._ask_triton(request.method, path, body, {})
        checked = await self._checked(InferBody(body, _json_length(request)))
        begun = time.perf_counter()
        response = await self._infer(path, checked)
        if self._page is not None:
            response.headers["Server-Timing"] = _timing(
                gateway=begun - arrived, model=time.perf_counter() - begun
            )
        return response

    async def _checked(self, body: InferBody) -> InferBody:
        """Check a request; a large one in a thread, one at a time, so that others are answered meanwhile."""
        if len(body.content) <= _LARGE_BODY:
            return check_infer(body)
        async with self._checking:
            return await asyncio.to_thread(check_infer, body)

    async def _infer(self, path: str, checked: InferBody) -> Any:
        model, length = model_of(path) or "", checked.json_length
        headers = {} if length is None else {_JSON_LENGTH: str(length)}
        self._turnstile.enter(model, checked.request_id)
        try:
            return await self._ask_triton("POST", path, checked.content, headers)
        finally:
            self._turnstile.leave(model)

    async def _ready(self, path: str) -> Any:
        """Triton's answer, unless it is yes and a model does not answer."""
        response = await self._ask_triton("GET", path, b"", {})
        if response.status == 200:
            fault = await self.readiness.fault(model_of(path))
            if fault is not None:
                raise _Refused(503, fault)
        return response

    async def _question(self, model: str, body: bytes) -> Answer:
        try:
            response = await self._ask_triton("POST", f"/v2/models/{model}/infer", body, {})
        except _Refused as refused:
            raise Unreachable(refused.message) from None
        return Answer(response.status, response.body)

    def _admitted(self, request: Any, path: str) -> Route:
        """The route of a request that may be made."""
        route = find_route(request.method, path)
        if route is None:
            methods = methods_of(path)
            if methods:
                raise _Refused(405, f"this path takes {' and '.join(methods)}, not {request.method[:20]}")
            raise _Refused(404, "there is no such path; see the KServe v2 protocol")
        if not self._access.admits(route.api, request.headers):
            raise _Refused(403, f"this API ({route.api.value}) is restricted, expecting header 'admin-key'")
        return route

    async def _read(self, request: Any, held: _Held) -> bytes:
        """Read the body, as far as there is room for it."""
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _Refused(415, "the body has a Content-Encoding; send it as it is")
        self._check_size(request.content_length or 0)
        if not await go_on(request):
            raise _Refused(417, "the header Expect holds something else than 100-continue")
        try:
            return await asyncio.wait_for(self._collect(request.content, held), self._limits.body_timeout)
        except asyncio.TimeoutError:
            raise _Refused(408, f"no whole body within {self._limits.body_timeout:g} seconds") from None

    async def _collect(self, pieces: Any, held: _Held) -> bytes:
        body = bytearray()
        async for piece in pieces.iter_any():
            body += piece
            held.size += len(piece)
            self._room -= len(piece)
            self._check_size(len(body))
            if self._room < 0:
                raise _Refused(503, "the gateway is overloaded: too many bytes wait here; try again later")
        return bytes(body)

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_request_bytes:
            raise _Refused(
                413, f"the body has more than {self._limits.max_request_bytes} bytes (--max-request-bytes)"
            )

    async def _ask_triton(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Any:
        import aiohttp
        from aiohttp import web
        from yarl import URL

        url = URL(f"http://127.0.0.1:{self._upstream.port}{path}", encoded=True)
        try:
            async with self._session.request(
                method, url, data=body, headers={**self._upstream.headers, **headers}, allow_redirects=False
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError):
            raise _Refused(503, "Triton does not answer: it is starting, stopping, or has ended") from None
        status = response.status
        if status == 500 and says_dead(content.decode(errors="replace")):
            status = 503
        passed_back = {name: response.headers[name] for name in _PASSED_BACK if name in response.headers}
        return web.Response(status=status, body=content, headers={**NAME, **passed_back})


def _timing(**seconds: float) -> str:
    """Steps in the form of the header `Server-Timing` (W3C), which counts milliseconds."""
    return ", ".join(f"{name};dur={value * 1000:.1f}" for name, value in seconds.items())


def _json_length(request: Any) -> int | None:
    text = request.headers.get(_JSON_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _Refused(400, f"the header {_JSON_LENGTH} is no whole number from 0 on")
    return int(text)
