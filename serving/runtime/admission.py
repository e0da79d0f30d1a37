"""How much a model takes at a time: one more request is refused at once instead of waiting without end."""

from __future__ import annotations

import threading

__all__ = ["Admission", "QUEUE_FULL"]

QUEUE_FULL = "Exceeds maximum queue size"
"""The error of a request that there is no room for, as Triton's own queue says it; clients know it."""


class Admission:
    """Counts the requests that are held, waiting or under way, and their bytes. Thread-safe."""

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        """Start with nothing held.

        Args:
            max_requests: most requests.
            max_bytes: most bytes of all requests together. A single request is always taken.
        """
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._requests = 0
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Requests that are held now."""
        return self._requests

    def enter(self, size: int) -> bool:
        """Hold one more request of `size` bytes; False if there is no room for it."""
        with self._lock:
            full = self._requests >= self._max_requests or self._bytes + size > self._max_bytes
            if full and self._requests > 0:
                return False
            self._requests += 1
            self._bytes += size
            return True

    def leave(self, size: int) -> None:
        """Let go of a request that was held."""
        with self._lock:
            self._requests -= 1
            self._bytes -= size
