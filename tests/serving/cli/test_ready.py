"""`longserve ready`, and a server's own readiness over HTTP, tell what Triton does not: that a model which is
loaded does not answer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from triton_fixture import CLASSIFIER, FREE_PORTS, QA, RunningServer

from longserve.serving import Client, ServerUnavailable
from longserve.serving.repository import build_repository
from longserve.serving.server import TritonServer
from longserve.serving.server.questions import fault_at
from longserve.serving.server.stubs import find_stubs

LONGSERVE = Path(sys.executable).parent / "longserve"


def ready(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LONGSERVE, "ready", *arguments], capture_output=True, text=True, timeout=120)


def test_models_that_answer(triton_server: RunningServer) -> None:
    result = ready("--url", triton_server.urls.http, "--timeout", "30")
    assert (result.returncode, result.stderr) == (0, "")
    lines = [line.split()[:2] for line in result.stdout.splitlines()]
    assert lines == [[CLASSIFIER, "answers"], [QA, "answers"]]
    result = ready("--url", triton_server.urls.grpc, "--model", QA, "--timeout", "30", "--json")
    document = json.loads(result.stdout)
    (model,) = document["models"]
    assert document["ready"] and (model["model"], model["readiness"], model["reason"]) == (QA, "answers", "")


def test_a_model_that_is_loaded_but_does_not_answer(classification_bundle: Path, tmp_path: Path) -> None:
    """Triton 2.51 calls a text model ready without its encoder."""
    built = build_repository(classification_bundle, "alone", tmp_path)
    shutil.rmtree(built.encoder)
    with TritonServer(tmp_path, ports=FREE_PORTS, grace=1.0) as server:
        for path in ("/v2/health/ready", "/v2/models/alone/ready", "/v2/models/alone/versions/1/ready"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(server.urls.http + path, timeout=30)
            assert refused.value.code == 503
            message = json.loads(refused.value.read())["error"]
            assert message.startswith("alone is loaded, but does not answer: alone_encoder")
        with Client(server.urls.grpc) as client:
            assert not client.server_ready()
            with pytest.raises(ServerUnavailable):
                client.wait_until_ready(0.5, model="alone")
        for options in ((), ("--model", "alone"), ("--wait", "0.5"), ("--allow-busy",)):
            result = ready("--url", server.urls.grpc, *options)
            assert (result.returncode, result.stderr) == (1, "")
            silent = [line.split()[:2] for line in result.stdout.splitlines()]
            assert silent[-1] == ["alone", "silent"]
            assert "alone_encoder" in result.stdout


def test_a_model_whose_process_has_died(classification_bundle: Path, tmp_path: Path) -> None:
    """`longserve serve` starts Triton anew then; here nobody does."""
    build_repository(classification_bundle, "letters", tmp_path)
    with TritonServer(tmp_path, ports=FREE_PORTS, grace=1.0) as server:
        assert fault_at(server.urls.http) is None
        (encoder,) = [pid for pid, model in find_stubs(server.pid).items() if model == "letters_encoder"]
        os.kill(encoder, signal.SIGKILL)
        time.sleep(1.1)  # an answer counts for a second
        for path in ("/v2/health/ready", "/v2/models/letters/ready", "/v2/models/letters_encoder/ready"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(server.urls.http + path, timeout=30)
            assert refused.value.code == 503 and b"does not answer" in refused.value.read()
        with Client(server.urls.grpc) as client:
            assert not client.server_ready()
        result = ready("--url", server.urls.grpc)
        lines = [line.split()[:2] for line in result.stdout.splitlines()]
        assert result.returncode == 1 and lines == [["(server)", "silent"], ["letters", "silent"]]


def test_serve_does_not_say_that_it_is_ready_if_a_model_does_not_answer(
    classification_bundle: Path, tmp_path: Path
) -> None:
    built = build_repository(classification_bundle, "alone", tmp_path)
    shutil.rmtree(built.encoder)
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    command = [LONGSERVE, "serve", tmp_path, *ports, "--grace", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (1, "")
    assert "alone is loaded, but does not answer: alone_encoder" in result.stderr.splitlines()[-1]


def test_who_asks_while_the_server_starts_does_not_keep_it_from_starting(
    classification_bundle: Path, tmp_path: Path
) -> None:
    """Triton's gRPC port is open first, and says that it is ready, when no model can be asked yet."""
    build_repository(classification_bundle, "letters", tmp_path)
    ports = FREE_PORTS.resolve("127.0.0.1")
    stop, heard = threading.Event(), [threading.Event() for _ in range(4)]
    url = f"grpc://127.0.0.1:{ports.grpc}"
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(_ask_all_the_time, url, stop, ready) for ready in heard]
        try:
            for _ in range(3):
                with TritonServer(tmp_path, ports=ports, grace=1.0) as server:
                    assert fault_at(server.urls.http) is None
                    for ready in heard:
                        assert ready.wait(30)  # a client tries again to connect once a second
                        ready.clear()
        finally:
            stop.set()
        for each in asked:
            each.result(60)


def _ask_all_the_time(url: str, stop: threading.Event, ready: threading.Event) -> None:
    """Ask until told to stop, and say whenever the server is ready."""
    with Client(url) as client:
        while not stop.is_set():
            if client.server_ready():
                ready.set()


@pytest.mark.parametrize("options", [(), ("--wait", "0.5"), ("--model", "x"), ("--json",)])
def test_no_server(options: tuple[str, ...]) -> None:
    result = ready("--url", "http://127.0.0.1:9", "--timeout", "2", *options)
    assert result.returncode == 1
    assert "127.0.0.1:9" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "options", [("--header", "no-colon"), ("--timeout", "0"), ("--ca", "nowhere.pem"), ("extra",)]
)
def test_wrong_usage(options: tuple[str, ...]) -> None:
    result = ready(*options)
    assert result.returncode == 2
    assert "no-colon" not in result.stderr or "NAME:VALUE" in result.stderr
