"""The threads in which a client sends several requests at a time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from ..runtime.errors import RequestError
from .forks import renew_after_fork

__all__ = ["Workers"]


class Workers:
    """Threads that are made when they are needed first; a forked process makes its own."""

    def __init__(self, threads: int, server: str) -> None:
        """Make none yet.

        Args:
            threads: most of them.
            server: the client's, for messages.
        """
        self._threads, self._server = threads, server
        self._closed = False
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        renew_after_fork(self, Workers._renew)

    def open(self) -> ThreadPoolExecutor:
        """Return their executor.

        Raises:
            RequestError: it is closed.
        """
        with self._lock:
            self.check_open()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="longserve-client")
            return self._executor

    def check_open(self) -> None:
        """Raise a `RequestError` if it is closed."""
        if self._closed:
            raise RequestError(f"the client of {self._server} is closed; open a new one")

    def close(self) -> bool:
        """Let them end what they do, and begin nothing more; return whether that is new."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        return True

    def _renew(self) -> None:
        self._lock, self._executor = threading.Lock(), None
