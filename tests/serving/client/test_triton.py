"""Both clients over both protocols against a real Triton."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import WORDS
from triton_fixture import CLASSIFIER, FREE_PORTS, QA, RunningServer

from longserve.serving import (
    AccessDenied,
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidInput,
    LocalClient,
    ModelNotFound,
    RequestError,
    RetryPolicy,
    ServedModel,
    ServerUnavailable,
)
from longserve.serving.server import ServerUrls, TritonServer
from longserve.serving.server.access import AccessPolicy, Api, closed_apis

from .facade import BlockingAsyncClient

pytestmark = pytest.mark.timeout(300)
SHORT = "the miller of the valley"
LONG = f"{WORDS} " * 40
QUESTION = "who counted seven lanterns"
LABELS = ("alpha", "beta", "gamma", "delta", "epsilon")
ENDPOINTS = [(kind, protocol) for kind in ("Client", "AsyncClient") for protocol in ("grpc", "http")]


def make_client(kind: str, url: str, **options: Any) -> Any:
    return {"Client": Client, "AsyncClient": BlockingAsyncClient}[kind](url, **options)


def url_of(urls: ServerUrls, protocol: str) -> str:
    return {"grpc": urls.grpc, "http": urls.http}[protocol]


@pytest.fixture(params=ENDPOINTS, ids=lambda each: "-".join(each))
def client(request: pytest.FixtureRequest, triton_server: RunningServer) -> Iterator[Any]:
    kind, protocol = request.param
    with make_client(kind, url_of(triton_server.urls, protocol)) as client:
        yield client


@pytest.fixture(scope="module")
def classifier(triton_server: RunningServer) -> Iterator[LocalClient]:
    with LocalClient(triton_server.classification_bundle) as local:
        yield local


@pytest.fixture(scope="module")
def reader(triton_server: RunningServer) -> Iterator[LocalClient]:
    with LocalClient(triton_server.qa_bundle) as local:
        yield local


def assert_close(result: Any, expected: Any) -> None:
    assert (result.label, result.tokens, result.windows) == (
        expected.label,
        expected.tokens,
        expected.windows,
    )
    assert list(result.scores) == list(expected.scores)
    np.testing.assert_allclose(list(result.scores.values()), list(expected.scores.values()), atol=1e-5)


def test_results_are_those_of_the_bundle(client: Any, classifier: LocalClient, reader: LocalClient) -> None:
    for text in (SHORT, LONG, "é \U0001f600 日本語"):
        assert_close(client.classify(text), classifier.classify(text))
    for result, expected in zip(
        client.answer(QUESTION, [WORDS, LONG], top_k=3),
        reader.answer(QUESTION, [WORDS, LONG], top_k=3),
        strict=True,
    ):
        assert [(a.answer, a.start, a.end, a.windows) for a in result] == [
            (a.answer, a.start, a.end, a.windows) for a in expected
        ]
        np.testing.assert_allclose([a.score for a in result], [a.score for a in expected], rtol=1e-3)


def test_windows_are_those_of_the_bundle(client: Any, classifier: LocalClient, reader: LocalClient) -> None:
    result, expected = client.classify_windows(LONG, top_k=2), classifier.classify_windows(LONG, top_k=2)
    assert_close(result.combined, expected.combined)
    assert len(result.windows) == result.combined.windows > 2
    for window, wanted in zip(result.windows, expected.windows, strict=True):
        assert (window.start, window.end, window.tokens) == (wanted.start, wanted.end, wanted.tokens)
        assert window.label == wanted.label and list(window.scores) == list(wanted.scores)
        np.testing.assert_allclose(window.score, wanted.score, atol=1e-5)
    found, wanted_answers = client.answer_windows(QUESTION, LONG), reader.answer_windows(QUESTION, LONG)
    assert [(w.start, w.end, w.tokens) for w in found.windows] == [
        (w.start, w.end, w.tokens) for w in wanted_answers.windows
    ]
    assert [w.answers[0].answer for w in found.windows] == [
        w.answers[0].answer for w in wanted_answers.windows
    ]
    assert found.combined[0].answer == wanted_answers.combined[0].answer


def test_streams_keep_the_order(client: Any, classifier: LocalClient) -> None:
    texts = [f"{SHORT} {'and the fox ' * (i % 7 * 20)}{i}" for i in range(60)]
    results = list(client.classify_many((text for text in texts), top_k=1))
    assert [r.tokens for r in results] == [classifier.classify(text).tokens for text in texts]
    answers = list(client.answer_many([("who", SHORT), ("what", WORDS)]))
    assert [len(each) for each in answers] == [1, 1]
    with pytest.raises(InvalidInput, match=r"^text 20: .*request many-20.*text is empty"):
        list(client.classify_many(["a"] * 20 + [""] + ["b"] * 20, request_id="many"))


def test_raw_logits(client: Any, classifier: LocalClient, reader: LocalClient) -> None:
    ids, mask = [0, *range(5, 200), 2], [1] + [0] * 196
    output, expected = client.logits(ids, mask), classifier.logits(ids, mask)
    np.testing.assert_allclose(output.logits, expected.logits, atol=1e-4)
    spans = client.logits(np.array(ids), np.array(mask), model=f"{QA}_encoder")
    np.testing.assert_allclose(spans.start_logits, reader.logits(ids, mask).start_logits, atol=1e-4)
    assert spans.end_logits.shape == (197,)
    with pytest.raises(InvalidInput, match=rf"'{CLASSIFIER}_encoder' .* input_ids has the value 99999"):
        client.logits([0, 99999], [1, 0])


def test_metadata(client: Any) -> None:
    names = [CLASSIFIER, f"{CLASSIFIER}_encoder", QA, f"{QA}_encoder"]
    assert client.models() == [ServedModel(name=name, versions=("1",), ready=True) for name in names]
    assert client.labels() == LABELS and client.labels(QA) == ()
    limits, encoder = client.limits(), client.limits(f"{QA}_encoder")
    assert (limits.max_length, limits.max_batch_size, limits.max_queue_size) == (512, 16, 128)
    assert (limits.max_text_bytes, limits.max_windows) == (4 << 20, 256)
    assert (encoder.max_length, encoder.max_text_bytes, encoder.max_windows) == (512, None, None)
    for ask in (client.labels, client.limits):
        with pytest.raises(ModelNotFound, match=r"'nothing' at .* \(configuration\)"):
            ask("nothing")


def test_readiness(client: Any) -> None:
    assert client.server_ready()
    client.wait_until_ready(20)
    client.wait_until_ready(20, model=QA)
    with pytest.raises(ServerUnavailable, match=r"'nothing' .* not ready within 0\.3 s"):
        client.wait_until_ready(0.3, model="nothing")


@pytest.mark.parametrize(
    ("ask", "kind", "cause"),
    [
        (lambda c: c.classify("", request_id="me"), InvalidInput, "the text is empty"),
        (lambda c: c.answer("", "c", request_id="me"), InvalidInput, "the question is empty"),
        (lambda c: c.classify("a", model="nothing", request_id="me"), ModelNotFound, "unknown model"),
        (
            lambda c: c.logits([0], [1], model="nothing", request_id="me"),
            ModelNotFound,
            rf"; the server has {CLASSIFIER}, {CLASSIFIER}_encoder, {QA}, {QA}_encoder$",
        ),
        (lambda c: c.classify("a", model=QA, request_id="me"), InvalidInput, "TEXT.*answers questions"),
        (lambda c: c.answer("a", "b", model=CLASSIFIER, request_id="me"), InvalidInput, "classifies texts"),
        (lambda c: c.classify(LONG * 20, timeout=0.02, request_id="me"), DeadlineExceeded, "in time"),
        (lambda c: c.classify("x " * (2 << 20) + "x", request_id="me"), InvalidInput, "max_text_bytes"),
        (lambda c: c.classify(LONG * 20, stride=505, request_id="me"), InvalidInput, "max_windows"),
    ],
)
def test_errors_name_model_request_and_cause(client: Any, ask: Any, kind: type, cause: str) -> None:
    with pytest.raises(kind, match=cause) as caught:
        ask(client)
    assert type(caught.value) is kind
    assert "(request me)" in str(caught.value) and "model '" in str(caught.value)
    assert client.server_ready()


def test_one_client_serves_many_threads(client: Any, classifier: LocalClient) -> None:
    expected = {text: classifier.classify(text).label for text in (SHORT, WORDS, "fox")}
    wrong: list[str] = []

    def work() -> None:
        for text, label in list(expected.items()) * 5:
            if client.classify(text).label != label:
                wrong.append(text)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong and not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_asynchronous_sources_cancelling_and_closing(triton_server: RunningServer, protocol: str) -> None:
    async def texts() -> AsyncIterator[str]:
        for index in range(10):
            await asyncio.sleep(0.001)
            yield f"{SHORT} {index}"

    async def use() -> None:
        async with AsyncClient(url_of(triton_server.urls, protocol), concurrency=3) as client:
            results = [result async for result in client.classify_many(texts())]
            assert len(results) == 10
            async for _ in client.classify_many([SHORT] * 50):
                break  # a stream that is left early
            task = asyncio.create_task(client.classify(LONG * 10))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await client.classify(SHORT)).windows == 1
            under_way = asyncio.create_task(client.classify(LONG * 10))
            await asyncio.sleep(0.05)
        with pytest.raises(RequestError):
            await under_way
        with pytest.raises(RequestError, match="is closed"):
            await client.classify(SHORT)

    asyncio.run(use())


ADMIN_KEY = "a-key-that-the-tests-know"


def serve_closed(repository: Path, closed: frozenset[Api]) -> TritonServer:
    access = AccessPolicy(closed=closed, key=ADMIN_KEY)
    return TritonServer(repository, access=access, ports=FREE_PORTS, log=sys.stderr, grace=2.0)


def test_a_server_that_keeps_its_administration_closed(triton_server: RunningServer) -> None:
    with serve_closed(triton_server.repository, closed_apis(public=True)) as server:
        for kind, protocol in ENDPOINTS:
            url = url_of(server.urls, protocol)
            with make_client(kind, url) as client:
                assert client.classify(SHORT).windows == 1
                assert client.models()[0].name == CLASSIFIER  # by the statistics
                for ask in (client.labels, client.limits):
                    with pytest.raises(AccessDenied, match=r"inputs TEXT BYTES \[-1, 1\]; outputs LABEL"):
                        ask()
            header = "admin-key" if protocol == "http" else "triton-grpc-protocol-admin-key"
            with make_client(kind, url, headers={header: ADMIN_KEY}) as client:
                assert client.labels() == LABELS and len(client.models()) == 4
    with serve_closed(
        triton_server.repository, frozenset({Api.MODEL_REPOSITORY, Api.STATISTICS, Api.INFERENCE})
    ) as server:
        for kind, protocol in ENDPOINTS:
            with make_client(kind, url_of(server.urls, protocol)) as client:
                for ask in (client.models, lambda: client.classify(SHORT)):
                    with pytest.raises(AccessDenied, match="is restricted"):
                        ask()


def test_a_server_that_is_killed_and_comes_back_is_asked_again(
    triton_server: RunningServer, classifier: LocalClient
) -> None:
    expected = classifier.classify(SHORT).label
    options: dict[str, Any] = {"repository": triton_server.repository, "log": sys.stderr, "grace": 2.0}
    with TritonServer(ports=FREE_PORTS, **options) as first:
        ports = first._ports
        assert ports is not None
        patient = RetryPolicy(attempts=1000, initial_backoff=0.1, max_backoff=0.5)
        clients = [
            make_client(kind, url_of(first.urls, protocol), retry=patient) for kind, protocol in ENDPOINTS
        ]
        stop = threading.Event()
        with ThreadPoolExecutor(len(clients)) as pool:
            asking = [pool.submit(_classify_until, stop, client) for client in clients]
            try:
                first.stop()
                with TritonServer(ports=ports, **options):
                    stop.wait(2)
                    stop.set()
                    labels = [future.result(70) for future in asking]
            finally:
                stop.set()
    for client in clients:
        client.close()
    assert all(set(found) == {expected} for found in labels)


def _classify_until(stop: threading.Event, client: Any) -> list[str]:
    """Classify until told to stop, once at least; return the labels."""
    labels = [client.classify(SHORT, timeout=60).label]
    while not stop.is_set():
        labels.append(client.classify(SHORT, timeout=60).label)
    return labels
