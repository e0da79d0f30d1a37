"""A real Triton's life: start, readiness, failures to start, and an end that leaves nothing behind."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from kserve import GrpcCaller, HttpCaller, bytes_tensor
from triton_fixture import CLASSIFIER, FREE_PORTS, RunningServer

from longserve.serving import Client, PortInUse, RepositoryError, ServerError, ServerFailed
from longserve.serving.repository import build_repository
from longserve.serving.server import Ports, TritonServer, find_triton
from longserve.serving.server.installation import TritonInstallation

SHARED_MEMORY = Path("/dev/shm")

BROKEN_MODEL = """
class TritonPythonModel:
    def initialize(self, args):
        raise ValueError("the weights are missing")
"""
BROKEN_CONFIG = """
name: "broken"
backend: "python"
input { name: "INPUT" data_type: TYPE_INT64 dims: 1 }
output { name: "OUTPUT" data_type: TYPE_INT64 dims: 1 }
instance_group { kind: KIND_CPU }
"""

METRICS_LAST = """
import argparse, http.server, socket, threading, time

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

parser = argparse.ArgumentParser()
parser.add_argument("--http-port", type=int)
parser.add_argument("--metrics-port", type=int)
ports, _ = parser.parse_known_args()
threading.Thread(target=Server(("127.0.0.1", ports.http_port), Answer).serve_forever, daemon=True).start()
time.sleep(1.0)
Server(("127.0.0.1", ports.metrics_port), Answer).serve_forever()
"""
"""What Triton does on a busy machine: its metrics' port opens later than it says that it is ready."""

CRASHES = """
import os, pathlib, signal, sys

left = pathlib.Path(__file__).with_name("crashes_left")
count = int(left.read_text())
if count:
    left.write_text(str(count - 1))
    print("boost::interprocess::lock_exception", flush=True)
    os.kill(os.getpid(), signal.SIGABRT)
os.execv({triton!r}, sys.argv)
"""
"""Triton, after it has crashed some times."""


@pytest.fixture(scope="module")
def repository(classification_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("process")
    build_repository(classification_bundle, CLASSIFIER, root)
    return root


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    model = tmp_path / "broken"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(BROKEN_CONFIG)
    (model / "1" / "model.py").write_text(BROKEN_MODEL)
    return tmp_path


def processes_of(group: int) -> list[int]:
    """Processes of a process group that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_a_stop_leaves_no_process_no_memory_and_no_files(repository: Path, tmp_path: Path) -> None:
    server = TritonServer(repository, ports=FREE_PORTS, grace=2.0)
    with server:
        group = server.pid
        assert len(processes_of(group)) >= 3  # the server, and a stub for each instance
        assert list(SHARED_MEMORY.glob(f"{server._prefix}*"))
        caller = HttpCaller(server.urls)
        assert caller.infer(CLASSIFIER, {"TEXT": bytes_tensor("silver")})["WINDOWS"].tolist() == [[1]]
        with urllib.request.urlopen(server.urls.metrics, timeout=10) as response:
            assert b"nv_inference_request_success" in response.read()
        directory = Path(f"/proc/{group}/cwd").readlink()
    assert processes_of(group) == []
    assert not list(SHARED_MEMORY.glob(f"{server._prefix}*"))
    assert not directory.exists()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{server.urls.http}/v2/health/live", timeout=5)
    server.stop()  # a second time does nothing


def test_a_server_that_ignores_the_stop_is_killed(repository: Path) -> None:
    server = TritonServer(repository, ports=FREE_PORTS, grace=0.0)
    with server:
        group = server.pid
        os.kill(group, signal.SIGSTOP)  # now it cannot react to SIGTERM
    assert processes_of(group) == []


def test_a_killed_server_is_noticed_and_cleaned_up(repository: Path) -> None:
    server = TritonServer(repository, ports=FREE_PORTS, grace=1.0)
    with server:
        group = server.pid
        os.kill(group, signal.SIGKILL)
        assert server.wait(10.0) == -signal.SIGKILL
        assert server.ailment() == "Triton ended by the signal SIGKILL"
    assert processes_of(group) == []


def test_two_servers_side_by_side_do_not_disturb_each_other(
    repository: Path, triton_server: RunningServer
) -> None:
    text = {"TEXT": bytes_tensor("the miller counted seven lanterns")}
    first = GrpcCaller(triton_server.urls)
    with TritonServer(repository, ports=FREE_PORTS, grace=1.0) as server:
        assert (
            first.infer(CLASSIFIER, text)["SCORE"] == GrpcCaller(server.urls).infer(CLASSIFIER, text)["SCORE"]
        ).all()
    assert first.infer(CLASSIFIER, text)["SCORE"].shape == (1, 5)


def test_a_model_that_does_not_load_is_an_error_with_its_reason(broken: Path) -> None:
    log = io.StringIO()
    started = time.monotonic()
    with (
        pytest.raises(ServerFailed, match=r"broken.*the weights are missing"),
        TritonServer(broken, ports=FREE_PORTS, log=log),
    ):
        pass
    assert time.monotonic() - started < 60
    assert "the weights are missing" in log.getvalue()
    assert "Traceback" not in log.getvalue()


def test_a_damaged_file_keeps_the_encoder_from_loading(repository: Path, tmp_path: Path) -> None:

    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    data = copy / f"{CLASSIFIER}_encoder" / "1" / "model.onnx.data"
    damaged = bytearray(data.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    data.write_bytes(bytes(damaged))
    with (
        pytest.raises(ServerFailed, match=r"model\.onnx\.data has SHA-256"),
        TritonServer(copy, ports=FREE_PORTS),
    ):
        pass


def test_a_server_that_is_not_ready_in_time_is_an_error(repository: Path) -> None:
    with (
        pytest.raises(ServerFailed, match=r"not ready after 0\.01 s"),
        TritonServer(repository, ports=FREE_PORTS, ready_timeout=0.01, grace=1.0),
    ):
        pass


def test_a_ready_server_gives_its_metrics(repository: Path, tmp_path: Path) -> None:
    executable = tmp_path / "tritonserver"
    executable.write_text(f"#!{sys.executable}\n{METRICS_LAST}")
    executable.chmod(0o755)
    triton = TritonInstallation(executable=executable, origin="this test")
    with TritonServer(repository, ports=FREE_PORTS, installation=triton, grace=0.0) as server:
        assert urllib.request.urlopen(server.urls.metrics, timeout=10).status == 200


@pytest.mark.parametrize("crashes", [1, 2])
def test_a_triton_that_crashes_while_it_starts_is_started_anew_once(
    repository: Path, tmp_path: Path, crashes: int
) -> None:
    found = find_triton()
    crashing = replace(found, executable=tmp_path / "tritonserver")
    crashing.executable.write_text(f"#!{sys.executable}\n{CRASHES.format(triton=str(found.executable))}")
    crashing.executable.chmod(0o755)
    left = tmp_path / "crashes_left"
    left.write_text(str(crashes))
    log = io.StringIO()
    server = TritonServer(repository, ports=FREE_PORTS, installation=crashing, log=log, grace=1.0)
    if crashes == 1:
        with server:
            assert Client(server.urls.grpc).server_ready()
    else:
        with pytest.raises(ServerFailed, match="ended by the signal SIGABRT"), server:
            pass
    assert left.read_text() == "0"
    assert "SIGABRT; its last lines" in log.getvalue() and "starting it anew" in log.getvalue()
    assert server._child is None and not list(SHARED_MEMORY.glob(f"{server._prefix}*"))


def test_taken_ports_are_named_before_anything_starts(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = TritonServer(repository, ports=Ports(http=0, grpc=port, metrics=0))
        with pytest.raises(PortInUse, match=rf"port {port} \(grpc\)"):
            server.start()
        with pytest.raises(ServerError):
            _ = server.pid


def test_a_port_taken_at_the_last_moment_is_named_too(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ports = Ports(http=port, grpc=0, metrics=0)
        free = Ports(http=0, grpc=0, metrics=0).resolve("127.0.0.1")
        monkeypatch.setattr(
            Ports, "resolve", lambda self, host: Ports(http=port, grpc=free.grpc, metrics=free.metrics)
        )
        with pytest.raises(PortInUse, match=str(port)), TritonServer(repository, ports=ports, grace=1.0):
            pass


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_repository_without_models_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RepositoryError, match="longserve repo"):
        TritonServer(tmp_path / name, ports=FREE_PORTS).start()


def test_a_bundle_in_place_of_a_repository_is_named(classification_bundle: Path) -> None:
    command = f"`longserve repo {classification_bundle} --name NAME -o model_repository`"
    with pytest.raises(RepositoryError, match=f"is a bundle, .*{re.escape(command)}"):
        TritonServer(classification_bundle, ports=FREE_PORTS).start()


def test_triton_has_a_group_of_its_own_in_our_session(triton_server: RunningServer) -> None:
    triton = triton_server.server.pid
    assert os.getpgid(triton) == triton, "a terminal's Ctrl-C must not reach it"
    assert os.getsid(triton) == os.getsid(0), "sessions let each other stand still"
