"""The processes of a server's Python models.

Triton's python backend runs one *stub* process a model instance. If one dies, Triton 2.51 neither starts
another nor says in its readiness that the model answers no more.
"""

from __future__ import annotations

import errno
from pathlib import Path

__all__ = ["find_stubs", "has_ended", "says_dead"]

_PROC = Path("/proc")
_DEAD = ("is not healthy", "Failed to obtain the health mutex")
"""What Triton says of a stub to which it cannot hand a request (python_backend: python_be.cc,
stub_launcher.cc): it gave no sign of life, or ended with the lock on that sign in its hands."""
_STUB_COMMAND = "triton_python_b"
"""How the kernel shortens `triton_python_backend_stub` (15 characters)."""


def find_stubs(server: int) -> dict[int, str]:
    """Return process id and model of every stub that is a child of the server."""
    found = {}
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        status = _status(int(entry.name))
        if status is not None and status[0] == _STUB_COMMAND and status[2] == server:
            found[int(entry.name)] = _model(entry / "cmdline")
    return found


def says_dead(message: str) -> bool:
    """Tell whether an error that Triton calls internal means that a model's process is gone."""
    return any(phrase in message for phrase in _DEAD)


def has_ended(process: int) -> bool:
    """Whether a process is gone, or waits to be collected; no, where no more files can be opened to see."""
    try:
        status = _status(process)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return False
        raise
    return status is None or status[1] in "ZX"


def _status(process: int) -> tuple[str, str, int] | None:
    """Command, state and parent of a process (proc_pid_stat(5))."""
    try:
        text = (_PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    command, _, rest = text.partition("(")[2].rpartition(")")
    state, parent = rest.split()[:2]
    return command, state, int(parent)


def _model(cmdline: Path) -> str:
    """The model: `NAME/VERSION/model.py` is a stub's first argument (python_backend: stub_launcher.cc)."""
    try:
        script = Path(cmdline.read_bytes().split(b"\0")[1].decode("utf-8", errors="replace"))
        return script.parents[1].name
    except (OSError, IndexError):
        return "unknown"
