"""`benchmarks/soak.py` and `benchmarks/overload.py` against the session's server, in small."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from checkpoints import WORDS
from overload import measure
from served import Served, make_cases
from soak import GROWTH_LIMIT, Tally, memory_over_time, problems_of, soak
from triton_fixture import RunningServer


@pytest.fixture(scope="module")
def served(triton_server: RunningServer) -> Served:
    """The session's Triton in the place of `longserve serve`."""
    process: Any = SimpleNamespace(pid=triton_server.server.pid)
    urls = {name: getattr(triton_server.urls, name) for name in ("http", "grpc", "metrics")}
    return Served(process, urls)


def test_every_answer_is_compared(served: Served, triton_server: RunningServer) -> None:
    bundles = (triton_server.classification_bundle, triton_server.qa_bundle)
    cases = [case for case in make_cases(bundles, WORDS.split(), 60) if "4000" not in case.kind][:30]
    report = soak(served, cases, 60, 4)
    assert report["right"] == 60 and report["lost"] == report["wrong"] == 0
    assert "longformer_qa_encoder" in report["resident_megabytes"]["every_twentieth"]
    assert report["resident_megabytes"]["growth"] is None, "some seconds cannot tell"
    (problem,) = report["problems"]
    assert "too short to tell" in problem and not report["passed"]

    wrong = soak(served, [dataclasses.replace(cases[0], right=lambda found: False)], 3, 1)
    assert (wrong["wrong"], wrong["passed"]) == (3, False)
    assert wrong["problems"][0] == "3 of 3 requests were lost or wrong"

    def fail(client: Any) -> Any:
        return client.classify("")

    lost = soak(served, [dataclasses.replace(cases[0], ask=fail)], 3, 1)
    assert (lost["lost"], lost["passed"]) == (3, False) and "InvalidInput" in str(lost["errors"])


@pytest.mark.parametrize(("grown", "growth"), [(0, 1.0), (34_000_000, 1.078)])
def test_growth_is_seen_through_what_a_run_holds(grown: int, growth: float) -> None:
    """By a tenth, evenly, while the encoder's memory goes up and down by more with the runs."""
    samples = [
        (
            ended,
            {
                "encoder": 200_000_000 + 60_000_000 * (ended % 3 - 1),
                "text": 100_000_000 + grown * ended // 100,
            },
        )
        for ended in range(101)
    ]
    memory = memory_over_time(samples, 100)
    assert memory["growth"] == pytest.approx(growth, abs=0.003)
    assert (memory["growth"] > GROWTH_LIMIT) == (grown > 0)
    assert memory["at_the_end"]["encoder"] == memory["after_warm_up"]["encoder"] == 200.0
    assert len(memory["every_twentieth"]["text"]) == 21
    assert memory_over_time(samples[:90], 100)["growth"] == pytest.approx(growth, abs=0.015)
    assert memory_over_time(samples[:88], 100)["growth"] is None
    assert memory_over_time(samples[25:], 100)["growth"] is None
    assert memory_over_time(samples[:1], 100)["growth"] is None


@pytest.mark.parametrize(
    ("right", "growth", "problems"),
    [
        (3, GROWTH_LIMIT, []),
        (3, GROWTH_LIMIT + 0.001, ["memory grew"]),
        (2, None, ["1 of 3 requests", "too short"]),
    ],
)
def test_every_problem_is_told(right: int, growth: float | None, problems: list[str]) -> None:
    found = problems_of(Tally(right=right), 3, growth)
    assert all(one.startswith(wanted) for one, wanted in zip(found, problems, strict=True))


def test_what_became_of_each_request_is_told(served: Served) -> None:
    report = asyncio.run(measure(served, WORDS, held=256, factor=0.5, seconds=1.0, deadline=30.0))
    assert set(report["outcomes"]) == {"answered"} and report["later_than_the_deadline"] == 0
    assert report["answered_milliseconds"]["count"] == report["outcomes"]["answered"]
    late = asyncio.run(measure(served, WORDS, held=256, factor=0.5, seconds=1.0, deadline=1e-4))
    assert not late["passed"] and set(late["outcomes"]) == {"DeadlineExceeded"}
