"""How many requests to a text model were turned away before they reached it.

Whoever turns them away counts in a file of two numbers; the text model's processes take from it what none of
them has taken, and add it to the model's metrics.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

__all__ = ["TURNED_AWAY", "TurnedAwayCount", "TurnedAwayWatch"]

TURNED_AWAY = "LONGSERVE_TURNED_AWAY"
"""Environment variable: the directory that holds the files, one for each text model, of the model's name."""
_COUNTED, _TAKEN = 0, 1
_SIZE = 16
_SECONDS = 0.5


class TurnedAwayCount:
    """The count of one model. One process adds to it, and any may take from it."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            OSError: it cannot be had.
        """
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(self._file).st_size < _SIZE:
            os.ftruncate(self._file, _SIZE)
        self._memory = mmap.mmap(self._file, _SIZE)
        # Its elements are written and read at once. `struct.pack_into` puts a zero there first.
        self._numbers = memoryview(self._memory).cast("Q")

    def add(self) -> None:
        """Count one more. Only one thread of one process may do so."""
        self._numbers[_COUNTED] += 1

    def take(self) -> int:
        """Return how many were counted since somebody last took."""
        if self._numbers[_COUNTED] == self._numbers[_TAKEN]:
            return 0
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            counted, taken = self._numbers[_COUNTED], self._numbers[_TAKEN]
            self._numbers[_TAKEN] = counted
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        return counted - taken

    def close(self) -> None:
        """Let go of the file."""
        self._numbers.release()
        self._memory.close()
        os.close(self._file)


class TurnedAwayWatch:
    """Looks twice a second, in a thread of its own, what was turned away, and passes it on."""

    def __init__(self, path: Path, report: Callable[[int], object]) -> None:
        """Start looking.

        Args:
            path: the model's file.
            report: is told of new ones.
        """
        self._count = TurnedAwayCount(path)
        self._report = report
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="turned away", daemon=True)
        self._thread.start()

    @classmethod
    def of_model(cls, model: str, report: Callable[[int], object]) -> TurnedAwayWatch | None:
        """Watch the file of a model; None if nobody turns requests away before it."""
        directory = os.environ.get(TURNED_AWAY)
        return None if directory is None else cls(Path(directory, model), report)

    def close(self) -> None:
        """Look a last time and stop."""
        self._closing.set()
        self._thread.join()
        self._count.close()

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(_SECONDS)
            new = self._count.take()
            if new:
                self._report(new)
