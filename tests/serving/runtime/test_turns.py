"""Slots are given to requests in turn, and none is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longserve.serving.runtime.admission import Admission
from longserve.serving.runtime.turns import Line, Turns, WaitedTooLong


async def do(work: Turns, line: Line, name: str, done: list[str]) -> None:
    await work.take(line)
    try:
        await asyncio.sleep(0)
        done.append(name)
    finally:
        work.give_back()


def order(slots: int, **pieces: int) -> list[str]:
    """The order in which the pieces of several requests are done that come at once."""

    async def run() -> list[str]:
        turns, done = Turns(slots), list[str]()
        work: list[Coroutine[Any, Any, None]] = []
        for name, count in pieces.items():
            line = Line()
            work += [do(turns, line, name, done) for _ in range(count)]
        await asyncio.gather(*work)
        return done

    return asyncio.run(run())


def test_a_short_request_overtakes_a_long_one() -> None:
    assert order(1, long=5, short=1) == ["long", "long", "short", "long", "long", "long"]
    assert order(1, a=3, b=3, c=1) == ["a", "a", "b", "c", "a", "b", "b"]
    assert order(2, long=6, short=1)[:4].count("short") == 1


def test_a_request_alone_gets_every_slot() -> None:
    async def run() -> int:
        turns, line = Turns(3), Line()
        for _ in range(3):
            await asyncio.wait_for(turns.take(line), 1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(turns.take(line), 0.01)
        turns.give_back()
        await asyncio.wait_for(turns.take(line), 1)
        return 3

    assert asyncio.run(run()) == 3


def test_a_line_that_waits_too_long_gives_up_unless_it_has_begun() -> None:
    async def run() -> None:
        turns, first, second = Turns(1), Line(), Line()
        await turns.take(first)
        waiting = [asyncio.ensure_future(turns.take(line)) for line in (first, second)]
        await asyncio.sleep(0)
        first.give_up()
        second.give_up()
        assert (first.begun, second.begun) == (True, False)
        with pytest.raises(WaitedTooLong):
            await waiting[1]
        with pytest.raises(WaitedTooLong):
            await turns.take(second)
        turns.give_back()
        await asyncio.wait_for(waiting[0], 1)
        turns.give_back()
        await asyncio.wait_for(turns.take(Line()), 1)

    asyncio.run(run())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 2**32))
def test_no_slot_is_lost_whatever_is_cancelled(slots: int, requests: list[int], seed: int) -> None:
    chance = random.Random(seed)

    async def run() -> None:
        turns, under_way, most = Turns(slots), 0, 0

        async def piece(line: Line) -> None:
            nonlocal under_way, most
            await turns.take(line)
            under_way += 1
            most = max(most, under_way)
            try:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                under_way -= 1
                turns.give_back()

        tasks = []
        for count in requests:
            line = Line()
            tasks += [asyncio.ensure_future(piece(line)) for _ in range(count)]
        for _ in range(20):
            await asyncio.sleep(0)
            if chance.random() < 0.4:
                chance.choice(tasks).cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert most <= slots and under_way == 0
        for _ in range(slots):
            await asyncio.wait_for(turns.take(Line()), 1)

    asyncio.run(run())


def test_admission_counts_requests_and_bytes() -> None:
    admission = Admission(max_requests=2, max_bytes=100)
    assert admission.enter(500), "a single request is always taken"
    assert not admission.enter(1)
    admission.leave(500)
    assert admission.enter(60) and not admission.enter(41) and admission.enter(40)
    assert not admission.enter(0)
    assert admission.held == 2
    admission.leave(60)
    assert admission.enter(60)
