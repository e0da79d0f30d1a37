"""Which core a process of `make test` keeps to.

Threads of one computation wait for each other by spinning. With more threads than free cores, most of the
time went there: the comparisons of `test_graph.py` took 195 s of processor time instead of 62 s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

OWN_CORE = "LONGSERVE_TESTS_CORE"
"""Environment variable: the number of the core that this process and its children keep to."""

TESTS_ROOM = "LONGSERVE_TESTS_ROOM"
"""Environment variable: a directory for what the processes of `make test` share."""


class OwnCore:
    """The core of this process, noted in a directory that all of them share.

    A process that is not alone on its core moves to one whose processes have all ended.
    """

    def __init__(self, number: int, room: Path, cores: list[int]) -> None:
        """Keep to a core.

        Args:
            number: of the core, counted in `cores`.
            room: what the processes share.
            cores: those that this process may use.
        """
        self._cores = cores
        self._room = room
        self._lock = FileLock(room / "cores.lock")
        self._note = room / f"core-{number % len(cores)}.{os.getpid()}.running"
        self._note.touch()
        self._keep_to()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> OwnCore | None:
        """The core that `make test` gives this process; None if it gives none, or it is alone."""
        if not {OWN_CORE, TESTS_ROOM} <= set(environment) or not hasattr(os, "sched_setaffinity"):
            return None
        number, room = int(environment[OWN_CORE]), Path(environment[TESTS_ROOM])
        return cls(number, room, sorted(os.sched_getaffinity(0)))

    @property
    def number(self) -> int:
        """The core's, counted in those that may be used."""
        return _core(self._note)

    def balance(self) -> None:
        """Move to a core that has become free, if another process is on this one."""
        with self._lock:
            running = [_core(note) for note in self._room.glob("core-*.running")]
            if running.count(self.number) < 2:
                return
            left = {_core(note) for note in self._room.glob("core-*.ended")} - set(running)
            if left:
                self._note = self._note.rename(self._room / f"core-{min(left)}.{os.getpid()}.running")
                self._keep_to()

    def end(self) -> None:
        """Say that this process needs its core no more."""
        with self._lock:
            self._note = self._note.rename(self._note.with_suffix(".ended"))

    def _keep_to(self) -> None:
        for thread in Path("/proc/self/task").iterdir():  # affinity is a thread's, and its children's
            try:
                os.sched_setaffinity(int(thread.name), {self._cores[self.number]})
            except ProcessLookupError:
                continue


def _core(note: Path) -> int:
    return int(note.name.partition(".")[0].removeprefix("core-"))
