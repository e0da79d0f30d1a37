"""Keeping a server alive: it is started anew when Triton, or a process of one of its models, has ended."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from ..runtime.errors import ServerError, ServerFailed
from .process import TritonServer

__all__ = ["DEFAULT_RESTARTS", "Supervisor"]

DEFAULT_RESTARTS = 5
_WINDOW_SECONDS = 600.0
_POLL_SECONDS = 0.25


class Supervisor:
    """Watches a started server.

    Without it a model whose process has died answers every request with an error from then on, while Triton
    goes on saying that it is ready.
    """

    def __init__(
        self, server: TritonServer, report: Callable[[str], None], *, restarts: int = DEFAULT_RESTARTS
    ) -> None:
        """Describe the watch; nothing is watched yet.

        Args:
            server: started and ready.
            report: is told of each restart, in a line.
            restarts: most restarts within ten minutes; 0: the first death ends the watch.

        Raises:
            ServerError: `restarts` is negative.
        """
        if restarts < 0:
            raise ServerError(f"restarts is {restarts}; give 0 or more")
        self._server = server
        self._report = report
        self._restarts = restarts
        self._times: deque[float] = deque()

    def watch(self, check: Callable[[], None]) -> NoReturn:
        """Restart the server as often as it takes.

        Args:
            check: is called all the time; what it raises ends the watch.

        Raises:
            ServerFailed: it died too often, or does not come up again.
        """
        while True:
            check()
            self.look()
            self._server.wait(_POLL_SECONDS)

    def look(self) -> bool:
        """Restart the server if something of it has ended; return whether that was so.

        Raises:
            ServerFailed: see `watch`.
        """
        ailment = self._server.ailment()
        if ailment is None:
            return False
        now = time.monotonic()
        while self._times and now - self._times[0] > _WINDOW_SECONDS:
            self._times.popleft()
        if len(self._times) >= self._restarts:
            died = f"{ailment}; its last lines:\n{self._server.last_lines()}"
            if self._restarts == 0:
                raise ServerFailed(died)
            raise ServerFailed(
                f"gave up after {self._restarts} restarts within {_WINDOW_SECONDS:g} s: {died}"
            )
        self._times.append(now)
        self._report(f"{ailment}; starting Triton anew")
        self._server.restart()
        self._report(f"ready again after {time.monotonic() - now:.1f} s")
        return True
