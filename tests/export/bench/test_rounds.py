"""Interleaving, and what becomes of an engine that fails."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from longserve.export.bench import (
    BenchError,
    BenchSettings,
    Case,
    EngineKind,
    EngineSpec,
    rounds,
    run_benchmark,
)
from longserve.export.bench.errors import EngineFailed

CASES = [Case(length=length, batch=2, global_tokens=1) for length in (100, 200)]


class Engines:
    """Engines that take as long as they are told, and a record of all that was asked of them."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.asked: list[tuple[str, str, int]] = []
        self.opened: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()
        self.failing: dict[tuple[str, str, int], str] = {}

    def specs(self) -> list[EngineSpec]:
        return [EngineSpec(kind=EngineKind.ONNXRUNTIME, name=name, bundle="b") for name in self.seconds]

    def start(self, spec: EngineSpec, *, timeout: float) -> Link:
        self.opened[spec.name] += 1
        if (spec.name, "load", 0) in self.failing:
            raise EngineFailed(self.failing[spec.name, "load", 0])
        return Link(self, spec.name)


class Link:
    def __init__(self, engines: Engines, name: str) -> None:
        self._engines, self._name, self._length = engines, name, 0
        self.loaded: dict[str, Any] = {
            "runs_on": "nothing",
            "load_seconds": 0.5,
            "memory": {"resident": 10, "private": 5, "peak": 20},
        }

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        if command == "prepare":
            self._length = arguments["case"]["length"]
        key = (self._name, command, self._length)
        self._engines.asked.append(key)
        if key in self._engines.failing:
            raise EngineFailed(self._engines.failing[key])
        seconds = self._engines.seconds[self._name]
        reply: dict[str, Any] = {"note": None, "memory": {"resident": 10, "private": 5, "peak": self._length}}
        if command == "prepare":
            return reply | {"seconds": [9.0, seconds], "logits": [1.0, -4.0 * (1 + seconds / 100)]}
        return reply | {"seconds": [seconds, seconds, 100 * seconds], "parts": {}, "paged": 0}

    def close(self) -> None:
        self._engines.closed[self._name] += 1


def test_every_engine_runs_once_a_round_and_each_begins_in_turn() -> None:
    engines = Engines({"a": 1.0, "b": 2.0, "c": 0.5})
    report = run_benchmark(engines.specs(), CASES[:1], "t", BenchSettings(rounds=4), start=engines.start)
    turns = [name for name, command, _ in engines.asked if command == "run"]
    assert turns == [*"abc", *"bca", *"cab", *"abc"]
    ratios = {m.engine: report.ratio(m) for m in report.measurements}
    assert {name: ratio.median for name, ratio in ratios.items() if ratio} == {"a": 1.0, "b": 0.5, "c": 2.0}
    assert [m.tokens_per_second for m in report.measurements] == [200.0, 100.0, 400.0]
    assert engines.closed == Counter("abc")


def test_an_engine_is_compared_with_the_baseline() -> None:
    engines = Engines({"a": 1.0, "b": 2.0})
    report = run_benchmark(engines.specs(), CASES[:1], "t", BenchSettings(rounds=1), start=engines.start)
    first, second = report.measurements
    assert report.difference(first) == 0.0
    assert report.difference(second) == pytest.approx(0.04 / 4.04)


@pytest.mark.parametrize("command", ["prepare", "run"])
def test_an_engine_that_fails_at_a_case_says_why_and_is_tried_at_the_next(command: str) -> None:
    engines = Engines({"a": 1.0, "b": 2.0})
    engines.failing["b", command, 100] = "no memory"
    report = run_benchmark(engines.specs(), CASES, "t", BenchSettings(rounds=3), start=engines.start)
    failed, later = (report.measurement("b", case) for case in CASES)
    assert failed.error == "no memory" and failed.seconds is None and report.ratio(failed) is None
    assert later.error is None and later.seconds is not None
    assert report.measurement("a", CASES[0]).error is None
    assert engines.opened == Counter({"a": 1, "b": 2})
    report.raise_if_all_failed()


def test_an_engine_that_cannot_be_loaded_has_its_rows() -> None:
    engines = Engines({"a": 1.0, "b": 2.0})
    engines.failing["a", "load", 0] = "not installed"
    report = run_benchmark(engines.specs(), CASES, "t", BenchSettings(rounds=1), start=engines.start)
    assert [report.measurement("a", case).error for case in CASES] == ["not installed"] * 2
    assert report.engines[0].runs_on is None and engines.opened["a"] == 1
    assert report.ratio(report.measurement("b", CASES[0])) is None


def test_groups_are_measured_beside_the_baseline_one_after_the_other() -> None:
    engines = Engines({"a": 1.0, "b": 2.0, "c": 0.5, "d": 4.0})
    loaded: list[int] = []

    def start(spec: EngineSpec, *, timeout: float) -> Link:
        link = engines.start(spec, timeout=timeout)
        loaded.append(sum(engines.opened.values()) - sum(engines.closed.values()))
        if sum(engines.opened.values()) > 3:  # the machine is half as fast for the second group
            engines.seconds |= {"a": 2.0, "d": 8.0}
        return link

    settings = BenchSettings(rounds=2, at_once=3)
    report = run_benchmark(engines.specs(), CASES, "t", settings, start=start)
    assert max(loaded) == 3 and engines.opened == Counter({"a": 2, "b": 1, "c": 1, "d": 1})
    assert [record.spec.name for record in report.engines] == ["a", "b", "c", "d"]
    assert [(m.engine, m.case) for m in report.measurements] == [(e, c) for c in CASES for e in "abcd"]
    ratios = [report.ratio(report.measurement(name, CASES[1])) for name in "abcd"]
    assert [ratio.median for ratio in ratios if ratio] == [1.0, 0.5, 2.0, 0.25]
    assert report.measurement("a", CASES[0]).rounds == (1.0, 1.0)


def test_peaks_are_of_the_case_and_of_the_whole_process() -> None:
    engines = Engines({"a": 1.0})
    report = run_benchmark(engines.specs(), CASES, "t", BenchSettings(rounds=1), start=engines.start)
    assert [m.peak_bytes for m in report.measurements] == [100, 200]
    assert (report.engines[0].loaded_bytes, report.engines[0].peak_bytes) == (10, 200)


def test_memory_that_runs_out_ends_an_engine_before_the_system_ends_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engines = Engines({"a": 1.0, "b": 2.0})

    def one_engine_fits() -> None:
        if sum(engines.opened.values()) - sum(engines.closed.values()) >= 2:
            raise EngineFailed("only 900 MB of memory are free")

    monkeypatch.setattr(rounds, "check_free_memory", one_engine_fits)
    report = run_benchmark(engines.specs(), CASES, "t", BenchSettings(rounds=1), start=engines.start)
    assert {m.error for m in report.measurements} == {None, "only 900 MB of memory are free"}
    assert engines.opened == engines.closed


def test_a_run_without_any_figure_fails() -> None:
    engines = Engines({"a": 1.0})
    engines.failing["a", "load", 0] = "not installed"
    report = run_benchmark(engines.specs(), CASES, "t", BenchSettings(rounds=1), start=engines.start)
    with pytest.raises(BenchError, match="every engine failed, the first one so: not installed"):
        report.raise_if_all_failed()
