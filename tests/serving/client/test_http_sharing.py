"""One client over HTTP that many threads share, or that a process had when it was forked."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from longserve.serving.client.calls import Outputs

OpenClient = Callable[..., Any]
Serve = Callable[[Callable[[socket.socket, int], None]], str]
ReadRequest = Callable[[socket.socket], tuple[str, bytes] | None]


@pytest.fixture
def echo_url(
    serve_connections: Serve, read_request: ReadRequest, http_answer: Callable[[Outputs], bytes]
) -> str:
    """A server whose label for `text-…` is what the text says there."""

    def handler(connection: socket.socket, index: int) -> None:
        while (request := read_request(connection)) is not None:
            text = request[1].rsplit(b"text-", 1)[1]
            one = np.array([[1]], dtype=np.int32)
            label = np.array([[text]], dtype=np.object_)
            score = np.array([[0.5]], dtype=np.float32)
            connection.sendall(http_answer({"LABEL": label, "SCORE": score, "TOKENS": one, "WINDOWS": one}))

    return serve_connections(handler)


def test_a_client_used_by_many_threads_mixes_nothing_up(open_client: OpenClient, echo_url: str) -> None:
    wrong: list[Any] = []
    with open_client(echo_url, concurrency=8) as client:

        def work(thread: int) -> None:
            numbers = [f"{thread}.{i}" for i in range(40)]
            labels = [r.label for r in client.classify([f"text-{number}" for number in numbers])]
            if labels != numbers:
                wrong.append((numbers, labels))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert not wrong


FORKED = """
import os, sys
from longserve.serving import Client

def differing(name):
    texts = [f"{name}.{i}" for i in range(100)]
    labels = [client.classify("text-" + text).label for text in texts]
    labels += [result.label for result in client.classify(["text-" + text for text in texts])]
    return [pair for pair in zip(texts * 2, labels) if pair[0] != pair[1]]

client = Client(sys.argv[1], timeout=5)
assert not differing("before")
children = []
for name in ("first", "second"):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            wrong = differing(name)
            status = len(wrong) > 0
            print(name, wrong, flush=True)
        finally:
            os._exit(status)
    children.append(child)
wrong = differing("parent")
print("parent", wrong)
sys.exit(any([os.waitpid(child, 0)[1] for child in children] + wrong))
"""
FORKED_ASYNC = """
import asyncio, os, sys
from longserve.serving import AsyncClient, RequestError

client = AsyncClient(sys.argv[1])

async def ask():
    return await client.classify("text-a")

assert asyncio.run(ask()).label == "a"
child = os.fork()
if child == 0:
    try:
        asyncio.run(ask())
    except RequestError as error:
        asyncio.run(client.close())
        os._exit("open a new AsyncClient" not in str(error))
    os._exit(1)
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize("script", [FORKED, FORKED_ASYNC])
def test_forked_processes_do_not_share_connections(echo_url: str, script: str) -> None:
    command = [sys.executable, "-c", script, echo_url]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Exception ignored" not in process.stderr
