"""What a production week brings, against `longserve serve` as a user runs it.

One server serves all tests. Every text that they send holds `MARK`, and at the end all that the server wrote
is searched for it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from checkpoints import WORDS
from kserve import GrpcCaller, HttpCaller, Refused, bytes_tensor
from triton_fixture import CLASSIFIER, QA
from tritonclient.grpc import service_pb2, service_pb2_grpc

from longserve.serving import Client, InvalidInput, LocalClient, RetryPolicy, ServingError
from longserve.serving.repository import build_repository
from longserve.serving.server import ServerUrls
from longserve.serving.server.stubs import find_stubs

pytestmark = pytest.mark.timeout(180)
LONGSERVE = Path(sys.executable).parent / "longserve"
MARK = "zanzibar"
TEXTS = (f"{MARK} the miller", f"{WORDS} {MARK}", f"{MARK} {WORDS} " * 8)
LONG = f"{MARK} {WORDS} " * 600  # some 250 windows
PATIENT = RetryPolicy(attempts=1000, initial_backoff=0.1, max_backoff=0.5)


@dataclass
class Served:
    """A running `longserve serve`, and the file that holds all it writes."""

    process: subprocess.Popen[str]
    repository: Path
    written: Path
    urls: ServerUrls

    @property
    def triton(self) -> int:
        """Triton's process id: of the children the one that is no short-lived check."""
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid), "-x", "tritonserver"], capture_output=True, text=True
        )
        return int(found.stdout)

    def stub(self, model: str) -> int:
        """Process id of one of a model's processes."""
        return next(process for process, name in find_stubs(self.triton).items() if name == model)

    def said(self, words: str, times: int, seconds: float = 60) -> None:
        """Wait until the server has written some words as often as this."""
        deadline = time.monotonic() + seconds
        while self.written.read_text(encoding="utf-8").count(words) < times:
            assert time.monotonic() < deadline, f"never said: {words}"
            assert self.process.poll() is None, self.written.read_text(encoding="utf-8")
            time.sleep(0.05)

    def count(self, words: str) -> int:
        """How often the server has written some words."""
        return self.written.read_text(encoding="utf-8").count(words)


@contextmanager
def serving(repository: Path, written: Path, *options: str) -> Iterator[Served]:
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    with written.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(
            [LONGSERVE, "serve", repository, "--json", *ports, *options],
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, written.read_text(encoding="utf-8")
        found = json.loads(line)
        urls = ServerUrls(http=found["http"], grpc=found["grpc"], metrics=found["metrics"])
        yield Served(process, repository, written, urls)
    finally:
        if process.poll() is None:
            process.terminate()
        rest, _ = process.communicate(timeout=60)
        with written.open("a", encoding="utf-8") as sink:
            sink.write(line + rest)


@pytest.fixture(scope="module")
def served(
    classification_bundle: Path, qa_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """The server of this file. Its repository is its own, because a test replaces a model."""
    directory = tmp_path_factory.mktemp("faults")
    build_repository(classification_bundle, CLASSIFIER, directory / "models")
    build_repository(qa_bundle, QA, directory / "models")
    with serving(directory / "models", directory / "written", "--restarts", "50", "--grace", "20") as served:
        yield served


@pytest.fixture(scope="module")
def expected(classification_bundle: Path) -> dict[str, tuple[str, int]]:
    """Label and windows of each text, by the bundle in this process."""
    with LocalClient(classification_bundle) as local:
        return {text: (r.label, r.windows) for text, r in zip(TEXTS, local.classify(TEXTS), strict=True)}


@dataclass
class Load:
    """Clients at work: how often they asked, and what came back."""

    asked: int
    outcomes: Counter[str]


@contextmanager
def load(served: Served, expected: dict[str, tuple[str, int]]) -> Iterator[Load]:
    """Ask without pause over both protocols; every request must end in the right answer."""
    counted, lock, stop = Load(0, Counter()), threading.Lock(), threading.Event()

    def work(url: str, first: int) -> None:
        with Client(url, timeout=90, retry=PATIENT) as client:
            for number in range(first, 1_000_000):
                if stop.is_set():
                    return
                text = TEXTS[number % len(TEXTS)]
                with lock:
                    counted.asked += 1
                try:
                    found = client.classify(text)
                    outcome = "right" if (found.label, found.windows) == expected[text] else "wrong"
                except ServingError as error:
                    outcome = repr(error)
                with lock:
                    counted.outcomes[outcome] += 1

    urls = [served.urls.grpc, served.urls.http] * 3
    threads = [threading.Thread(target=work, args=(url, first)) for first, url in enumerate(urls)]
    for thread in threads:
        thread.start()
    try:
        _wait_for(lambda: counted.outcomes["right"] >= 30)
        yield counted
        after = counted.outcomes["right"] + 30
        _wait_for(lambda: counted.outcomes["right"] >= after)
    finally:
        stop.set()
        for thread in threads:
            thread.join(100)
    assert counted.outcomes == {"right": counted.asked}


def _wait_for(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("victim", ["encoder", "text model", "triton"])
def test_a_killed_process_under_load_loses_no_request_of_a_patient_client(
    served: Served, expected: dict[str, tuple[str, int]], victim: str
) -> None:
    with load(served, expected):
        before = served.count("ready again")
        victims = {
            "encoder": lambda: served.stub(f"{CLASSIFIER}_encoder"),
            "text model": lambda: served.stub(CLASSIFIER),
            "triton": lambda: served.triton,
        }
        os.kill(victims[victim](), signal.SIGKILL)
        served.said("ready again", before + 1)
    assert served.count("ready again") == before + 1


def send_raw(served: Served, protocol: str, *pieces: bytes, reset: bool = False) -> None:
    """Send bytes and hang up without reading; with a reset if asked."""
    port = int(getattr(served.urls, protocol).rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.01)


def http_request(text: str) -> bytes:
    tensor = {"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/{CLASSIFIER}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_clients_that_hang_up_disturb_nobody(served: Served, expected: dict[str, tuple[str, int]]) -> None:
    request = http_request(LONG)
    restarts = served.count("ready again")
    with load(served, expected):
        with ThreadPoolExecutor(8) as pool:
            for turn in range(48):
                part = request[: len(request) // (1 + turn % 3)]
                pool.submit(send_raw, served, "http", part, reset=turn % 2 == 0).result()
        with Client(served.urls.grpc, retry=RetryPolicy(attempts=1)) as client:
            for turn in range(40):
                with pytest.raises(ServingError):
                    client.classify(LONG, timeout=0.002 * (1 + turn % 10))
    assert served.count("ready again") == restarts


ENDINGS = {"CANCELLED", "DEADLINE_EXCEEDED", "OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}


def test_deadlines_that_pass_at_once_disturb_nobody(
    served: Served, expected: dict[str, tuple[str, int]]
) -> None:
    """Triton 2.51 ends when a call is cancelled in the moment that it takes it up: one of some 10,000."""
    channel = grpc.insecure_channel(
        served.urls.grpc.removeprefix("grpc://"), options=[("grpc.use_local_subchannel_pool", 1)]
    )
    message = service_pb2.ModelInferRequest(model_name=CLASSIFIER)
    message.inputs.add(name="TEXT", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(b"quartz")
    restarts = served.count("starting Triton anew")
    with channel:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
        for _ in range(50):
            calls = [infer.future(message, timeout=1e-4 * (1 + turn % 8)) for turn in range(200)]
            assert {call.code().name for call in calls} <= ENDINGS
    with load(served, expected):
        time.sleep(0.2)
    assert served.count("starting Triton anew") == restarts


def test_a_slow_client_holds_nobody_up(served: Served, expected: dict[str, tuple[str, int]]) -> None:
    request = http_request(TEXTS[0])
    port = int(served.urls.http.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
        with load(served, expected) as counted:
            done = counted.outcomes["right"]
            for start in range(0, len(request), 20):
                if start + 20 >= len(request):  # what is still under way has held up none of these
                    _wait_for(lambda: counted.outcomes["right"] > done + 10)
                slow.sendall(request[start : start + 20])
                time.sleep(0.05)
        answer = b""
        while b"WINDOWS" not in answer:  # read as slowly as it was written
            piece = slow.recv(16)
            assert piece
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200")


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
GARBLED = {
    "no HTTP/2": b"GET / HTTP/1.1\r\n\r\n",
    "noise": bytes(range(256)) * 8,
    "a preface alone": PREFACE,
    "a frame of 16 MiB that does not come": PREFACE + SETTINGS + b"\xff\xff\xff\0\0\0\0\0\1",
    "headers that are none": PREFACE + SETTINGS + b"\0\0\5\1\4\0\0\0\1\xff\xff\xff\xff\xff",
    "data for no stream": PREFACE + SETTINGS + b"\0\0\3\0\1\0\0\0\7abc",
    "an unknown frame": PREFACE + SETTINGS + b"\0\0\1\xfa\xff\0\0\0\0x",
    "resets without end": PREFACE + SETTINGS + b"\0\0\4\3\0\0\0\0\1\0\0\0\0" * 500,
    "a window of no size": PREFACE + SETTINGS + b"\0\0\4\x08\0\0\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("frame", GARBLED)
def test_malformed_grpc_frames_disturb_nobody(served: Served, frame: str) -> None:
    with Client(served.urls.grpc, retry=RetryPolicy(attempts=1)) as client:
        for reset in (False, True):
            send_raw(served, "grpc", GARBLED[frame], reset=reset)
            send_raw(served, "http", GARBLED[frame], reset=reset)
        assert client.classify(TEXTS[0], timeout=20).windows == 1
        assert client.server_ready()


def test_requests_that_fail_in_every_way(served: Served) -> None:
    """Each error class, so that the last test has something to look for."""
    tensors = {"TEXT": bytes_tensor(MARK, f"{MARK} \0")}
    for caller in (HttpCaller(served.urls), GrpcCaller(served.urls)):
        for model, parameters in ((CLASSIFIER, {}), (CLASSIFIER, {MARK: MARK}), (QA, {}), (MARK, {})):
            with pytest.raises(Refused):
                caller.infer(model, tensors, parameters)
        with pytest.raises(Refused):
            caller.infer(CLASSIFIER, {"TEXT": bytes_tensor(MARK.encode() + b"\xff")})
    with Client(served.urls.http, retry=RetryPolicy(attempts=1)) as client:
        for text in (f"{MARK} " * 800_000, f"{MARK}\0"):
            with pytest.raises(InvalidInput):
                client.classify(text)
        with pytest.raises(InvalidInput):
            client.answer(f"{MARK} " * 2000, MARK)
        with pytest.raises(ServingError):
            client.classify(LONG, timeout=0.05)
    for raw in (
        f"{MARK}\r\n\r\n",
        f"GET /{MARK} HTTP/1.1\r\n{MARK}\r\n\r\n",
        f"POST /v2/{MARK} HTTP/1.1\r\n\r\n",
    ):
        send_raw(served, "http", raw.encode())
    answer = urllib.request.Request(
        f"{served.urls.http}/v2/models/{CLASSIFIER}/infer", data=f'{{"{MARK}'.encode()
    )
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(answer, timeout=20)


def test_a_bundle_that_is_replaced_while_serving_changes_nothing_until_the_next_start(
    served: Served, expected: dict[str, tuple[str, int]], classification_bundle: Path, tmp_path: Path
) -> None:
    manifest = json.loads((classification_bundle / "manifest.json").read_text(encoding="utf-8"))
    renamed = {**manifest, "labels": [label.upper() for label in manifest["labels"]]}
    for file in classification_bundle.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "manifest.json").write_text(json.dumps(renamed), encoding="utf-8")
    with load(served, expected):
        build_repository(tmp_path, CLASSIFIER, served.repository)
    before = served.count("ready again")
    os.kill(served.triton, signal.SIGKILL)
    served.said("ready again", before + 1)
    with Client(served.urls.grpc, retry=PATIENT) as client:
        assert client.classify(TEXTS[0]).label == expected[TEXTS[0]][0].upper()
    build_repository(classification_bundle, CLASSIFIER, served.repository)


def test_a_stop_answers_what_is_under_way(served: Served) -> None:
    """The last use of the server: SIGTERM while long documents are read over both protocols."""

    def ask(url: str) -> int:
        with Client(url, timeout=60, retry=RetryPolicy(attempts=1)) as client:
            return client.classify(LONG).windows

    with ThreadPoolExecutor(4) as pool:
        under_way = [pool.submit(ask, url) for url in (served.urls.grpc, served.urls.http) * 2]
        time.sleep(0.3)
        assert not any(each.done() for each in under_way), "the document is too short for this machine"
        served.process.terminate()
        windows = [each.result(60) for each in under_way]
    assert served.process.wait(60) == 0
    assert windows == [windows[0]] * 4 and windows[0] > 50
    with Client(served.urls.http, retry=RetryPolicy(attempts=1)) as client, pytest.raises(ServingError):
        client.classify(TEXTS[0])


def test_nothing_of_a_text_was_written(served: Served) -> None:
    written = served.written.read_text(encoding="utf-8")
    assert "stopped by SIGTERM" in written and "ready again" in written
    assert MARK not in written.lower()
    assert "miller" not in written and "Traceback" not in written


def test_a_model_that_does_not_load_leaves_the_others_served(
    classification_bundle: Path, qa_bundle: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    build_repository(classification_bundle, CLASSIFIER, repository)
    build_repository(qa_bundle, QA, repository)
    (repository / f"{QA}_encoder" / "1" / "model.packed.onnx").write_bytes(b"damaged")
    with serving(repository, tmp_path / "written", "--keep-going") as served:
        for url in (served.urls.http, served.urls.grpc):
            with Client(url, retry=RetryPolicy(attempts=1)) as client:
                assert client.classify(TEXTS[0]).windows == 1
                assert not client.server_ready()
                client.wait_until_ready(5, model=CLASSIFIER)
                with pytest.raises(ServingError):
                    client.wait_until_ready(0.2, model=f"{QA}_encoder")
                with pytest.raises(ServingError, match=f"{QA}_encoder"):
                    client.answer("who", WORDS)
        said: Any = served.written.read_text(encoding="utf-8")
    assert f"{QA}_encoder does not load" in said and "model.packed.onnx" in said
