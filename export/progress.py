"""How the long steps of an export tell where they are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

__all__ = ["Progress", "TerminalProgress"]


class Progress(Protocol):
    """Is told of the stages of a long operation."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage begins; `total` is its number of steps, None if it has none to count."""

    def advance(self) -> None:
        """One step of the stage is done."""

    def note(self, text: str) -> None:
        """There is something that the user should know, but that stops nothing."""


class TerminalProgress(AbstractContextManager["TerminalProgress"]):
    """Progress bars on standard error. Where that is no terminal, one line per stage."""

    def __init__(self, check: Callable[[], None] | None = None) -> None:
        """Make the display.

        Args:
            check: called at every stage and step; it may raise to end the operation.
        """
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._check = check or (lambda: None)
        self._console = Console(stderr=True)
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: int | None = None

    def __enter__(self) -> TerminalProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage."""
        self._check()
        self._finish()
        if self._bars.disable:
            self._console.print(f"{name} …", highlight=False)
        self._task = self._bars.add_task(name, total=total)

    def advance(self) -> None:
        """Count one step."""
        self._check()
        if self._task is not None:
            self._bars.advance(self._task)  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        """Print a line, above the bars."""
        self._console.print(f"note: {text}", highlight=False, markup=False, soft_wrap=True)

    def _finish(self) -> None:
        if self._task is not None:
            task = self._bars.tasks[self._task]
            total = task.total if task.total is not None else 1
            self._bars.update(task.id, total=total, completed=total)
