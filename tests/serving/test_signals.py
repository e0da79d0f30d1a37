"""Signals end a command's work in order, wherever they hit it."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from longserve.serving.signals import raise_on_signals


class Stopped(BaseException):
    """What the tests raise."""


class Finalized:
    """Gets a signal, or fails, while it is finalized; Python swallows what its finalizer raises."""

    def __init__(self, number: int | None) -> None:
        self.number = number

    def __del__(self) -> None:
        if self.number is None:
            raise ValueError("a defect")
        os.kill(os.getpid(), self.number)
        for _ in range(1_000_000):  # Python code, so that the handler runs here
            pass


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Python would print with a traceback."""
    names: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: names.append(told.exc_type.__name__))
    return names


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_a_finalizer_swallows_is_raised_by_the_check(number: int, reported: list[str]) -> None:
    seen = []
    with pytest.raises(Stopped) as raised, raise_on_signals(Stopped) as check:
        Finalized(number)
        seen.append("gone on")
        check()
        seen.append("never")
    assert raised.value.args == (number,)
    assert seen == ["gone on"]
    assert reported == []


def test_the_end_of_the_block_is_a_check(reported: list[str]) -> None:
    with pytest.raises(Stopped), raise_on_signals(Stopped):
        Finalized(signal.SIGTERM)


def test_other_failures_of_finalizers_are_still_told(reported: list[str]) -> None:
    hook = sys.unraisablehook
    with raise_on_signals(Stopped) as check:
        Finalized(None)
        check()
    assert reported == ["ValueError"]
    assert sys.unraisablehook is hook


def test_a_terminal_that_is_closed_does_not_end_what_nohup_started() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with raise_on_signals(Stopped) as check:
            signal.raise_signal(signal.SIGHUP)
            check()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_handlers_before_are_back_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(Stopped), raise_on_signals(Stopped):
        signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
