"""The log that a server's operator reads: lines for people, or one JSON object a line for machines.

In JSON every line has `time` (RFC 3339, UTC), `level` (info, warning, error, fatal) and `source`. That of a
request to a text model has its fields beside them (`RequestRecord.to_json`), every other one `message`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from enum import Enum
from typing import Any, TextIO

from ..runtime.request_record import REQUEST_EVENT

__all__ = ["Journal", "Level", "LogFormat", "request_fields"]

_OURS = "longserve"


class LogFormat(str, Enum):
    """How a log is written."""

    TEXT = "text"
    JSON = "json"


class Level(str, Enum):
    """How bad what a line tells is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    FATAL = "fatal"


class Journal:
    """Writes lines to a stream, whole ones, from any thread."""

    def __init__(self, stream: TextIO, log_format: LogFormat = LogFormat.TEXT) -> None:
        """Take the stream. If it is closed, nothing is written any more."""
        self._stream = stream
        self.format = log_format
        self._lock = threading.Lock()

    def say(self, message: str, *, level: Level = Level.INFO, source: str = _OURS) -> None:
        """Write a line.

        Args:
            message: what there is to say, on one line or several.
            level: how bad it is.
            source: who says it: longserve itself, or a place in Triton's or a model's code.
        """
        if self.format is LogFormat.JSON:
            fields = request_fields(message) or {"message": message}
            line = json.dumps({"time": _now(), "level": level.value, "source": source, **fields})
        else:
            line = message if source == _OURS else f"triton: {message}"
        try:
            with self._lock:
                self._stream.write(f"{line}\n")
                self._stream.flush()
        except (OSError, ValueError):  # closed: who logs must not fail
            return

    @property
    def request_log(self) -> Callable[[str], None] | None:
        """Takes a request's line (`RequestRecord.to_json`); None where the log has none: one for people."""
        return self.say if self.format is LogFormat.JSON else None

    def report_defect(self, text: str) -> None:
        """Write what a defect of longserve itself leaves behind."""
        self.say(text.rstrip("\n"), level=Level.ERROR)


def request_fields(message: str) -> dict[str, Any] | None:
    """Return the fields of a request's line, or None if `message` is another one."""
    if not message.startswith("{"):
        return None
    try:
        fields = json.loads(message)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and fields.get("event") == REQUEST_EVENT else None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
