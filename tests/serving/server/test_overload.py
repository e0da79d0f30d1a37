"""A full text model refuses at once; a request's time is kept while it waits; short texts overtake."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from checkpoints import WORDS
from kserve import Caller, GrpcCaller, HttpCaller, Refused, bytes_tensor
from prometheus import Scrape, settled
from triton_fixture import FREE_PORTS

from longserve.serving.repository import RepositoryOptions, build_repository
from longserve.serving.server import ServerUrls, TritonServer
from longserve.serving.server.journal import LogFormat

MODEL = "narrow"
UNAVAILABLE = {"http": "503", "grpc": "StatusCode.UNAVAILABLE"}
LONG = f"{WORDS} " * 1200  # some 500 windows, a second or more
SHORT = "free again"


@pytest.fixture(scope="module")
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def urls(
    classification_bundle: Path, log: io.StringIO, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerUrls]:
    """A server whose model holds three requests and has one window at the encoder."""
    repository = tmp_path_factory.mktemp("narrow")
    options = RepositoryOptions(max_queue_size=3, text_instances=1, max_in_flight=1, max_windows=1000)
    build_repository(classification_bundle, MODEL, repository, options)
    with TritonServer(repository, ports=FREE_PORTS, log=log, log_format=LogFormat.JSON, grace=2.0) as server:
        yield server.urls


@pytest.fixture(params=["http", "grpc"])
def narrow(request: pytest.FixtureRequest, urls: ServerUrls) -> tuple[Caller, str]:
    """A caller and the status by which its protocol says "not now"."""
    caller: Caller = HttpCaller(urls) if request.param == "http" else GrpcCaller(urls)
    return caller, UNAVAILABLE[request.param]


def windows(caller: Caller, text: str, timeout: float | None = None) -> int:
    parameters = {} if timeout is None else {"timeout": round(timeout * 1e6)}
    return int(caller.infer(MODEL, {"TEXT": bytes_tensor(text)}, parameters)["WINDOWS"][0, 0])


@contextmanager
def busy(caller: Caller, requests: int) -> Iterator[list[float]]:
    """Keep the model at long documents; gives the times at which they were answered."""
    ended: list[float] = []

    def ask() -> None:
        assert windows(caller, LONG) > 100
        ended.append(time.monotonic())

    threads = [threading.Thread(target=ask) for _ in range(requests)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.4)
        assert not ended, "the document is too short for this machine"
        yield ended
    finally:  # or the next test would find the model full
        for thread in threads:
            thread.join(60)
    assert len(ended) == requests


def test_a_full_model_refuses_at_once(narrow: tuple[Caller, str]) -> None:
    caller, unavailable = narrow
    with busy(caller, 3) as ended:
        for _ in range(5):
            started = time.monotonic()
            with pytest.raises(Refused) as refused:
                windows(caller, SHORT)
            assert time.monotonic() - started < 0.3
            assert refused.value.status == unavailable
            assert "maximum queue size" in refused.value.message
        assert not ended
    assert windows(caller, SHORT) == 1


def test_those_turned_away_are_counted_and_logged(
    narrow: tuple[Caller, str], urls: ServerUrls, log: io.StringIO
) -> None:
    caller, _ = narrow

    def overloaded(found: Scrape) -> float:
        return found.value("longserve_requests_total", model=MODEL, outcome="overloaded")

    def reached_triton(found: Scrape) -> float:
        kinds = ("nv_inference_request_success", "nv_inference_request_failure")
        return sum(
            value for (name, own), value in found.samples.items() if name in kinds and ("model", MODEL) in own
        )

    def logged() -> list[str]:
        lines = [json.loads(line) for line in log.getvalue().splitlines()]
        return [line["outcome"] for line in lines if line.get("event") == "request"]

    before, outcomes = settled(urls.metrics), logged()
    with busy(caller, 3):
        for _ in range(5):
            with pytest.raises(Refused):
                windows(caller, SHORT)
    deadline = time.monotonic() + 10
    while overloaded(after := settled(urls.metrics)) < overloaded(before) + 5 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert overloaded(after) == overloaded(before) + 5
    assert reached_triton(after) == reached_triton(before) + 3
    while len(logged()) < len(outcomes) + 8 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert sorted(logged()[len(outcomes) :]) == ["answered"] * 3 + ["overloaded"] * 5


def test_a_short_text_is_not_held_up_by_a_long_document(narrow: tuple[Caller, str]) -> None:
    caller, _ = narrow
    with busy(caller, 2) as ended:
        assert [windows(caller, SHORT) for _ in range(5)] == [1] * 5
        assert not ended


def test_a_requests_time_is_kept_while_it_waits(narrow: tuple[Caller, str]) -> None:
    caller, unavailable = narrow
    with busy(caller, 1), ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        late = pool.submit(windows, caller, LONG, 0.2)
        with pytest.raises(Refused) as refused:
            late.result(30)
        assert 0.2 <= time.monotonic() - started < 0.6
        assert (refused.value.status, refused.value.message) == (unavailable, "Request timeout expired")
        assert windows(caller, SHORT, timeout=20) == 1
