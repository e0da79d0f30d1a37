"""How far a bulk run is: documents, documents and tokens per second, time left; on standard error."""

from __future__ import annotations

import time
from types import TracebackType

from .runner import ChunkDone

__all__ = ["BatchProgressBar"]

_LINE_SECONDS = 30.0
"""Where standard error is no terminal, a line so often."""


class BatchProgressBar:
    """A progress bar; where standard error is no terminal, a line every half minute."""

    def __init__(self) -> None:
        """Make the display."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("documents", total=None)
        self._rows = self._done = self._before = self._tokens = self._errors = 0
        self._begun = self._shown = time.perf_counter()

    def __enter__(self) -> BatchProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, rows: int, done: int) -> None:
        """Show the run's rows, and those that were done before."""
        self._rows, self._done, self._before = rows, done, done
        self._begun = self._shown = time.perf_counter()
        if done:
            self._say(f"going on: {done} of {rows} documents were done before")
        self._bar.update(self._task, total=rows, completed=done)

    def advance(self, done: ChunkDone) -> None:
        """Count a chunk."""
        self._done += done.rows
        self._tokens += done.tokens
        self._errors += done.errors
        text = self._text()
        self._bar.update(self._task, completed=self._done, description=text)
        now = time.perf_counter()
        if self._bar.disable and now - self._shown >= _LINE_SECONDS:
            self._shown = now
            self._say(f"{self._done} of {self._rows} documents, {text}")

    def _text(self) -> str:
        seconds = max(1e-9, time.perf_counter() - self._begun)
        speed = (self._done - self._before) / seconds
        left = (self._rows - self._done) / speed if speed else 0.0
        errors = f", {self._errors} rows with an error" if self._errors else ""
        return (
            f"{speed:,.1f} documents/s, {self._tokens / seconds:,.0f} tokens/s, {_clock(left)} left{errors}"
        )

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    """Return a duration as `h:mm:ss`."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}"
