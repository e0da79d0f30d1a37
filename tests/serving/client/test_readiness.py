"""Asking models whether they answer: what is asked, and what each answer means."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from triton_fixture import CLASSIFIER, QA, RunningServer

from longserve.serving import (
    AccessDenied,
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    ServerUnavailable,
    ServingError,
)
from longserve.serving.client.calls import InferenceCall, Outputs
from longserve.serving.client.inquiries import Inquiry, Topic
from longserve.serving.client.readiness import ModelReadiness, Readiness, ask_models, wait_for_answers

URL = "http://127.0.0.1:1"
INPUTS = {
    "letters": ["TEXT"],
    "letters_encoder": ["input_ids", "global_attention_mask"],
    "questions": ["QUESTION", "CONTEXT"],
    "ids_encoder": ["input_ids", "global_attention_mask", "token_type_ids"],
    "plain_encoder": ["input_ids"],
    "theirs": ["IMAGE"],
}
ANSWER: Outputs = {
    "LABEL": np.array([[b"a"]], dtype=np.object_),
    "ANSWER": np.array([[b"a"]], dtype=np.object_),
    "SCORE": np.array([[0.5]], dtype=np.float32),
    "START": np.array([[0]], dtype=np.int32),
    "END": np.array([[1]], dtype=np.int32),
    "TOKENS": np.array([[3]], dtype=np.int32),
    "WINDOWS": np.array([[1]], dtype=np.int32),
    "logits": np.zeros((1, 3), dtype=np.float32),
}


class Server:
    """A transport to a server that is told what its models do."""

    def __init__(
        self,
        models: Mapping[str, ServingError | None],
        *,
        ready: bool = True,
        unloaded: Mapping[str, str] | None = None,
        closed: tuple[Topic, ...] = (),
    ) -> None:
        self.models = models
        self.ready = ready
        self.unloaded = unloaded or {}
        self.closed = closed
        self.calls: list[InferenceCall] = []

    def infer(self, call: InferenceCall, timeout: float) -> Outputs:
        self.calls.append(call)
        failure = self.models[call.model]
        if failure is not None:
            raise failure
        return ANSWER

    def ask(self, inquiry: Inquiry, timeout: float) -> Any:
        if inquiry.topic in self.closed:
            raise AccessDenied(f"{inquiry.topic.value} is closed")
        if inquiry.topic is Topic.READY:
            return self.ready
        if inquiry.topic is Topic.METADATA:
            if inquiry.model not in self.models:
                raise ModelNotFound(f"unknown model {inquiry.model}")
            return {"inputs": [{"name": name} for name in INPUTS[inquiry.model]]}
        entries = [{"name": name, "version": "1", "state": "READY"} for name in self.models]
        if inquiry.topic is Topic.INDEX:
            for name, reason in self.unloaded.items():
                entries.append({"name": name, "version": "1", "state": "UNAVAILABLE", "reason": reason})
        return entries

    def close(self) -> None:
        pass


def states(found: list[ModelReadiness]) -> dict[str, str]:
    return {each.model: each.readiness.value for each in found}


def test_each_kind_of_model_is_asked_in_its_way() -> None:
    server = Server(dict.fromkeys(INPUTS))
    found = ask_models(URL, transport=server)
    asked = {call.model: set(call.inputs) for call in server.calls}
    assert asked == {
        "ids_encoder": {"input_ids", "global_attention_mask", "token_type_ids"},
        "letters": {"TEXT"},
        "plain_encoder": {"input_ids"},
        "questions": {"QUESTION", "CONTEXT"},
    }
    assert states(found) == dict.fromkeys(asked, "answers")
    assert {call.request_id for call in server.calls} == {"longserve-readiness"}


@pytest.mark.parametrize(
    ("failure", "readiness"),
    [
        (Overloaded("full"), Readiness.BUSY),
        (ServerUnavailable("its stub is not healthy"), Readiness.SILENT),
        (DeadlineExceeded("late"), Readiness.SILENT),
        (InferenceFailed("broken"), Readiness.SILENT),
    ],
)
def test_what_a_failure_means(failure: ServingError, readiness: Readiness) -> None:
    server = Server({"letters": failure, "questions": None})
    found = ask_models(URL, transport=server)
    assert states(found) == {"letters": readiness.value, "questions": "answers"}
    assert found[0].reason == str(failure) and found[1].reason == ""
    assert len(server.calls) == 2, "it asks once"


def test_a_model_that_is_not_loaded_is_silent() -> None:
    server = Server({"letters": None}, ready=False, unloaded={"questions": "no weights"})
    found = ask_models(URL, transport=server)
    assert states(found) == {"(server)": "silent", "letters": "answers", "questions": "silent"}
    assert "no weights" in found[2].reason


def test_where_the_index_is_closed_the_server_itself_must_be_ready() -> None:
    """The statistics, which are asked instead, do not name a model that is not loaded."""
    server = Server({"letters": None}, ready=False, unloaded={"questions": "?"}, closed=(Topic.INDEX,))
    assert states(ask_models(URL, transport=server)) == {"(server)": "silent", "letters": "answers"}
    assert states(ask_models(URL, ["letters"], transport=server)) == {"letters": "answers"}
    server = Server({"letters": None}, closed=(Topic.INDEX, Topic.STATISTICS))
    with pytest.raises(AccessDenied):
        ask_models(URL, transport=server)
    assert states(ask_models(URL, ["letters"], transport=server)) == {"letters": "answers"}


def test_models_that_are_named() -> None:
    server = Server(dict.fromkeys(INPUTS))
    found = ask_models(URL, ["letters_encoder", "nothing"], transport=server)
    assert states(found) == {"letters_encoder": "answers", "nothing": "silent"}
    with pytest.raises(InvalidInput, match="'theirs' takes IMAGE"):
        ask_models(URL, ["theirs"], transport=server)


def test_waiting_ends_when_all_answer_or_the_time_is_over() -> None:
    answers = ModelReadiness(model="a", readiness=Readiness.ANSWERS, seconds=0.0)
    busy = ModelReadiness(model="a", readiness=Readiness.BUSY, seconds=0.0, reason="full")
    script: list[Any] = [ServerUnavailable("down"), [], [busy], [answers]]

    def ask() -> list[ModelReadiness]:
        outcome = script.pop(0)
        if isinstance(outcome, ServingError):
            raise outcome
        return list(outcome)

    assert wait_for_answers(ask, {Readiness.ANSWERS}, 30) == [answers]
    script = [[busy]]
    assert wait_for_answers(ask, {Readiness.ANSWERS, Readiness.BUSY}, 30) == [busy]
    started = time.monotonic()
    assert wait_for_answers(lambda: [busy], {Readiness.ANSWERS}, 0.3) == [busy]
    assert 0.3 <= time.monotonic() - started < 5
    script = [ServerUnavailable("down")] * 100
    with pytest.raises(ServerUnavailable):
        wait_for_answers(ask, {Readiness.ANSWERS}, 0.3)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_real_server(triton_server: RunningServer, protocol: str) -> None:
    url = getattr(triton_server.urls, protocol)
    found = ask_models(url, timeout=30)
    assert states(found) == {CLASSIFIER: "answers", QA: "answers"}
    assert all(0 < each.seconds < 30 for each in found)
    named = ask_models(url, [f"{QA}_encoder", "nothing"], timeout=30)
    assert states(named) == {f"{QA}_encoder": "answers", "nothing": "silent"}
    assert "nothing" in named[1].reason
