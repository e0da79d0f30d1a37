"""What an engine's process does in a turn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from longserve.export.bench import Case, commands
from longserve.export.bench.commands import EngineCommands
from longserve.export.bench.engines import Prepared

CASE = {"length": 10, "batch": 1, "global_tokens": 1}


class Sleeper:
    """An engine whose runs take as long as they are told, one after the other."""

    runs_on = "nothing"
    note = "a note"

    def __init__(self, *seconds: float, parts: bool = False) -> None:
        self._seconds, self._parts = iter(seconds), parts
        self.prepared: list[Case] = []

    def prepare(self, case: Case, seed: int) -> Prepared:
        self.prepared.append(case)
        return Prepared(run=self._run, logits=None if self._parts else lambda outputs: np.ones(2))

    def _run(self) -> Any:
        seconds = next(self._seconds)
        time.sleep(seconds)
        return {"linear": seconds, "attention": 1.0}


def ask(engine: Sleeper, command: str, **arguments: Any) -> dict[str, Any]:
    working = EngineCommands(engine)
    working.answer({"do": "prepare", "with": {"case": CASE, "seed": 0, "warmup": 1}})
    return working.answer({"do": command, "with": arguments})


def test_a_long_run_is_a_turn_by_itself() -> None:
    reply = ask(Sleeper(0.0, 0.05), "run", seconds=0.01, most=9)
    assert len(reply["seconds"]) == 1 and 0.05 <= reply["seconds"][0] < 0.5


def test_of_short_runs_the_first_is_not_counted() -> None:
    reply = ask(Sleeper(0.0, 0.03, *[0.001] * 5), "run", seconds=60, most=5)
    assert len(reply["seconds"]) == 5 and sum(reply["seconds"]) < 0.03
    assert reply["note"] == "a note" and reply["memory"]["resident"] > 0


def test_the_time_of_parts_is_their_sum_whatever_lies_between_them() -> None:
    reply = ask(Sleeper(0.0, 0.0, 0.25, 0.25, 0.5, parts=True), "run", seconds=60, most=3)
    assert reply["seconds"] == [1.25, 1.25, 1.5]
    assert reply["parts"] == {"linear": 0.25, "attention": 1.0}


@pytest.mark.parametrize(("faults", "paged"), [((0, 0), 0), ((0, 7, 7, 7), 1), (range(9), 3)])
def test_a_run_that_read_from_disk_is_run_again(
    faults: Any, paged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Iterator[int] = iter(faults)
    usage = SimpleNamespace(
        getrusage=lambda who: SimpleNamespace(ru_majflt=next(counts)),
        RUSAGE_SELF=commands.resource.RUSAGE_SELF,
    )
    monkeypatch.setattr(commands, "resource", usage)
    assert ask(Sleeper(*[0.001] * 5), "run", seconds=0.0, most=1)["paged"] == paged


def test_soaking_runs_every_case_once() -> None:
    engine = Sleeper(*[0.0] * 4)
    ask(engine, "soak", cases=[CASE, CASE | {"length": 20}], seed=3)
    assert [case.length for case in engine.prepared] == [10, 10, 20]
