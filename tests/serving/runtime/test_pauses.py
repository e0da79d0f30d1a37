"""A process that stood still while Triton waited for it ends; one that was idle, or at work, goes on."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from longserve.serving.runtime.pauses import LIMIT, PauseWatch, Times


class Clock:
    """Times that only a test moves, and the pauses that the watch found."""

    def __init__(self) -> None:
        self.times = Times(1000.0, 100.0, 5)
        self.found: list[float] = []
        self.watch = PauseWatch(end=self.found.append, times=lambda: self.times, background=False)

    def pass_(self, seconds: float, *, waits: int = 1, wall: float | None = None) -> None:
        passed = seconds if wall is None else wall
        before = self.times
        self.times = Times(before.wall + passed, before.monotonic + seconds, before.waits + waits)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_pause_in_an_execution_is_found_at_the_next_look(clock: Clock) -> None:
    with clock.watch.executing():
        clock.pass_(1.5)
        clock.watch.look()
        assert clock.found == [pytest.approx(1.5, abs=0.01)]


def test_a_pause_in_an_execution_is_found_at_its_end(clock: Clock) -> None:
    with clock.watch.executing():
        clock.pass_(LIMIT + 0.02)
    assert len(clock.found) == 1


def test_an_execution_that_fails_is_looked_at_too(clock: Clock) -> None:
    with pytest.raises(ZeroDivisionError), clock.watch.executing():
        clock.pass_(2.0)
        raise ZeroDivisionError
    assert len(clock.found) == 1


def test_a_pause_right_after_an_execution_may_have_kept_its_answer(clock: Clock) -> None:
    with clock.watch.executing():
        pass
    clock.pass_(0.1)
    clock.watch.look()
    clock.pass_(1.0)
    clock.watch.look()
    assert len(clock.found) == 1


@pytest.mark.parametrize("looked", [True, False])
def test_a_pause_right_before_an_execution_may_have_been_in_it(clock: Clock, looked: bool) -> None:
    clock.pass_(1.0)
    if looked:
        clock.watch.look()
        assert not clock.found
        clock.pass_(0.5)
    with clock.watch.executing():
        pass
    assert clock.found == [pytest.approx(1.0, abs=0.01)]


def test_a_pause_of_an_idle_process_is_nothing(clock: Clock) -> None:
    with clock.watch.executing():
        pass
    for _ in range(20):
        clock.pass_(0.05)
        clock.watch.look()
    clock.pass_(3600.0)
    clock.watch.look()
    for _ in range(40):
        clock.pass_(0.05)
        clock.watch.look()
    with clock.watch.executing():
        pass
    assert not clock.found


def test_waiting_for_the_interpreter_is_no_pause(clock: Clock) -> None:
    with clock.watch.executing():
        clock.pass_(30.0, waits=round(29.9 / sys.getswitchinterval()))
        clock.watch.look()
    assert not clock.found


def test_one_that_holds_the_interpreter_is_taken_for_no_pause() -> None:
    found: list[float] = []
    watch = PauseWatch(end=found.append)
    try:
        with watch.executing():
            started, power = time.monotonic(), 7**1_000_000
            while time.monotonic() - started < 2 * LIMIT:
                power *= power  # in one piece
            longest = time.monotonic() - started
    finally:
        watch.close()
    assert longest > 2 * LIMIT and power > 0 and not found


def test_short_waits_are_none_however_many(clock: Clock) -> None:
    with clock.watch.executing():
        for _ in range(20):
            clock.pass_(LIMIT)
            clock.watch.look()
    assert not clock.found


def test_a_clock_put_forward_counts_and_one_put_back_does_not(clock: Clock) -> None:
    with clock.watch.executing():
        clock.pass_(0.05, wall=-5.0)
        clock.watch.look()
        assert not clock.found
        clock.pass_(0.05, wall=5.0)
        clock.watch.look()
    assert clock.found == [pytest.approx(5.0, abs=0.01)]


def test_the_process_ends_and_says_why_as_triton_writes_its_log() -> None:
    code = """
import os, signal, subprocess, sys, time
from longserve.serving.runtime.pauses import PauseWatch
watch = PauseWatch()
with watch.executing():
    resume = f"import os, signal, time; time.sleep(1.2); os.kill({os.getpid()}, signal.SIGCONT)"
    subprocess.Popen([sys.executable, "-c", resume])
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(5)  # the thread looks
print("went on")
"""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert time.monotonic() - started < 6
    assert done.stderr.startswith("E") and "] this process stood still for 1." in done.stderr


def test_a_closed_watch_looks_no_more() -> None:
    looks: list[Times] = []

    def times() -> Times:
        looks.append(Times.now())
        return looks[-1]

    watch = PauseWatch(times=times)
    time.sleep(0.3)
    assert len(looks) > 1
    watch.close()
    time.sleep(0.2)  # the one under way
    seen = len(looks)
    time.sleep(0.3)
    assert len(looks) == seen
