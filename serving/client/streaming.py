"""Many requests with a bounded number under way, their results in the order of what was asked."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sized,
)
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from typing import TypeVar

from ..runtime.errors import RequestError
from .calls import naming_text

__all__ = ["AHEAD", "in_order", "in_order_async", "progress_bar", "size_of"]

AHEAD = 4
"""Items of a stream that are read ahead of the result that is waited for, per request in flight: so one long
document does not keep the short ones behind it from being asked."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(
    executor: Executor, items: Iterable[_Item], ask: Callable[[_Item], _Result], ahead: int
) -> Generator[_Result, None, None]:
    """Yield the result of each item in order, asked on the executor's threads.

    Args:
        executor: its number of threads bounds what is under way.
        items: are read as room comes free; may be endless.
        ask: is called with an item.
        ahead: most items that are read before the result of the oldest one is taken.

    Raises:
        ServingError: that of the first item that fails, named by its index; no further item is asked.
    """
    pending: deque[Future[_Result]] = deque()
    index = 0
    try:
        for item in items:
            pending.append(_submit(executor, ask, item))
            while pending and (len(pending) >= ahead or pending[0].done()):
                yield _result(pending.popleft(), index)
                index += 1
        while pending:
            yield _result(pending.popleft(), index)
            index += 1
    finally:
        for future in pending:
            future.cancel()


def _submit(executor: Executor, ask: Callable[[_Item], _Result], item: _Item) -> Future[_Result]:
    try:
        return executor.submit(ask, item)
    except RuntimeError as error:  # what an executor raises once it is shut down
        raise RequestError("the client was closed meanwhile; open a new one") from error


def _result(future: Future[_Result], index: int) -> _Result:
    with naming_text(index):
        try:
            return future.result()
        except CancelledError as error:
            raise RequestError("the client was closed before the answer; open a new one") from error


async def in_order_async(
    items: Iterable[_Item] | AsyncIterable[_Item],
    ask: Callable[[_Item], Awaitable[_Result]],
    concurrency: int,
    ahead: int,
) -> AsyncGenerator[_Result, None]:
    """As `in_order`, with at most `concurrency` tasks under way."""
    gate = asyncio.Semaphore(concurrency)

    async def ask_in_turn(item: _Item) -> _Result:
        async with gate:
            return await ask(item)

    pending: deque[asyncio.Task[_Result]] = deque()
    index = 0
    try:
        async for item in _each(items):
            pending.append(asyncio.create_task(ask_in_turn(item)))
            while pending and (len(pending) >= ahead or pending[0].done()):
                with naming_text(index):
                    result = await pending[0]
                pending.popleft()
                yield result
                index += 1
        while pending:
            with naming_text(index):
                result = await pending[0]
            pending.popleft()
            yield result
            index += 1
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def _each(items: Iterable[_Item] | AsyncIterable[_Item]) -> AsyncIterator[_Item]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    for item in items:
        yield item
        await asyncio.sleep(0)  # lets the tasks begin while the items are read


def size_of(items: object) -> int | None:
    """How many items there are, where that can be known."""
    return len(items) if isinstance(items, Sized) else None


@contextmanager
def progress_bar(shown: bool, title: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show a progress bar on standard error, if it is asked for; yields what moves it by one.

    Raises:
        RequestError: rich is not installed.
    """
    if not shown:
        yield lambda: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError as error:
        raise RequestError(f"a progress bar needs rich ({error}); install it, or ask for none") from error
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)
