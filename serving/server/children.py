"""A child process with a group of its own: it ends with its parent, and nothing of it stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["how_it_ended", "kill_group", "start_child"]

_LAUNCHER = Path(__file__).with_name("launch.py")


def how_it_ended(status: int | None) -> str:
    """Say how a process ended, for a message that begins with its name."""
    if status is not None and status < 0:
        return f"by the signal {signal.Signals(-status).name}"
    return f"with exit status {status}"


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the server's process group: the server itself or stubs that outlived it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # one that has not made its group yet
    process.wait()


def start_child(
    command: Sequence[str], *, environment: Mapping[str, str], directory: Path
) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own, which gets SIGTERM when this one dies without stopping it.

    Linux sends that signal when the *thread* that started the child ends, so it is asked for only from the
    main thread. The child asks for it itself, in `launch.py`: a `preexec_fn` would make a real fork, whose
    handlers may end the child of a process that uses gRPC.

    It stays in our session. Linux shares the processor out among sessions first (sched_autogroup_enabled),
    and lets one that competes with another stand still for a second (`runtime/pauses.py`).

    Args:
        command: absolute path of the program, and its arguments.
        environment: all of the child's environment variables.
        directory: where it works.
    """
    dependent = sys.platform == "linux" and threading.current_thread() is threading.main_thread()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_LAUNCHER), *command],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdin is not None
    with process.stdin as told, contextlib.suppress(BrokenPipeError):  # it ended: `poll` tells
        told.write(json.dumps({"environment": dict(environment), "dependent": dependent}).encode())
    return process
