"""When a model counts as ready: what it is asked, how often, and what its answer means."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from triton_fixture import CLASSIFIER, QA, RunningServer

from longserve.serving.runtime.request_record import PROBE_ID
from longserve.serving.server import questions
from longserve.serving.server.infer_request import InferBody, check_infer
from longserve.serving.server.questions import (
    Answer,
    Questions,
    Readiness,
    Unreachable,
    read_questions,
)

YES = Answer(200, b"{}")


class Models:
    """Answers as it is told, and counts."""

    def __init__(self, answer: Answer = YES, delay: float = 0.0) -> None:
        self.answer = answer
        self.delay = delay
        self.asked: list[str] = []

    async def __call__(self, model: str, body: bytes) -> Answer:
        self.asked.append(model)
        await asyncio.sleep(self.delay)
        return self.answer

    def readiness(self) -> Readiness:
        made = Readiness(self)
        made.questions = Questions(bodies={"a": b"", "a_encoder": b""}, of_the_server=("a",))
        return made


def test_the_questions_of_a_repository(triton_server: RunningServer, tmp_path: Path) -> None:
    found = read_questions(triton_server.repository)
    assert set(found.bodies) == {CLASSIFIER, QA, f"{CLASSIFIER}_encoder", f"{QA}_encoder"}
    assert found.of_the_server == (CLASSIFIER, QA)
    for body in found.bodies.values():
        assert check_infer(InferBody(body, None)).content
        assert json.loads(body)["id"] == PROBE_ID
    for name, content in (("theirs", b'name: "theirs" input { name: "IMAGE" }'), ("broken", b"\xff {")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_bytes(content)
    assert read_questions(tmp_path).bodies == {}


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (YES, None),
        (Answer(503, b'{"error": "Exceeds maximum queue size"}'), None),
        (Answer(503, b'{"error": "Stub process is not healthy"}'), "Stub process is not healthy"),
        (Answer(500, b"?"), "status 500"),
        (Answer(400, b"[]"), "status 400"),
    ],
)
def test_what_an_answer_means(answer: Answer, fault: str | None) -> None:
    models = Models(answer)
    found = asyncio.run(models.readiness().fault("a"))
    assert found == (None if fault is None else f"a is loaded, but does not answer: {fault}")


def test_who_is_asked() -> None:
    models = Models()

    async def ask() -> None:
        readiness = models.readiness()
        for model in (None, "a_encoder", "theirs"):
            assert await readiness.fault(model) is None

    asyncio.run(ask())
    assert models.asked == ["a", "a_encoder"]


def test_a_model_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "SECONDS_PER_QUESTION", 0.05)
    fault = asyncio.run(Models(delay=10).readiness().fault(None))
    assert fault == "a is loaded, but does not answer: no answer within 0.05 seconds"


@pytest.mark.parametrize("together", [True, False])
def test_many_who_ask_cost_one_question(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Models(delay=0.01)

    async def ask(count: int, readiness: Readiness) -> None:
        if together:
            await asyncio.gather(*(readiness.fault("a") for _ in range(count)))
        else:
            for _ in range(count):
                await readiness.fault("a")

    async def twice() -> None:
        readiness = models.readiness()
        await ask(50, readiness)
        assert len(models.asked) == 1
        monkeypatch.setattr(questions, "_REMEMBERED_SECONDS", 0.0)
        await ask(1, readiness)

    asyncio.run(twice())
    assert len(models.asked) == 2


def test_that_triton_cannot_be_reached_is_not_remembered() -> None:
    reached = False

    async def ask(model: str, body: bytes) -> Answer:
        if not reached:
            raise Unreachable("it is starting")
        return YES

    async def while_it_starts() -> None:
        nonlocal reached
        readiness = Readiness(ask)
        readiness.questions = Questions(bodies={"a": b""}, of_the_server=("a",))
        assert await readiness.fault(None) == "a is loaded, but does not answer: it is starting"
        reached = True
        assert await readiness.fault(None) is None

    asyncio.run(while_it_starts())
