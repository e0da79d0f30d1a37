"""What the gateway itself answers over HTTP."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["NAME", "error_response", "go_on"]

NAME = {"Server": "longserve"}
"""Instead of the versions of Python and aiohttp."""


def error_response(status: int, message: str) -> Any:
    """The answer to what is refused, in the form of the v2 protocol: an `aiohttp.web.Response`."""
    from aiohttp import web

    text = json.dumps({"error": message})
    return web.Response(status=status, text=text, content_type="application/json", headers=NAME)


async def go_on(request: Any) -> bool:
    """Have a client send the body for which it waits to be asked (RFC 9110, section 10.1.1).

    Returns:
        False: it waits for something else, that nobody knows.
    """
    from aiohttp import HttpVersion11

    expected = request.headers.get("Expect", "").lower()
    if request.version < HttpVersion11 or not expected:
        return True
    if expected == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun yet
    return bool(expected == "100-continue")
