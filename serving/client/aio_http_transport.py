"""The KServe v2 protocol over HTTP for asyncio: tritonclient's messages on aiohttp's connections.

tritonclient's own asyncio client is built on aiohttp too, but has no deadline for one request.
"""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

from ..runtime.errors import RequestError
from .calls import InferenceCall, Outputs
from .connection import Connection, Tls
from .failures import failure
from .http_messages import (
    HEADER_LENGTH,
    HttpRequest,
    cut_off,
    import_tritonclient,
    infer_request,
    inquiry_request,
    not_http,
    read_inquiry,
    read_outputs,
)
from .inquiries import Inquiry

if TYPE_CHECKING:
    import aiohttp

__all__ = ["AioHttpTransport"]


class AioHttpTransport:
    """One aiohttp session, which belongs to the event loop of its first call."""

    def __init__(self, connection: Connection) -> None:
        """Prepare the transport; the session is made with the first call.

        Raises:
            RequestError: tritonclient or aiohttp is not installed.
            InvalidInput: a TLS file cannot be used.
        """
        self._http: Any = import_tritonclient()
        try:
            import aiohttp
        except ImportError as error:
            raise RequestError(
                f"aiohttp cannot be imported ({error}); install 'longserve[client]'"
            ) from error
        self._aiohttp = aiohttp
        self._server = str(connection.address)
        # Triton would compress the answers of a client that takes it, at a cost larger than the gain
        self._headers = {**connection.headers, "accept-encoding": "identity"}
        self._tls = (connection.tls or Tls()).context() if connection.address.uses_tls else None
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def infer(self, call: InferenceCall, timeout: float) -> Outputs:
        """See `AsyncTransport.infer`."""
        request = infer_request(self._http, call, timeout, self._server)
        status, header_length, content = await self._exchange(request, timeout)
        return read_outputs(self._http, status, header_length, content, request)

    async def ask(self, inquiry: Inquiry, timeout: float) -> Any:
        """See `AsyncTransport.ask`."""
        request = inquiry_request(inquiry, self._server)
        status, _, content = await self._exchange(request, timeout)
        return read_inquiry(inquiry, status, content, request.where)

    async def close(self) -> None:
        """Close all connections; calls in flight end as `ServerUnavailable`."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _exchange(self, request: HttpRequest, timeout: float) -> tuple[int, str | None, bytes]:
        """Send a request; return the response's status, `Inference-Header-Content-Length` and body."""
        if self._closed:
            raise RequestError(f"{request.where}: the client is closed; open a new one")
        http = self._aiohttp
        try:
            return await self._send(request, timeout)
        except asyncio.TimeoutError as error:
            raise failure("504", f"no answer after {timeout:.3g} s", request.where) from error
        except http.ClientConnectorCertificateError as error:
            raise RequestError(
                f"{request.where}: its certificate is not trusted ({error.certificate_error}); "
                "give its authority's certificate as Tls(ca=…), and the name that it was issued for"
            ) from error
        except (http.ClientConnectorError, http.InvalidURL) as error:
            raise cut_off(str(error), request.where) from error
        except (http.ServerDisconnectedError, http.ClientPayloadError, http.ClientOSError) as error:
            raise cut_off("the server closed the connection", request.where) from error
        except http.ClientResponseError as error:
            raise not_http(error, request.where) from error
        except (http.ClientError, OSError, RuntimeError) as error:  # RuntimeError: closed meanwhile
            raise cut_off(str(error), request.where) from error

    async def _send(self, request: HttpRequest, timeout: float) -> tuple[int, str | None, bytes]:
        # Where an idle connection breaks under a GET, aiohttp sends it again. An inference may have begun: it
        # is sent again if `RetryPolicy` says so.
        async with self._open().request(
            request.method,
            self._server + request.path,
            data=None if request.body is None else io.BytesIO(request.body),
            headers={**self._headers, **request.headers},
            timeout=self._aiohttp.ClientTimeout(total=timeout),
            allow_redirects=False,
        ) as response:
            return response.status, response.headers.get(HEADER_LENGTH), await response.read()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            http = self._aiohttp
            # No limit here: the client bounds what is in flight
            connector = http.TCPConnector(limit=0, ssl=True if self._tls is None else self._tls)
            self._session = http.ClientSession(connector=connector)
        return self._session
