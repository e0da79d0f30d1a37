"""The processes of `make test` keep to their cores, and take over those that have become free."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from own_core import OWN_CORE, TESTS_ROOM, OwnCore

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores"
)
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
PROCESS = """
import os, sys, threading
from own_core import OwnCore

stay = threading.Event()
threading.Thread(target=stay.wait, daemon=True).start()
own = OwnCore.from_environment(os.environ)
for line in sys.stdin:
    getattr(own, line.strip())()
    tasks = os.listdir("/proc/self/task")
    print(sorted({core for task in tasks for core in os.sched_getaffinity(int(task))}), flush=True)
"""


class Process:
    """A process that does what it is told, and says what cores its threads may use then."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def do(self, what: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextmanager
def started(room: Path, core: int) -> Iterator[Process]:
    environment = {**os.environ, OWN_CORE: str(core), TESTS_ROOM: str(room)}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Process(process)
        process.kill()


def test_one_of_two_on_a_core_moves_to_the_one_that_became_free(tmp_path: Path) -> None:
    first, second = str(CORES[:1]), str(CORES[1:2])
    with (
        started(tmp_path, 0) as pages,
        started(tmp_path, 0) as documents,
        started(tmp_path, 1) as exports,
    ):
        assert exports.do("balance") == second
        assert [pages.do("balance"), documents.do("balance")] == [first, first]
        exports.do("end")
        assert documents.do("balance") == second
        assert pages.do("balance") == first
        assert documents.do("balance") == second


def test_a_core_that_others_use_is_not_free(tmp_path: Path) -> None:
    with (
        started(tmp_path, 0) as pages,
        started(tmp_path, 0) as documents,
        started(tmp_path, 1) as exports,
    ):
        assert exports.do("balance") == str(CORES[1:2])
        assert documents.do("balance") == str(CORES[:1])
        pages.do("end")
        assert exports.do("balance") == str(CORES[1:2])


def test_a_process_that_is_alone_keeps_to_no_core() -> None:
    assert OwnCore.from_environment({}) is None
    assert OwnCore.from_environment({OWN_CORE: "0"}) is None
