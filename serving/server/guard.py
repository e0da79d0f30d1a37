"""Ends what a process has started, if that process dies without doing so. Run as a file, by `children`.

Standard input holds one line of JSON: `group`, the process group to end, whose leader gets SIGTERM first;
`patience`, seconds that the leader may take to end; `leftovers`, patterns of what is removed then. The end of
the input means that the other has died: while it lives, it kills the guard when there is nothing left to end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PERIOD = 0.1
_AFTER_LEADER = 3.0
"""Seconds for the others to end, once the leader has."""


def main() -> None:
    """Wait for the end of the input, and do what is to be done then."""
    os.setpgid(0, 0)  # a terminal's Ctrl-C does not reach it, nor what ends the group
    told = json.load(sys.stdin)  # when the input has ended
    _end(told)


def _end(told: dict[str, Any]) -> None:
    group = told["group"]
    _signal(os.kill, group, signal.SIGTERM)
    _wait(lambda: not _signal(os.kill, group, 0), told["patience"])
    _wait(lambda: not _signal(os.killpg, group, 0), _AFTER_LEADER)
    _signal(os.killpg, group, signal.SIGKILL)
    for pattern in told["leftovers"]:
        for path in list(Path(pattern).parent.glob(Path(pattern).name)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


def _signal(send: Callable[[int, int], None], target: int, number: int) -> bool:
    """Send a signal, of which 0 only asks; return whether there is anybody."""
    try:
        send(target, number)
    except (ProcessLookupError, PermissionError):  # it has gone, and its number may be another's by now
        return False
    return True


def _wait(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(_PERIOD)


if __name__ == "__main__":
    main()
