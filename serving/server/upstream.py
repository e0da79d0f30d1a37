"""Triton's own HTTP port, as those see it who stand before it."""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass

from .ports import LOOPBACK

__all__ = ["Upstream"]

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Upstream:
    """Triton's own HTTP port on the loopback, and the headers that open it."""

    port: int
    headers: dict[str, str]

    def ask(self, path: str, body: bytes | None = None) -> bytes | None:
        """Ask Triton itself; None unless it answers 200."""
        # Straight to the server: a proxy of the environment has no business between us and it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://{LOOPBACK}:{self.port}{path}"
        try:
            with opener.open(
                urllib.request.Request(url, data=body, headers=self.headers), timeout=_SECONDS
            ) as response:
                return bytes(response.read())
        except (urllib.error.URLError, OSError):
            return None
