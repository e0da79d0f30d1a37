from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from longserve.serving import Answer, Client, InvalidInput, Overloaded, RequestError, RetryPolicy
from longserve.serving.client.calls import InferenceCall, Outputs
from longserve.serving.client.inquiries import Inquiry


class EchoTransport:
    """Answers with what was asked; remembers the calls and how many were in flight at once."""

    def __init__(self, fails_on: bytes | None = None) -> None:
        self.calls: list[tuple[InferenceCall, float]] = []
        self.in_flight = self.most_in_flight = 0
        self.closed = 0
        self._fails_on = fails_on
        self._lock = threading.Lock()

    def infer(self, call: InferenceCall, timeout: float) -> Outputs:
        with self._lock:
            self.calls.append((call, timeout))
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            text = next(iter(call.inputs.values())).item()
            time.sleep(0.02 if text.startswith(b"slow") else 0.001)
            if text == self._fails_on:
                raise Overloaded("full")
            one = np.array([[1]], dtype=np.int32)
            score = np.array([[0.5]], dtype=np.float32)
            named = np.array([[text]], dtype=np.object_)
            if "TEXT" in call.inputs:
                return {"LABEL": named, "SCORE": score, "TOKENS": one, "WINDOWS": one}
            answer = np.array([[text + b"|" + call.inputs["CONTEXT"].item()]], dtype=np.object_)
            return {"ANSWER": answer, "SCORE": score, "START": one, "END": one, "TOKENS": one, "WINDOWS": one}
        finally:
            with self._lock:
                self.in_flight -= 1

    def ask(self, inquiry: Inquiry, timeout: float) -> Any:
        return timeout < 10

    def close(self) -> None:
        self.closed += 1


def make_client(transport: EchoTransport, **options: Any) -> Client:
    options.setdefault("retry", RetryPolicy(attempts=1))
    return Client("grpc://nowhere:1", transport=transport, **options)


def test_one_text_gives_one_result() -> None:
    transport = EchoTransport()
    with make_client(transport, timeout=7) as client:
        assert client.classify("hello").label == "hello"
        assert client.answer("q", "c") == [Answer("q|c", 0.5, 1, 1, 1, 1)]
    (first, timeout), (second, _) = transport.calls
    assert (first.model, first.parameters, timeout) == ("longformer_classification", {}, 7.0)
    assert (second.model, second.parameters) == ("longformer_qa", {})


def test_options_travel_as_parameters_and_the_models_can_be_chosen() -> None:
    transport = EchoTransport()
    client = make_client(transport, classification_model="mine", qa_model="its")
    client.classify("a", top_k=2, function_to_apply="none", stride=0, window_combination="max", timeout=3)
    client.classify("a", model="other")
    client.answer("q", "c", top_k=3, max_answer_tokens=9, stride=5, handle_impossible_answer=False)
    (first, timeout), (second, _), (third, _) = transport.calls
    assert timeout == 3.0
    assert [call.model for call in (first, second, third)] == ["mine", "other", "its"]
    assert first.parameters == {
        "top_k": 2,
        "function_to_apply": "none",
        "stride": 0,
        "window_combination": "max",
    }
    assert third.parameters == {
        "top_k": 3,
        "max_answer_tokens": 9,
        "stride": 5,
        "handle_impossible_answer": False,
    }


def test_many_texts_go_concurrently_but_bounded_and_come_in_order() -> None:
    transport = EchoTransport()
    texts = [f"{'slow' if i % 3 == 0 else 'fast'} {i}" for i in range(60)]
    with make_client(transport, concurrency=4) as client:
        assert [result.label for result in client.classify(texts)] == texts
    assert 2 <= transport.most_in_flight <= 4


def test_many_questions_and_contexts() -> None:
    with make_client(EchoTransport()) as client:
        assert [[a.answer for a in answers] for answers in client.answer(["q", "r"], "c")] == [
            ["q|c"],
            ["r|c"],
        ]
        assert [[a.answer for a in answers] for answers in client.answer("q", ["c", "d"])] == [
            ["q|c"],
            ["q|d"],
        ]
        assert client.answer([], []) == []
        assert client.classify([]) == []


def test_the_first_failure_is_raised_with_its_index_and_the_rest_is_not_sent() -> None:
    transport = EchoTransport(fails_on=b"bad")
    with make_client(transport, concurrency=1) as client, pytest.raises(Overloaded, match=r"^text 3: full"):
        client.classify(["a", "b", "c", "bad", *(f"slow {i}" for i in range(50))])
    assert len(transport.calls) < 50


def test_one_client_serves_many_threads() -> None:
    transport = EchoTransport()
    client = make_client(transport)
    wrong: list[str] = []

    def work(index: int) -> None:
        texts = [f"{index}.{i}" for i in range(20)]
        if [result.label for result in client.classify(texts)] != texts:
            wrong.append(f"thread {index}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(transport.calls) == 160


def test_a_closed_client_says_so() -> None:
    transport = EchoTransport()
    with make_client(transport) as client:
        assert client.server_ready()
        assert not client.server_ready(timeout=20)
    client.close()
    assert transport.closed == 1
    for use in (lambda: client.classify("a"), lambda: client.classify(["a"]), client.server_ready):
        with pytest.raises(RequestError, match=r"client of grpc://nowhere:1 is closed"):
            use()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "3", True, 1e9])
def test_bad_timeouts_are_refused(timeout: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^timeout is "):
        make_client(EchoTransport(), timeout=timeout)
    with pytest.raises(InvalidInput, match=r"^timeout is "):
        make_client(EchoTransport()).classify("a", timeout=timeout)


def test_bad_texts_are_refused_before_anything_is_sent() -> None:
    transport = EchoTransport()
    client: Any = make_client(transport)
    for bad in (None, b"bytes", ["a", 3]):
        with pytest.raises(InvalidInput):
            client.classify(bad)
        with pytest.raises(InvalidInput):
            client.answer("q", bad)
    assert transport.calls == []


@pytest.mark.parametrize("concurrency", [0, 1.5, None])
def test_bad_concurrency_is_refused(concurrency: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^concurrency is "):
        make_client(EchoTransport(), concurrency=concurrency)
