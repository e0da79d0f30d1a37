"""Ends a model's process that stood still, because Triton would give its answers to the wrong requests.

While a process of Triton's python backend executes requests, Triton looks every second whether it has shown
life, which a thread of the process does every 0.3 s. One that stood still for longer (the machine was
suspended or moved, the container frozen, the clock put forward) is taken for dead: Triton answers its
requests with "is not healthy", but neither ends the process nor remembers that an answer is still to come. It
takes that for the answer to the next requests, and frees their memory before the process has read it
(python_backend: `ReceiveMessageFromStub` in stub_launcher.cc, `ProcessRequests` in python_be.cc). With Triton
2.51, an encoder that was stopped for a second gave the next caller the logits of the request before.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

__all__ = ["LIMIT", "PauseWatch", "Times"]

LIMIT = 0.6
"""Seconds without life that are too many: Triton's second, less 0.3 s between two signs, less a reserve."""

_PERIOD = 0.05
_BEFORE = 1.0
"""Seconds between the end of a pause and an execution that Triton may have handed over before it."""
_AFTER = 0.2
"""Seconds after an execution within which Triton has taken its answer."""
_STATUS = 1
_STDERR = 2


class Times(NamedTuple):
    """What the clocks show, in seconds.

    Attributes:
        wall: the clock that Triton's waiting goes by, which may be put forward.
        monotonic: the clock that nobody sets.
        processor: processor time of this process.
    """

    wall: float
    monotonic: float
    processor: float

    @classmethod
    def now(cls) -> Times:
        """Read them."""
        return cls(time.time(), time.monotonic(), time.process_time())

    def stood_still_since(self, before: Times) -> float:
        """Seconds in which the process did nothing. What it computed, with the interpreter held, is none."""
        passed = max(self.wall - before.wall, self.monotonic - before.monotonic)
        return passed - (self.processor - before.processor)


class PauseWatch:
    """Looks all the time whether the process stood still while Triton waited for it."""

    def __init__(
        self,
        *,
        end: Callable[[float], None] | None = None,
        times: Callable[[], Times] = Times.now,
        background: bool = True,
    ) -> None:
        """Begin to look.

        Args:
            end: is told how many seconds the process stood still; ends the process if None is given.
            times: reads the clocks.
            background: look in a thread too, and not only when asked.
        """
        self._end = end or _end_process
        self._times = times
        self._lock = threading.Lock()
        self._seen = times()
        self._executing = False
        self._ended = self._resumed = float("-inf")
        self._paused = 0.0
        self._closed = threading.Event()
        if background:
            threading.Thread(target=self._run, name="pauses", daemon=True).start()

    @contextmanager
    def executing(self) -> Iterator[None]:
        """Triton waits for what is done in here. Whoever answers in here looks first."""
        with self._lock:
            paused = self._look()
            if self._seen.monotonic - self._resumed < _BEFORE:
                paused = self._paused
            self._executing = True
        self._judge(paused)
        try:
            yield
        finally:
            with self._lock:
                paused = self._look()
                self._executing = False
                self._ended = self._seen.monotonic
            self._judge(paused)

    def look(self) -> None:
        """End the process if it stood still while Triton waited."""
        with self._lock:
            paused = self._look()
        self._judge(paused)

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _look(self) -> float:
        """Return for how long the process stood still since the last look, if Triton waited then; else 0."""
        before, self._seen = self._seen, self._times()
        paused = self._seen.stood_still_since(before)
        if paused < LIMIT:
            return 0.0
        self._paused, self._resumed = paused, self._seen.monotonic
        waited = self._executing or before.monotonic - self._ended < _AFTER
        return paused if waited else 0.0

    def _judge(self, paused: float) -> None:
        if paused:
            self._end(paused)

    def _run(self) -> None:
        while not self._closed.wait(_PERIOD):
            self.look()


def _end_process(paused: float) -> None:
    """Say why, as Triton writes its log, and end without anything that could still send an answer."""
    now = time.time()
    stamp = time.strftime("%m%d %H:%M:%S", time.gmtime(now))
    reason = (
        f"this process stood still for {paused:.1f} s while Triton waited for it; it ends, because Triton "
        "would take its next answer for that of another request"
    )
    line = f"E{stamp}.{int(now % 1 * 1e6):06} {os.getpid()} pauses.py:1] {reason}\n"
    os.write(_STDERR, line.encode())
    os._exit(_STATUS)
