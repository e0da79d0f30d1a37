"""Triton's log: kept for error messages, and passed on as far as it concerns the user."""

from __future__ import annotations

import re
import threading
from collections import deque
from typing import IO, TextIO

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


class ServerLog:
    """Reads a server's output in a thread, keeps its last lines, and passes on warnings and errors."""

    def __init__(self, stream: IO[bytes], sink: TextIO | None, *, verbose: bool) -> None:
        """Start reading.

        Args:
            stream: the server's stdout and stderr; read to its end, then closed.
            sink: where lines are passed on; None passes on nothing.
            verbose: pass on every line, not only warnings and errors.
        """
        self._stream = stream
        self._sink = sink
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
                if self._sink is not None and (self._verbose or _concerns(line, "WEF")):
                    self._pass_on(self._sink, line if self._verbose else _plain(line))

    def _pass_on(self, sink: TextIO, line: str) -> None:
        try:
            sink.write(f"triton: {line}\n")
            sink.flush()
        except (OSError, ValueError):  # closed: keep reading, or the server would block on a full pipe
            self._sink = None


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
