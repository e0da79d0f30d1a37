"""Triton's log: kept for error messages, and passed on as far as it concerns the user."""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from typing import IO

from .journal import Journal, Level, LogFormat, request_fields

__all__ = ["ServerLog"]

_KEPT_LINES = 400
_LEVEL = re.compile(r"^(?P<level>[IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ \d+ (?P<source>\S+?:\d+)\] (?P<text>.*)$")
_HARMLESS = (
    # What a machine without an NVIDIA GPU gets at every start.
    "pinned_memory_manager",
    "CudaDriverHelper",
    "Failed to initialize NVML",
    "DCGM unable to start",
)


_LEVELS = {"I": Level.INFO, "W": Level.WARNING, "E": Level.ERROR, "F": Level.FATAL}
_OUTPUT = "output"
"""Source of what Triton or a model prints."""


class ServerLog:
    """Reads a server's output in a thread, keeps its last lines, and passes on what concerns the operator:
    warnings, errors, and the lines of requests."""

    def __init__(self, stream: IO[bytes], journal: Journal | None, *, verbose: bool) -> None:
        """Start reading.

        Args:
            stream: the server's stdout and stderr; read to its end, then closed.
            journal: where lines are passed on; None passes on nothing.
            verbose: pass on every line.
        """
        self._stream = stream
        self._journal = journal
        self._verbose = verbose
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="triton-log", daemon=True)
        self._thread.start()

    def lines(self) -> list[str]:
        """The last lines read."""
        with self._lock:
            return list(self._lines)

    def failures(self, limit: int = 8) -> list[str]:
        """The last lines that tell of an error, without time stamps; the last of any kind if none does."""
        lines = self.lines()
        relevant = [_plain(line) for line in lines if _concerns(line, "EF")]
        relevant = list(dict.fromkeys(relevant)) or [line for line in lines if line.strip()]
        return relevant[-limit:]

    def finish(self, timeout: float) -> None:
        """Wait until the stream's end has been read."""
        self._thread.join(timeout)

    def _read(self) -> None:
        with self._stream as stream:
            for raw in stream:
                line = raw.decode("utf-8", errors="replace").rstrip("\n")
                with self._lock:
                    self._lines.append(line)
                if self._journal is not None:
                    self._pass_on(self._journal, line)

    def _pass_on(self, journal: Journal, line: str) -> None:
        match = _LEVEL.match(line)
        level = Level.INFO if match is None else _LEVELS[match["level"]]
        source = _OUTPUT if match is None else match["source"]
        message = _message(line)
        request = request_fields(message) is not None
        if not (request or self._verbose or _concerns(line, "WEF")):
            return
        if journal.format is LogFormat.TEXT and not request:
            message = line if self._verbose else _plain(line)
        journal.say(message, level=level, source=source)


def _concerns(line: str, levels: str) -> bool:
    match = _LEVEL.match(line)
    return match is not None and match["level"] in levels and not any(known in line for known in _HARMLESS)


def _plain(line: str) -> str:
    match = _LEVEL.match(line)
    if match is None:
        return line
    text = match["text"]
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    # A Python model's exception comes with its traceback after "At:", in escaped lines.
    return text.split(r"\n\nAt:\n")[0]


def _message(line: str) -> str:
    """What a line says, as it was said: Triton writes a message as a JSON string."""
    match = _LEVEL.match(line)
    text = line if match is None else str(match["text"])
    try:
        said = json.loads(text) if text.startswith('"') else text
    except ValueError:
        return text
    return str(said)
