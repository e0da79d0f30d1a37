"""A model's process stands still for a while (SIGSTOP) under load: no answer goes to another's request."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from checkpoints import WORDS
from kserve import Array, GrpcCaller, HttpCaller, Refused, bytes_tensor
from triton_fixture import FREE_PORTS

from longserve.serving.repository import build_repository
from longserve.serving.server import ServerUrls, TritonServer
from longserve.serving.server.stubs import find_stubs
from longserve.serving.server.supervisor import Supervisor

MODEL = "letters"
ENCODER = "letters_encoder"
SECONDS = 1.5
"""Triton takes a process for dead after one."""
ANEW = "; starting Triton anew"


def token_ids(number: int) -> dict[str, Array]:
    """Rows of one length, so that nothing in the shape of an answer tells whose it is."""
    ids = np.random.default_rng(number).integers(5, 250, (4, 96))
    flags = np.zeros_like(ids)
    flags[:, 0] = 1
    return {"input_ids": ids, "global_attention_mask": flags}


def text(number: int) -> dict[str, Array]:
    return {"TEXT": bytes_tensor(" ".join(WORDS.split()[number : number + 12]))}


def same(left: dict[str, Array], right: dict[str, Array]) -> bool:
    return left.keys() == right.keys() and all(
        np.array_equal(left[name], right[name])
        if left[name].dtype == np.object_
        else left[name].shape == right[name].shape and np.allclose(left[name], right[name], atol=1e-4)
        for name in left
    )


@pytest.mark.parametrize(("model", "request_of"), [(ENCODER, token_ids), (MODEL, text)])
def test_nobody_gets_the_answer_to_another_request(
    classification_bundle: Path, tmp_path: Path, model: str, request_of: Callable[[int], dict[str, Array]]
) -> None:
    build_repository(classification_bundle, MODEL, tmp_path)
    with TritonServer(tmp_path, ports=FREE_PORTS, log=sys.stderr, grace=2.0) as server:
        requests = [request_of(number) for number in range(8)]
        right = [HttpCaller(server.urls).infer(model, each) for each in requests]
        assert not any(same(one, other) for one, other in combinations(right, 2))
        outcomes = {"right": 0, "wrong": 0, "refused": 0}
        reported: list[str] = []
        stop = threading.Event()
        threads = [
            threading.Thread(target=ask, args=(server.urls, model, number, requests, right, outcomes, stop))
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        try:
            stand_still(server, model)
            deadline = time.monotonic() + 20
            while server.ailment() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            assert Supervisor(server, reported.append).look()
            before = outcomes["right"]
            while outcomes["right"] < before + 100 and time.monotonic() < deadline + 20:
                time.sleep(0.05)
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
    assert outcomes["wrong"] == 0 and outcomes["right"] > 0 and outcomes["refused"] > 0, outcomes
    assert outcomes["right"] >= before + 100
    # or Triton, if the process had a lock that it shares with it
    assert reported[0] in (f"the process of {model} ended{ANEW}", f"Triton ended by the signal SIGABRT{ANEW}")


def test_the_log_says_why_the_process_ended(classification_bundle: Path, tmp_path: Path) -> None:
    build_repository(classification_bundle, MODEL, tmp_path)
    with TritonServer(tmp_path, ports=FREE_PORTS, log=sys.stderr, grace=2.0) as server:
        requests = [token_ids(0)]
        right = [HttpCaller(server.urls).infer(ENCODER, requests[0])]
        outcomes = {"right": 0, "wrong": 0, "refused": 0}
        stop = threading.Event()
        thread = threading.Thread(target=ask, args=(server.urls, ENCODER, 0, requests, right, outcomes, stop))
        thread.start()
        try:
            stand_still(server, ENCODER)
            deadline = time.monotonic() + 20
            while "stood still" not in server.last_lines() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert "this process stood still for 1." in server.last_lines()
        finally:
            stop.set()
            thread.join(60)
    assert outcomes["wrong"] == 0 and outcomes["refused"] > 0


def stand_still(server: TritonServer, model: str) -> None:
    """Stop a model's process under load, and let it go on."""
    process = next(process for process, name in find_stubs(server.pid).items() if name == model)
    time.sleep(0.3)
    os.kill(process, signal.SIGSTOP)
    time.sleep(SECONDS)
    os.kill(process, signal.SIGCONT)


def ask(
    urls: ServerUrls,
    model: str,
    number: int,
    requests: list[dict[str, Array]],
    right: list[dict[str, Array]],
    outcomes: dict[str, int],
    stop: threading.Event,
) -> None:
    """Ask the same all the time, and count what came back."""
    caller = GrpcCaller(urls) if number % 2 else HttpCaller(urls)
    while not stop.is_set():
        try:
            outcome = "right" if same(caller.infer(model, requests[number]), right[number]) else "wrong"
        except Refused:
            outcome = "refused"
        outcomes[outcome] += 1
