"""One Triton server process: start, wait until it is ready, stop without leaving anything behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ..runtime.errors import PortInUse, RepositoryError, ServerError, ServerFailed
from .environment import prepare_environment
from .installation import TritonInstallation, find_triton
from .log import ServerLog
from .ports import Ports

__all__ = ["LOOPBACK", "ServerUrls", "TritonServer"]

LOOPBACK = "127.0.0.1"
_SHARED_MEMORY = Path("/dev/shm")
_POLL_SECONDS = 0.05
_KILL_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUrls:
    """Where a server answers."""

    http: str
    grpc: str
    metrics: str


class TritonServer:
    """A Triton that serves one model repository.

    As a context manager it starts, waits until every model is ready, and stops at the end:

        with TritonServer("model_repository") as server:
            client = Client(server.urls.grpc)
    """

    def __init__(
        self,
        repository: str | Path,
        *,
        host: str = LOOPBACK,
        ports: Ports | None = None,
        installation: TritonInstallation | None = None,
        log: TextIO | None = None,
        verbose: bool = False,
        ready_timeout: float = 300.0,
        grace: float = 30.0,
    ) -> None:
        """Describe the server; nothing is started yet.

        Args:
            repository: a Triton model repository.
            host: address to listen on, for all three ports.
            ports: the ports; 8000, 8001 and 8002 by default.
            installation: the Triton to use; by default the one that `find_triton` finds.
            log: where Triton's warnings and errors go; None drops them.
            verbose: pass on everything that Triton logs.
            ready_timeout: seconds that the models may take to load.
            grace: seconds that requests under way may take at a stop before they are cut off.
        """
        self._repository = Path(repository)
        self._host = host
        self._wanted = ports or Ports()
        self._installation = installation
        self._log_sink = log
        self._verbose = verbose
        self._ready_timeout = ready_timeout
        self._grace = grace
        self._prefix = f"longserve-{os.getpid()}-{uuid.uuid4().hex[:12]}-"
        self._ports: Ports | None = None
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log: ServerLog | None = None

    def __enter__(self) -> TritonServer:
        try:
            self.start()
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def urls(self) -> ServerUrls:
        """Where the started server answers."""
        if self._ports is None:
            raise ServerError("the server has not been started; call start() first")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return ServerUrls(
            http=f"http://{host}:{self._ports.http}",
            grpc=f"grpc://{host}:{self._ports.grpc}",
            metrics=f"http://{host}:{self._ports.metrics}/metrics",
        )

    @property
    def pid(self) -> int:
        """Process id of the started server."""
        return self._running().pid

    def start(self) -> None:
        """Start the process.

        Raises:
            RepositoryError: there is no model in the repository.
            TritonNotFound, UnfitEnvironment: see `find_triton` and `prepare_environment`.
            PortInUse: a port is taken.
        """
        if self._process is not None:
            raise ServerError("the server is already running; stop() it first")
        _check_repository(self._repository)
        installation = self._installation or find_triton()
        self._directory = Path(tempfile.mkdtemp(prefix="longserve-triton-"))
        try:
            environment = self._environment(installation)
            self._ports = self._wanted.resolve(self._host)
            self._process = subprocess.Popen(
                [str(installation.executable), *self._arguments(installation)],
                env=environment,
                cwd=self._directory,  # the stub puts it first on sys.path
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C reaches us alone, and we stop it in order
                preexec_fn=_end_with_parent(),
            )
        except BaseException:
            self._remove_directory()
            raise
        assert self._process.stdout is not None
        self._log = ServerLog(self._process.stdout, self._log_sink, verbose=self._verbose)

    def wait_until_ready(self) -> None:
        """Wait until every model is loaded and answers.

        Raises:
            ServerFailed: Triton ended, a model did not load, or it took longer than `ready_timeout`.
            PortInUse: something took a port just now.
        """
        process = self._running()
        deadline = time.monotonic() + self._ready_timeout
        while not self._is_ready():
            if process.poll() is not None:
                raise self._ended(process.returncode)
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"Triton was not ready after {self._ready_timeout:g} s; its last lines:\n"
                    f"{self._failures()}"
                )
            time.sleep(_POLL_SECONDS)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the process ends by itself; return its exit status, or None at the timeout."""
        try:
            return self._running().wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def failure(self) -> ServerError:
        """The error that says how an ended server ended."""
        return self._ended(self._running().poll())

    def stop(self) -> None:
        """Stop the server: no new requests, those under way get `grace` seconds, then everything is killed.

        Afterwards no process and no shared memory of it is left. Does nothing if it is not running.
        """
        process, self._process = self._process, None
        try:
            if process is not None:
                self._terminate(process)
        finally:  # also when a second signal ends the waiting
            if process is not None:
                _kill_group(process)
                if self._log is not None:
                    self._log.finish(_KILL_SECONDS)
            for region in _SHARED_MEMORY.glob(f"{self._prefix}*"):
                region.unlink(missing_ok=True)
            self._remove_directory()

    def _terminate(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self._grace + _KILL_SECONDS)

    def _environment(self, installation: TritonInstallation) -> dict[str, str]:
        if installation.wheel is None:
            return dict(os.environ)
        assert self._directory is not None
        return prepare_environment(installation, self._directory)

    def _arguments(self, installation: TritonInstallation) -> list[str]:
        assert self._ports is not None and self._directory is not None
        arguments = [
            f"--model-repository={self._repository.resolve()}",
            "--model-control-mode=none",
            "--strict-readiness=true",
            "--exit-on-error=true",
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={max(1, round(self._grace))}",
            f"--http-address={self._host}",
            f"--grpc-address={self._host}",
            f"--metrics-address={self._host}",
            f"--http-port={self._ports.http}",
            f"--grpc-port={self._ports.grpc}",
            f"--metrics-port={self._ports.metrics}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
        ]
        if installation.wheel is not None:
            arguments.append(f"--backend-directory={self._directory / 'backends'}")
        if self._verbose:
            arguments.append("--log-verbose=1")
        return arguments

    def _is_ready(self) -> bool:
        # Straight to the server: a proxy of the environment has no business between us and it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.urls.http}/v2/health/ready", timeout=5.0) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _ended(self, status: int | None) -> ServerError:
        if self._log is not None:
            self._log.finish(_KILL_SECONDS)
        failures = self._failures()
        if "already in use" in failures:
            return PortInUse(f"Triton could not listen on its ports:\n{failures}")
        how = f"with exit status {status}"
        if status is not None and status < 0:
            how = f"by the signal {signal.Signals(-status).name}"
        return ServerFailed(f"Triton ended {how}; its last lines:\n{failures}")

    def _failures(self) -> str:
        lines = self._log.failures() if self._log is not None else []
        return "\n".join(f"  {line}" for line in lines) or "  (none)"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError("the server is not running; call start() first")
        return self._process

    def _remove_directory(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None


def _check_repository(repository: Path) -> None:
    if not repository.is_dir():
        raise RepositoryError(f"{repository} is no directory; build one with `longserve repo`")
    if not any(repository.glob("*/config.pbtxt")):
        raise RepositoryError(
            f"{repository} holds no model; build one with `longserve repo BUNDLE -o {repository}`"
        )


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the server's process group: the server itself or stubs that outlived it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_with_parent() -> Callable[[], None] | None:
    """Return what makes the child get SIGTERM when this process dies without stopping it (SIGKILL).

    Linux sends that signal when the *thread* that started the child ends, so only the main thread may ask
    for it.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    libc = ctypes.CDLL(None)
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, prctl(2)
    return lambda: libc.prctl(set_parent_death_signal, signal.SIGTERM, 0, 0, 0)
