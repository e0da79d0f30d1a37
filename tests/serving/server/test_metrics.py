"""The metrics of a real server tell what really happened."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from checkpoints import WORDS
from kserve import Caller, GrpcCaller, Refused, bytes_tensor, kept_busy
from prometheus import Scrape, scrape, settled
from triton_fixture import CLASSIFIER, QA, RunningServer

from longserve.serving import Bundle
from longserve.serving.runtime.metrics import METRICS, Kind

ENCODER = f"{CLASSIFIER}_encoder"
LONG = f"{WORDS} " * 40
Growth = Callable[..., float]


@pytest.fixture
def growth(triton_server: RunningServer) -> Callable[[Callable[[], Any]], Growth]:
    """Do something, and return by how much a sample has grown."""

    def measure(act: Callable[[], Any]) -> Growth:
        before = settled(triton_server.urls.metrics)
        act()
        after = settled(triton_server.urls.metrics)

        def grown(name: str, **labels: str) -> float:
            return after.value(name, **labels) - before.value(name, **labels)

        return grown

    return measure


@pytest.fixture(scope="module")
def scraped(triton_server: RunningServer) -> Scrape:
    return scrape(triton_server.urls.metrics)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_there_from_the_start_with_its_type(scraped: Scrape, name: str) -> None:
    spec = METRICS[name]
    assert scraped.types[name] == spec.kind.value
    sample = f"{name}_count" if spec.kind is Kind.HISTOGRAM else name
    models = {labels["model"] for labels in scraped.labels(sample)}
    text_models, encoders = {CLASSIFIER, QA}, {ENCODER, f"{QA}_encoder"}
    assert models in (text_models, encoders, text_models | encoders)


def test_which_bundle_is_served_can_be_read(scraped: Scrape, triton_server: RunningServer) -> None:
    bundle = Bundle.open(triton_server.qa_bundle)
    for model in (QA, f"{QA}_encoder"):
        labels = {"bundle": bundle.fingerprint[:12], "precision": "fp32", "validated": "true"}
        assert scraped.value("longserve_model_info", model=model, task="question-answering", **labels) == 1
    (info,) = [each for each in scraped.labels("longserve_model_info") if each["model"] == ENCODER]
    assert info["engine"] == "onnxruntime CPUExecutionProvider"


def test_an_answer_is_measured(growth: Any, caller: Caller) -> None:
    results: list[Any] = []
    texts = bytes_tensor("a lantern", LONG)
    grown = growth(lambda: results.append(caller.infer(CLASSIFIER, {"TEXT": texts})))
    tokens, windows = (results[0][name].reshape(-1).tolist() for name in ("TOKENS", "WINDOWS"))
    assert windows[1] > 3
    assert grown("longserve_requests_total", model=CLASSIFIER, outcome="answered") == 1
    assert grown("longserve_requests_total", model=QA, outcome="answered") == 0
    for name, values in (("longserve_text_tokens", tokens), ("longserve_text_windows", windows)):
        assert grown(f"{name}_count", model=CLASSIFIER) == 2
        assert grown(f"{name}_sum", model=CLASSIFIER) == sum(values)
    assert grown("longserve_text_windows_bucket", model=CLASSIFIER, le="1") == 1
    for name in ("tokenization", "encoder", "decoding"):
        assert grown(f"longserve_{name}_seconds_count", model=CLASSIFIER) == 2
        assert 0 < grown(f"longserve_{name}_seconds_sum", model=CLASSIFIER) < 60
    # the windows repeat special tokens and what they share
    assert grown("longserve_run_sequences_sum", model=ENCODER) == sum(windows)
    assert grown("longserve_run_sequences_count", model=ENCODER) < sum(windows)
    assert grown("longserve_run_tokens_sum", model=ENCODER) > sum(tokens)
    assert grown("longserve_run_seconds_sum", model=ENCODER) > 0


def test_what_a_text_model_holds_is_told(triton_server: RunningServer, caller: Caller) -> None:
    def held(model: str) -> float:
        return scrape(triton_server.urls.metrics).value("longserve_requests_held", model=model)

    seen = []
    with ThreadPoolExecutor(6) as pool:
        texts = bytes_tensor(LONG * 3)
        answers = [pool.submit(caller.infer, CLASSIFIER, {"TEXT": texts}) for _ in range(12)]
        while not all(answer.done() for answer in answers):
            seen.append(held(CLASSIFIER))
    assert 1 < max(seen) <= 6 and held(QA) == 0
    settled(triton_server.urls.metrics)
    assert held(CLASSIFIER) == 0


def test_mixed_lengths_are_run_without_padding(growth: Any, grpc: GrpcCaller, qa_encoder: str) -> None:
    def ask(number: int) -> None:
        context = bytes_tensor("so " * (1 + number * 37) + WORDS)
        grpc.infer(QA, {"QUESTION": bytes_tensor("who"), "CONTEXT": context})

    long_one = {
        "input_ids": np.full((1, 512), 7, dtype=np.int64),
        "global_attention_mask": np.eye(1, 512, dtype=np.int64),
    }

    def act() -> None:
        with kept_busy(lambda: grpc.infer(qa_encoder, long_one)), ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(8)))

    grown = growth(act)
    tokens = grown("longserve_positions_total", model=qa_encoder, holds="token")
    assert tokens == grown("longserve_run_tokens_sum", model=qa_encoder) > 1000
    assert grown("longserve_positions_total", model=qa_encoder, holds="padding") == 0
    runs = grown("longserve_run_sequences_count", model=qa_encoder)
    assert runs == grown("nv_inference_exec_count", model=qa_encoder)
    requests = grown("nv_inference_request_success", model=qa_encoder)
    assert runs < requests > 8


@pytest.fixture(scope="module")
def qa_encoder() -> str:
    return f"{QA}_encoder"


REFUSED: dict[str, tuple[bytes, dict[str, Any]]] = {
    "empty": (b"", {}),
    "not_text": (b"\xff", {}),
    "option": (b"text", {"top_k": 0}),
    "too_large": (b"x" * (5 << 20), {}),
    "too_many_windows": (LONG.encode() * 20, {"stride": 505}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refusals_are_counted_by_reason(growth: Any, grpc: GrpcCaller, reason: str) -> None:
    text, parameters = REFUSED[reason]

    def act() -> None:
        with pytest.raises(Refused):
            grpc.infer(CLASSIFIER, {"TEXT": bytes_tensor(text)}, parameters)

    grown = growth(act)
    assert grown("longserve_requests_total", model=CLASSIFIER, outcome="refused") == 1
    assert grown("longserve_refusals_total", model=CLASSIFIER, reason=reason) == 1
    assert grown("longserve_text_tokens_count", model=CLASSIFIER) == 0
