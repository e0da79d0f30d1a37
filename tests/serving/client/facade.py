"""`AsyncClient` with the blocking methods of `Client`, so that one test can speak for both."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator
from typing import Any

from longserve.serving import AsyncClient


class BlockingAsyncClient:
    """Runs an `AsyncClient` on an event loop in a thread; every method waits for its result."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._client = AsyncClient(*arguments, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> BlockingAsyncClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            return self._wait(method, *arguments, **options)

        return call

    def _wait(self, method: Any, *arguments: Any, **options: Any) -> Any:
        async def run() -> Any:
            result = method(*arguments, **options)
            if inspect.isawaitable(result):
                return await result
            return [item async for item in result] if isinstance(result, AsyncIterator) else result

        # longer than the clients' own timeouts, so that their error comes first
        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(90)
