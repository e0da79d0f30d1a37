"""A full queue is answered at once and with its own status, at the text model and behind it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from kserve import Caller, GrpcCaller, HttpCaller, Refused, bytes_tensor
from triton_fixture import FREE_PORTS

from longserve.serving.repository import RepositoryOptions, build_repository
from longserve.serving.server import ServerUrls, TritonServer

MODEL = "narrow"
ENCODER = f"{MODEL}_encoder"
UNAVAILABLE = {"http": "503", "grpc": "StatusCode.UNAVAILABLE"}
LARGE = {
    "input_ids": np.full((16, 512), 7),
    "global_attention_mask": np.tile(np.eye(1, 512, dtype=np.int64), (16, 1)),
}


@pytest.fixture(scope="module")
def urls(classification_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerUrls]:
    """A server whose models let one request wait."""
    repository = tmp_path_factory.mktemp("narrow")
    options = RepositoryOptions(max_queue_size=1, text_instances=1, max_in_flight=1)
    build_repository(classification_bundle, MODEL, repository, options)
    with TritonServer(repository, ports=FREE_PORTS, log=sys.stderr, grace=2.0) as server:
        yield server.urls


@pytest.fixture(params=["http", "grpc"])
def narrow(request: pytest.FixtureRequest, urls: ServerUrls) -> tuple[Caller, str]:
    """A caller and the status by which its protocol says "not now"."""
    caller: Caller = HttpCaller(urls) if request.param == "http" else GrpcCaller(urls)
    return caller, UNAVAILABLE[request.param]


def test_a_full_queue_refuses(narrow: tuple[Caller, str]) -> None:
    caller, unavailable = narrow

    def ask(_: int) -> str:
        try:
            caller.infer(ENCODER, LARGE)
        except Refused as refused:
            assert "maximum queue size" in refused.message
            return refused.status
        return "answered"

    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(ask, range(6)))
    assert set(outcomes) == {"answered", unavailable}
    assert caller.infer(MODEL, {"TEXT": bytes_tensor("free again")})["WINDOWS"].tolist() == [[1]]


def test_an_encoder_that_refuses_makes_the_text_model_refuse_alike(narrow: tuple[Caller, str]) -> None:
    caller, unavailable = narrow
    done = threading.Event()

    def keep_busy() -> None:
        while not done.is_set():
            try:
                caller.infer(ENCODER, LARGE)
            except Refused:
                time.sleep(0.01)

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(keep_busy) for _ in range(4)]
        try:
            refused = _first_refusal(caller)
        finally:
            done.set()
        for worker in workers:
            worker.result()
    assert refused.status == unavailable
    assert ENCODER in refused.message


def _first_refusal(caller: Caller) -> Refused:
    for _ in range(200):
        try:
            caller.infer(MODEL, {"TEXT": bytes_tensor("one more")})
        except Refused as refused:
            return refused
    raise AssertionError("the encoder's queue was never full")
