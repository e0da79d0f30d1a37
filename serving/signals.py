"""Ending a command's work in order when a signal asks for it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

__all__ = ["raise_on_signals"]


@contextmanager
def raise_on_signals(exception: Callable[[int], BaseException]) -> Iterator[Callable[[], None]]:
    """Let SIGINT, SIGTERM and SIGHUP raise an exception in the block, so that it unwinds in order.

    SIGHUP comes when a terminal is closed. Where it is ignored, as under `nohup`, it stays so.

    Code that the signal happens to hit may swallow the exception: a finalizer, a callback from C. Python then
    prints it with a traceback and goes on. It is not printed here, and the block is given a check to call now
    and then, which raises it again.

    Args:
        exception: makes what is raised, of the signal's number.
    """
    received: list[BaseException] = []
    report = sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        received.append(exception(number))
        raise received[-1]

    def check() -> None:
        if received:
            raise received[-1]

    def report_others(unraisable: UnraisableHookArgs) -> None:
        if unraisable.exc_value not in received:
            report(unraisable)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    sys.unraisablehook = report_others
    try:
        yield check
        check()
    finally:
        sys.unraisablehook = report
        for number, handler in previous.items():
            signal.signal(number, handler)
