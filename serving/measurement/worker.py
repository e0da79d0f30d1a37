"""The child's end of a process that is measured; `StoppedProcess` is the parent's.

Requests come and replies go as JSON, one object a line, over a socket. What the libraries print goes to
standard error. A failure ends the process after a reply that names it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

__all__ = ["answer_requests"]

Answerer = Callable[[dict[str, Any]], Mapping[str, Any]]


def answer_requests(descriptor: int, start: Callable[[], tuple[Mapping[str, Any], Answerer]]) -> None:
    """Get ready, say so, then answer until the other end closes.

    Args:
        descriptor: the socket.
        start: makes everything ready, imports too, so that what one raises is told; returns the first reply
            and what answers a request `{"do": ..., "with": {...}}`.
    """
    _die_with_parent()
    channel = socket.socket(fileno=descriptor)
    stream = channel.makefile("rw", encoding="utf-8", newline="\n")
    os.dup2(2, 1)

    def tell(reply: Mapping[str, Any]) -> None:
        stream.write(json.dumps(reply) + "\n")
        stream.flush()

    def fail(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        tell({"error": f"{kind.__name__}: {error}"})
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = fail
    ready, answer = start()
    tell(ready)
    for line in stream:
        tell(answer(json.loads(line)))


def _die_with_parent() -> None:
    """Ask for SIGKILL when the parent ends: a process that is stopped then would stay for ever."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
