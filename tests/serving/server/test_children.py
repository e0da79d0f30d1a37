"""A child ends with its parent, whichever thread started it; its guard ends what does not end by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_groups import group_of
from waiting import until

from longserve.serving.server.children import Child, how_it_ended, kill_group, start_child

PARENT = """
import os, sys, threading, time
from pathlib import Path
from longserve.serving.server.children import start_child

def start():
    child = start_child(
        ["/bin/sh", "-c", sys.argv[2]],
        environment={},
        directory=Path("/"),
        patience=0.5,
        leftovers=[sys.argv[3]],
    )
    print(child.process.pid, child.guard.pid, flush=True)
    time.sleep(60)

if sys.argv[1] == "main":
    start()
threading.Thread(target=start).start()
"""
OBEYS = "exec sleep 60"
DEAF = "trap '' TERM; sleep 60 & while true; do sleep 1; done"


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("thread", ["main", "other"])
@pytest.mark.parametrize("script", [OBEYS, DEAF], ids=["obeys", "deaf"])
def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path, thread: str, script: str) -> None:
    leftovers = [tmp_path / "left-file", tmp_path / "left-directory"]
    leftovers[0].touch()
    leftovers[1].mkdir()
    (leftovers[1] / "inside").touch()
    other = tmp_path / "other"
    other.touch()
    command = [sys.executable, "-c", PARENT, thread, script, str(tmp_path / "left-*")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child, guard = map(int, parent.stdout.readline().split())
        until(lambda: bool(group_of(child)))
        time.sleep(0.2)
        assert runs(guard) and leftovers[0].exists()
        parent.kill()
    until(lambda: not group_of(child) and not runs(guard))
    assert not any(path.exists() for path in leftovers) and other.exists()


@pytest.fixture
def child(tmp_path: Path) -> Child:
    (tmp_path / "kept").touch()
    return start_child(
        ["/bin/sh", "-c", DEAF],
        environment={},
        directory=tmp_path,
        patience=0.5,
        leftovers=[str(tmp_path / "kept")],
    )


def test_whoever_ends_its_child_needs_no_guard(child: Child, tmp_path: Path) -> None:
    until(lambda: len(group_of(child.process.pid)) > 1)
    kill_group(child)
    assert child.process.returncode == child.guard.returncode == -signal.SIGKILL
    assert not group_of(child.process.pid)
    assert (tmp_path / "kept").exists()
    kill_group(child)  # twice is no mistake


def test_a_guard_that_was_killed_is_no_fault(child: Child) -> None:
    child.guard.kill()
    child.guard.wait()
    kill_group(child)
    assert not group_of(child.process.pid)


def test_a_child_has_a_group_of_its_own_in_its_parents_session(child: Child) -> None:
    until(lambda: os.getpgid(child.process.pid) == child.process.pid)
    until(lambda: os.getpgid(child.guard.pid) == child.guard.pid)
    assert os.getsid(child.process.pid) == os.getsid(0)
    kill_group(child)


def test_how_it_ended_is_said() -> None:
    assert how_it_ended(-9) == "by the signal SIGKILL"
    assert how_it_ended(3) == "with exit status 3"
