"""A child process with a group of its own: it ends with its parent, and nothing of it stays behind.

Also when the parent is killed: the child gets SIGTERM then, and a guard ends what does not end by itself. (A
Triton that is still loading ends at once, and leaves models' processes that wait for it without end.)
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Child", "how_it_ended", "kill_group", "start_child"]

_LAUNCHER = Path(__file__).with_name("launch.py")
_GUARD = Path(__file__).with_name("guard.py")


@dataclass(frozen=True, slots=True)
class Child:
    """A process, and the one that ends it and removes its leftovers if this one dies."""

    process: subprocess.Popen[bytes]
    guard: subprocess.Popen[bytes]


def how_it_ended(status: int | None) -> str:
    """Say how a process ended, for a message that begins with its name."""
    if status is not None and status < 0:
        return f"by the signal {signal.Signals(-status).name}"
    return f"with exit status {status}"


def kill_group(child: Child) -> None:
    """Kill what is left of the server's process group: the server itself or stubs that outlived it."""
    process = child.process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # one that has not made its group yet
    process.wait()
    child.guard.kill()
    child.guard.wait()
    assert child.guard.stdin is not None
    child.guard.stdin.close()


def start_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    patience: float,
    leftovers: Sequence[str],
) -> Child:
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
        patience: seconds that it may take to end after that SIGTERM; then its guard kills the group.
        leftovers: patterns of files and directories that the guard then removes.
    """
    dependent = sys.platform == "linux" and threading.current_thread() is threading.main_thread()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_LAUNCHER), *command],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_GUARD)],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert guard.stdin is not None and process.stdin is not None
    guard.stdin.write(_json({"group": process.pid, "patience": patience, "leftovers": list(leftovers)}))
    guard.stdin.flush()  # it stays open as long as this process lives
    with contextlib.suppress(BrokenPipeError), process.stdin:  # it ended: `poll` tells
        process.stdin.write(_json({"environment": dict(environment), "dependent": dependent}))
    return Child(process, guard)


def _json(told: object) -> bytes:
    return json.dumps(told).encode()
