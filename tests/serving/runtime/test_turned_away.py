"""Requests turned away are counted in one process and reported in others, each once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from longserve.serving.runtime.turned_away import TURNED_AWAY, TurnedAwayCount, TurnedAwayWatch

TAKE = """
import sys
from pathlib import Path
from longserve.serving.runtime.turned_away import TurnedAwayCount

count, taken, end = TurnedAwayCount(Path(sys.argv[1])), [], Path(sys.argv[1] + ".end")
print("ready", flush=True)
while not end.exists():
    taken += [count.take() for _ in range(200)]
taken.append(count.take())
assert min(taken) >= 0
print(sum(taken))
"""


def test_each_is_taken_once_whoever_takes(tmp_path: Path) -> None:
    path = tmp_path / "model"
    count, other = TurnedAwayCount(path), TurnedAwayCount(path)
    assert (count.take(), other.take()) == (0, 0)
    count.add()
    count.add()
    assert (other.take(), count.take()) == (2, 0)
    count.add()
    assert (count.take(), other.take()) == (1, 0)
    count.close()
    assert TurnedAwayCount(path).take() == 0, "what was taken stays taken"


def test_none_is_lost_or_counted_twice_by_processes_that_take_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "model"
    count = TurnedAwayCount(path)
    command = [sys.executable, "-c", TAKE, str(path)]
    takers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for taker in takers:
        assert taker.stdout is not None and taker.stdout.readline() == "ready\n"
    for _ in range(200_000):
        count.add()
    Path(f"{path}.end").touch()
    totals = [int(taker.communicate(timeout=30)[0]) for taker in takers]
    assert sum(totals) == 200_000


def test_a_watch_reports_what_is_new_and_what_is_left_at_its_end(tmp_path: Path) -> None:
    reported: list[int] = []
    told = threading.Event()

    def report(new: int) -> None:
        reported.append(new)
        told.set()

    count, watch = TurnedAwayCount(tmp_path / "model"), TurnedAwayWatch(tmp_path / "model", report)
    count.add()
    assert told.wait(10) and reported == [1]
    count.add()
    watch.close()
    assert reported == [1, 1]
    count.add()
    time.sleep(0.1)
    assert reported == [1, 1]


def test_a_model_that_nobody_stands_before_watches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TURNED_AWAY, raising=False)
    assert TurnedAwayWatch.of_model("model", print) is None
    monkeypatch.setenv(TURNED_AWAY, str(tmp_path))
    watch = TurnedAwayWatch.of_model("model", print)
    assert watch is not None
    watch.close()
    assert (tmp_path / "model").is_file()
