"""`longserve repo`, `serve` and `doctor` as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import site
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from process_groups import group_of

LONGSERVE = Path(sys.executable).parent / "longserve"
FREE = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")


def longserve(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LONGSERVE, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


@contextmanager
def serving(
    repository: Path, *options: str, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """`longserve serve` in the background; killed at the end if it still runs."""
    with subprocess.Popen(
        [LONGSERVE, "serve", repository, *FREE, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)


def first_line(process: subprocess.Popen[str]) -> str:
    """The line that is printed when the server is ready."""
    assert process.stdout is not None
    return process.stdout.readline()


def children_of(parent: int) -> dict[int, str]:
    result = subprocess.run(["ps", "--ppid", str(parent), "-o", "pid=,comm="], capture_output=True, text=True)
    found = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    return {int(process): command for process, command in found}


def triton_of(serve: int) -> int:
    (server,) = [process for process, command in children_of(serve).items() if command == "tritonserver"]
    return server


def shared_memory_of(pid: int) -> list[Path]:
    """What the Triton that a process started shares with its models' processes."""
    return list(Path("/dev/shm").glob(f"longserve-{pid}-*"))


@pytest.fixture(scope="module")
def repository(classification_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli") / "model_repository"
    result = longserve("repo", classification_bundle, "--name", "labels", "-o", root)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [str(root / "labels_encoder"), str(root / "labels")]
    return root


KILLED_WHILE_WRITING = """
import os, sys
from longserve.serving.command import main
from longserve.serving.repository import builder

number = int(sys.argv.pop())
builder._write_text_model = lambda *arguments: os.kill(os.getpid(), number)
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_repo_that_is_stopped_leaves_nothing(
    classification_bundle: Path, tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, "repo", classification_bundle, "--name", "a", "-o"]
    result = subprocess.run(
        [*command, tmp_path, str(int(number))], capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.returncode, result.stderr.strip()) == (130, "longserve: interrupted")
    assert list(tmp_path.iterdir()) == []


def loopback_6() -> str:
    """The loopback of IPv6 where there is one."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return "localhost"
    return "::1"


@pytest.mark.parametrize(
    ("number", "host"), [(signal.SIGTERM, "localhost"), (signal.SIGINT, loopback_6())], ids=str
)
def test_serve_prints_its_urls_when_ready_and_ends_with_0(
    repository: Path, number: signal.Signals, host: str
) -> None:
    with serving(repository, "--json", "--host", host) as process:
        urls = json.loads(first_line(process))
        assert urls["models"] == ["labels", "labels_encoder"]
        assert urls["http"].startswith("http://127.0.0.1:" if host == "localhost" else "http://[::1]:")
        with urllib.request.urlopen(urls["metrics"], timeout=10) as response:
            assert b"longserve_requests_total" in response.read()
        with urllib.request.urlopen(f"{urls['http']}/v2/models/labels/ready", timeout=10) as response:
            assert response.status == 200
        server = children_of(process.pid)
        assert shared_memory_of(process.pid)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == ""
    assert f"stopped by {number.name}" in err
    assert not [pid for pid in server if Path(f"/proc/{pid}").exists()]
    assert not shared_memory_of(process.pid)


def test_serve_works_in_a_bare_environment(repository: Path) -> None:
    bare = {"HOME": str(Path.home()), "PATH": "/usr/bin:/bin"}
    with serving(repository, environment=bare) as process:
        assert first_line(process).startswith("http     http://127.0.0.1:")


def test_serve_ends_with_1_when_triton_dies_and_may_not_be_restarted(repository: Path) -> None:
    with serving(repository, "--json", "--restarts", "0") as process:
        first_line(process)
        server = triton_of(process.pid)
        os.kill(server, signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "SIGKILL" in err and "Traceback" not in err


def test_a_hangup_waits_for_what_is_under_way_and_a_second_signal_cuts_it_off(repository: Path) -> None:
    with serving(repository, "--json", "--grace", "60") as process:
        urls = json.loads(first_line(process))
        port = int(urls["http"].rsplit(":", 1)[1])
        server = children_of(process.pid)
        with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
            slow.sendall(b"POST /v2/models/labels/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na")
            time.sleep(0.5)
            process.send_signal(signal.SIGHUP)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(3)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "stopped by SIGTERM, a second signal: what was under way was cut off" in err
    assert "Traceback" not in err
    assert not [pid for pid in server if Path(f"/proc/{pid}").exists()]
    assert not shared_memory_of(process.pid)


def test_triton_does_not_outlive_a_killed_serve(repository: Path) -> None:
    with serving(repository, "--json") as process:
        first_line(process)
        server = triton_of(process.pid)
        process.kill()
        process.wait(10)
        deadline = time.monotonic() + 30
        while Path(f"/proc/{server}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not Path(f"/proc/{server}").exists()


@pytest.mark.parametrize("delay", [0.0, 0.2, 0.6])
def test_nothing_outlives_a_serve_that_is_killed_while_it_loads(
    repository: Path, delay: float, tmp_path: Path
) -> None:
    with serving(repository, "--json", environment={**os.environ, "TMPDIR": str(tmp_path)}) as process:
        deadline = time.monotonic() + 30
        while not shared_memory_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        server = triton_of(process.pid)
        time.sleep(delay)
        assert list(tmp_path.glob("longserve-*"))
        process.kill()
        process.wait(10)
    deadline = time.monotonic() + 30
    while left := [*group_of(server), *shared_memory_of(process.pid), *tmp_path.glob("longserve-*")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_a_taken_port_is_named(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = longserve(
            "serve", repository, "--http-port", "0", "--grpc-port", str(port), "--metrics-port", "0"
        )
    assert result.returncode == 1
    assert f"port {port} (grpc)" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def environment_with_numpy_2(tmp_path: Path) -> Path:
    """A virtual environment with this one's packages, but numpy 2's metadata in front of numpy's."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    packages = next((tmp_path / "venv" / "lib").glob("python3.*/site-packages"))
    metadata = packages / "numpy-2.2.6.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.2.6\n")
    here = [path for path in site.getsitepackages() if Path(path).is_dir()]
    (packages / "ours.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in here))
    return tmp_path / "venv" / "bin" / "python"


def test_numpy_2_is_refused_with_the_reason(repository: Path, environment_with_numpy_2: Path) -> None:
    command = [environment_with_numpy_2, "-c", "from longserve.serving.command import main; main()"]
    result = subprocess.run(
        [*command, "serve", repository, *FREE], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1
    assert "numpy 2.2.6" in result.stderr and "numpy<2" in result.stderr
    doctor = subprocess.run([*command, "doctor", "--json"], capture_output=True, text=True, timeout=120)
    report = json.loads(doctor.stdout)
    numpy = next(finding for finding in report["findings"] if finding["name"] == "numpy")
    assert numpy["status"] == "short" and not report["usable"]
    assert doctor.returncode == 1


@pytest.mark.parametrize("command", ["repo", "serve"])
def test_what_is_not_there_is_one_line(tmp_path: Path, command: str) -> None:
    arguments = ["--name", "x", "-o", str(tmp_path / "out")] if command == "repo" else []
    result = longserve(command, tmp_path / "nowhere", *arguments)
    assert result.returncode == 1
    assert "nowhere" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr and not result.stdout


def test_repo_without_a_name_is_wrong_usage(classification_bundle: Path) -> None:
    assert longserve("repo", classification_bundle).returncode == 2


def test_repo_refuses_impossible_numbers(classification_bundle: Path, tmp_path: Path) -> None:
    result = longserve("repo", classification_bundle, "--name", "x", "--instances", "0", "-o", tmp_path)
    assert result.returncode == 1
    assert "instances is 0" in result.stderr


def test_repo_where_nothing_can_be_written_is_one_line(classification_bundle: Path) -> None:
    result = longserve("repo", classification_bundle, "--name", "x", "-o", "/proc/longserve")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "cannot write /proc/longserve" in line


def test_doctor_starts_a_triton_and_says_what_it_found() -> None:
    result = longserve("doctor", "--json")
    report = json.loads(result.stdout)
    found = {finding["name"]: finding for finding in report["findings"]}
    assert (result.returncode, report["usable"]) == (0, True), report
    assert "a Python model answers" in found["triton"]["found"]
    assert "CPUExecutionProvider" in found["onnxruntime"]["found"]
    assert {
        "python",
        "numpy",
        "tokenizers",
        "tritonclient",
        "memory",
        "/dev/shm",
        "cores",
        "cpu",
        "gpu",
        "openvino",
        "torch",
    } <= set(found)
    table = longserve("doctor")
    assert table.returncode == 0
    assert "this machine can serve" in table.stdout


def test_doctor_without_a_triton_says_what_to_install(tmp_path: Path) -> None:
    """A `pytriton` without files stands in front of the wheel's."""
    (tmp_path / "pytriton").mkdir()
    (tmp_path / "pytriton" / "__init__.py").write_text("")
    result = longserve("doctor", "--json", PYTHONPATH=str(tmp_path), PATH="/usr/bin:/bin")
    report = json.loads(result.stdout)
    triton = next(finding for finding in report["findings"] if finding["name"] == "triton")
    assert result.returncode == 1 and triton["status"] == "short"
    assert "longserve[serve]" in triton["remedy"]
