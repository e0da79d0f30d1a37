"""A child process with a group of its own: it ends with its parent, and nothing of it stays behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

__all__ = ["end_with_parent", "how_it_ended", "kill_group"]


def how_it_ended(status: int | None) -> str:
    """Say how a process ended, for a message that begins with its name."""
    if status is not None and status < 0:
        return f"by the signal {signal.Signals(-status).name}"
    return f"with exit status {status}"


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the server's process group: the server itself or stubs that outlived it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_with_parent() -> Callable[[], None] | None:
    """Return what makes the child get SIGTERM when this process dies without stopping it (SIGKILL).

    Linux sends that signal when the *thread* that started the child ends, so only the main thread may ask
    for it.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    libc = ctypes.CDLL(None)
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
    return lambda: libc.prctl(set_parent_death_signal, signal.SIGTERM, 0, 0, 0)
