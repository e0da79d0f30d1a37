"""Fair turns: work of many requests through few slots, so that a long document does not hold up the short.

For one event loop; nothing here is thread-safe.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Line", "Turns", "WaitedTooLong"]


class WaitedTooLong(Exception):
    """A request had no turn within the time that it may wait."""


class Line:
    """The pieces of one request that wait for a slot.

    Attributes:
        begun: whether one of them has had a turn.
        given_up: whether they want none any more.
    """

    def __init__(self) -> None:
        """Begin with nothing waiting."""
        self.begun = False
        self.given_up = False
        self.waiting: deque[asyncio.Future[None]] = deque()

    def give_up(self) -> None:
        """Let what waits, now and later, raise `WaitedTooLong`, unless the request has had a turn."""
        if self.begun:
            return
        self.given_up = True
        for piece in self.waiting:
            if not piece.done():
                piece.set_exception(WaitedTooLong())


class Turns:
    """Gives free slots to the lines in turn, and within a line in order."""

    def __init__(self, slots: int) -> None:
        """Start with all slots free."""
        self._free = slots
        self._lines: deque[Line] = deque()

    async def take(self, line: Line) -> None:
        """Wait for a slot; `give_back` it afterwards.

        Raises:
            WaitedTooLong: the line gave up.
        """
        if line.given_up:
            raise WaitedTooLong
        if self._free > 0:  # then nobody waits
            self._free -= 1
            line.begun = True
            return
        piece = asyncio.get_running_loop().create_future()
        if not line.waiting:
            self._lines.append(line)
        line.waiting.append(piece)
        try:
            await piece
        except asyncio.CancelledError:
            if piece.done() and not piece.cancelled():  # its turn came as it was cancelled
                self.give_back()
            raise

    def give_back(self) -> None:
        """Hand the slot to the next line whose next piece still wants it."""
        while self._lines:
            line = self._lines.popleft()
            piece = _next_waiting(line)
            if piece is None:
                continue
            if line.waiting:
                self._lines.append(line)
            line.begun = True
            piece.set_result(None)
            return
        self._free += 1


def _next_waiting(line: Line) -> asyncio.Future[None] | None:
    while line.waiting:
        piece = line.waiting.popleft()
        if not piece.done():
            return piece
    return None
