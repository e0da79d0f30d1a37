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
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

__all__ = ["LIMIT", "PauseWatch", "Times"]

LIMIT = 0.6
"""Seconds without life that are too many: Triton's second, less 0.3 s between two signs, less a reserve."""

_PERIOD = 0.05
_STALE = 0.2
"""Seconds after which a look is too old to go by."""
_PATIENCE = 5.0
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
        waits: how often this thread has waited. For the interpreter, which another thread holds, it waits
            again and again, `sys.getswitchinterval()` each time; the process lives then.
    """

    wall: float
    monotonic: float
    waits: int

    @classmethod
    def now(cls) -> Times:
        """Read them; each thread has `waits` of its own."""
        return cls(time.time(), time.monotonic(), resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw)

    def stood_still_since(self, before: Times) -> float:
        """Seconds in which nothing of the process ran, as far as its thread can tell."""
        return self.passed_since(before) - (self.waits - before.waits) * sys.getswitchinterval()

    def passed_since(self, before: Times) -> float:
        """Seconds by the clock that went on further."""
        return max(self.wall - before.wall, self.monotonic - before.monotonic)


class PauseWatch:
    """Looks all the time whether the process stood still while Triton waited for it.

    One thread looks. The others ask it if it has not looked for a while: only a thread that did nothing else
    can tell a process that stood still from one that waited or computed with the interpreter held.
    """

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
            background: look in a thread of its own; else whoever asks looks himself.
        """
        self._end = end or _end_process
        self._times = times
        self._condition = threading.Condition()
        self._looked: Times | None = None
        self._executing = self._closed = False
        self._ended = self._resumed = float("-inf")
        self._paused = 0.0
        self._background = background
        if background:
            threading.Thread(target=self._run, name="pauses", daemon=True).start()
        else:
            self._check()

    @contextmanager
    def executing(self) -> Iterator[None]:
        """Triton waits for what is done in here. Who answers afterwards looks first."""
        self.look()
        with self._condition:
            self._executing = True
            recent = self._times().monotonic - self._resumed < _BEFORE
        if recent:
            self._end(self._paused)
        try:
            yield
        finally:
            self.look()
            with self._condition:
                self._executing = False
                self._ended = self._times().monotonic

    def look(self) -> None:
        """End the process if it stood still while Triton waited."""
        if not self._background:
            self._judge(self._check())
            return
        with self._condition:
            seen = self._looked
            if seen is None or self._times().passed_since(seen) > _STALE:
                self._condition.wait_for(lambda: self._looked is not seen or self._closed, _PATIENCE)

    def close(self) -> None:
        """Look no more."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _run(self) -> None:
        while not self._closed:
            with self._condition:
                paused = self._check()
                self._judge(paused)
                self._condition.notify_all()
            time.sleep(_PERIOD)

    def _judge(self, paused: float) -> None:
        if paused:
            self._end(paused)

    def _check(self) -> float:
        """Return for how long the process stood still since the last look, if Triton waited then; else 0."""
        before, self._looked = self._looked, self._times()
        if before is None:
            return 0.0
        paused = self._looked.stood_still_since(before)
        if paused < LIMIT:
            return 0.0
        self._paused, self._resumed = paused, self._looked.monotonic
        waited = self._executing or before.monotonic - self._ended < _AFTER
        return paused if waited else 0.0


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
