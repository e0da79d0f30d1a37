"""How many requests a text model holds, by its configuration, and what becomes of one more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from triton_fixture import CLASSIFIER, QA, RunningServer

from longserve.serving.repository import RepositoryOptions, build_repository
from longserve.serving.runtime.turned_away import TurnedAwayCount
from longserve.serving.server.turnstile import Holding, ModelFull, Turnstile, read_holdings


def test_text_models_hold_what_was_asked_for(classification_bundle: Path, tmp_path: Path) -> None:
    options = RepositoryOptions(max_queue_size=3, text_instances=2)
    build_repository(classification_bundle, "topics", tmp_path, options)
    assert read_holdings(tmp_path) == {"topics": Holding(6, "1")}
    (tmp_path / "topics" / "12").mkdir()  # each version has its own processes
    assert read_holdings(tmp_path) == {"topics": Holding(12, "12")}


@pytest.mark.parametrize(
    "change",
    [
        ("KIND_CPU", "KIND_AUTO"),
        ('string_value: "3"', 'string_value: "many"'),
        ('"max_queue_size"', '"other"'),
        ("count: 2", "count: 0"),
        ("name:", "\\"),
    ],
)
def test_models_whose_room_is_not_known_are_let_through(
    classification_bundle: Path, tmp_path: Path, change: tuple[str, str]
) -> None:
    options = RepositoryOptions(max_queue_size=3, text_instances=2)
    build_repository(classification_bundle, "topics", tmp_path, options)
    config = tmp_path / "topics" / "config.pbtxt"
    written = config.read_text()
    assert change[0] in written
    config.write_text(written.replace(*change))
    assert read_holdings(tmp_path) == {}


def test_the_models_of_a_server(triton_server: RunningServer) -> None:
    assert set(read_holdings(triton_server.repository)) == {CLASSIFIER, QA}


def test_one_more_than_there_is_room_for_is_counted_and_logged(tmp_path: Path) -> None:
    lines: list[str] = []
    directory = tmp_path / "turned-away"
    holdings = {"topics": Holding(2, "7"), "reader": Holding(1, "1")}
    turnstile = Turnstile(holdings, directory, lines.append)
    count = TurnedAwayCount(directory / "topics")
    turnstile.enter("topics", "a")
    turnstile.enter("topics", "b")
    for name in ("c", "d"):
        with pytest.raises(ModelFull, match=r"^Exceeds maximum queue size$"):
            turnstile.enter("topics", name)
    turnstile.enter("reader", "e")
    assert count.take() == 2
    assert [(json.loads(line)["request_id"], json.loads(line)["outcome"]) for line in lines] == [
        ("c", "overloaded"),
        ("d", "overloaded"),
    ]
    assert json.loads(lines[0])["model"] == "topics" and json.loads(lines[0])["version"] == "7"
    turnstile.leave("topics")
    turnstile.enter("topics", "f")
    with pytest.raises(ModelFull):
        turnstile.enter("topics", "g")
    turnstile.close()
    with pytest.raises(ModelFull):
        turnstile.enter("topics", "h")
    assert count.take() == 1


def test_models_that_are_not_counted_are_let_through() -> None:
    turnstile = Turnstile()
    for _ in range(2000):
        turnstile.enter("theirs", "")
    turnstile.leave("theirs")
    turnstile.close()
