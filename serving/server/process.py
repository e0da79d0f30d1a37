"""One Triton server process: start, wait until it is ready, stop without leaving anything behind."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from ..runtime.errors import PortInUse, ServerError, ServerFailed
from ..runtime.request_record import LOG_REQUESTS
from ..runtime.turned_away import TURNED_AWAY
from .access import AccessPolicy, check_host, closed_apis, resolve_host
from .children import Child, how_it_ended, kill_group, start_child
from .environment import prepare_environment
from .gateway import Gateway, GatewayLimits
from .grpc_front import GRPC_KEY_PREFIX, GrpcPort
from .installation import TritonInstallation, find_triton
from .journal import Journal, Level, LogFormat
from .log import ServerLog
from .model_configs import check_repository
from .ports import LOOPBACK, InnerPorts, Ports, ServerUrls, listens
from .questions import read_questions
from .stubs import find_stubs, has_ended
from .triton_arguments import GATEWAY_HEADER, triton_arguments
from .try_it import TryItPage, model_names
from .turnstile import Turnstile, read_holdings
from .upstream import Upstream

__all__ = ["LOOPBACK", "TritonServer"]

_SHARED_MEMORY = Path("/dev/shm")
_TURNED_AWAY = "turned-away"
_POLL_SECONDS = 0.05
_KILL_SECONDS = 5.0


class TritonServer:
    """A Triton that serves one model repository.

    As a context manager it starts, a second time if Triton crashes on the way, waits until every model is
    ready, and stops at the end:

        with TritonServer("model_repository") as server:
            client = Client(server.urls.grpc)
    """

    def __init__(
        self,
        repository: str | Path,
        *,
        host: str = LOOPBACK,
        public: bool = False,
        ports: Ports | None = None,
        access: AccessPolicy | None = None,
        limits: GatewayLimits | None = None,
        keep_going: bool = False,
        try_it: bool = False,
        installation: TritonInstallation | None = None,
        log: TextIO | None = None,
        log_format: LogFormat = LogFormat.TEXT,
        verbose: bool = False,
        ready_timeout: float = 300.0,
        grace: float = 30.0,
    ) -> None:
        """Describe the server; nothing is started yet.

        Args:
            repository: a Triton model repository.
            host: address to listen on, for all three ports, or a name of one (see `resolve_host`).
            public: `host` may be an address that other machines reach.
            ports: the ports; 8000, 8001 and 8002 by default.
            access: what is closed to those without the key; by default what `closed_apis` says.
            limits: what the HTTP and gRPC ports take.
            keep_going: serve the models that load although another does not. The server then says that it is
                not ready, and each model for itself.
            try_it: serve the try-it page too, at `/ui/` of the HTTP port.
            installation: the Triton to use; by default the one that `find_triton` finds.
            log: where Triton's warnings and errors go; None drops them.
            log_format: how they are written. JSON has a line for every request to a text model too.
            verbose: pass on everything that Triton logs.
            ready_timeout: seconds that the models may take to load.
            grace: seconds that requests under way may take at a stop before they are cut off.

        Raises:
            ServerError: `host` is no loopback address, and `public` is False; or no address at all.
        """
        check_host(host, public=public)
        self._repository = Path(repository)
        self._host = resolve_host(host)
        self._wanted = ports or Ports()
        self._access = access or AccessPolicy(closed=closed_apis(public=public))
        self._limits = limits or GatewayLimits()
        self._keep_going = keep_going
        self._try_it = try_it
        self._installation = installation
        self._journal = None if log is None else Journal(log, log_format)
        self._request_log = None if self._journal is None else self._journal.request_log
        self._verbose = verbose
        self._ready_timeout = ready_timeout
        self._grace = grace
        self._prefix = f"longserve-{os.getpid()}-{uuid.uuid4().hex[:12]}-"
        self._gateway_key = secrets.token_urlsafe(32)
        self._upstream = Upstream(0, {GATEWAY_HEADER: self._gateway_key})
        self._inner: InnerPorts | None = None
        self._ports: Ports | None = None
        self._gateway: Gateway | None = None
        self._turnstile: Turnstile | None = None
        self._directory: Path | None = None
        self._child: Child | None = None
        self._log: ServerLog | None = None
        self._stubs: dict[int, str] = {}

    def __enter__(self) -> TritonServer:
        try:
            self.start()
            self._come_up()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def urls(self) -> ServerUrls:
        """Where the started server answers."""
        if self._ports is None:
            raise ServerError("the server has not been started; call start() first")
        return ServerUrls.of(self._host, self._ports)

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
        if self._child is not None:
            raise ServerError("the server is already running; stop() it first")
        check_repository(self._repository)
        self._installation = self._installation or find_triton()
        self._directory = Path(tempfile.mkdtemp(prefix="longserve-triton-"))
        try:
            self._workplace.mkdir()
            self._turnstile = Turnstile(
                read_holdings(self._repository), self._directory / _TURNED_AWAY, self._request_log
            )
            environment = self._environment(self._installation)
            self._ports = self._wanted.resolve(self._host)
            self._inner = InnerPorts()
            self._upstream = replace(self._upstream, port=self._inner.http)
            self._gateway = self._open_gateway(self._ports, self._inner)
            self._launch(environment)
        except BaseException:
            self._close_gateway()
            self._remove_directory()
            raise

    def restart(self) -> None:
        """Kill what is left of the process and start another on the same ports; wait until it is ready.

        The ports stay open and answer 503 and UNAVAILABLE meanwhile. Requests under way fail as unavailable.

        Raises:
            ServerError: see `start` and `wait_until_ready`.
        """
        self._relaunch()
        self._come_up()

    def wait_until_ready(self) -> None:
        """Wait until every model is loaded and answers; with `keep_going`, until each has loaded or failed.

        Raises:
            ServerFailed: Triton ended, a model did not load, or it took longer than `ready_timeout`.
            PortInUse: something took a port just now.
        """
        process = self._running()
        assert self._ports is not None
        deadline = time.monotonic() + self._ready_timeout
        # Triton answers nothing, not even that it lives, before it has tried to load every model.
        path = "/v2/health/live" if self._keep_going else "/v2/health/ready"
        # It opens the port of the metrics last, when it already answers that it is ready.
        while self._upstream.ask(path) is None or not listens(self._host, self._ports.metrics):
            if process.poll() is not None:
                raise self._ended(process.returncode)
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"Triton was not ready after {self._ready_timeout:g} s; its last lines:\n"
                    f"{self.last_lines()}"
                )
            time.sleep(_POLL_SECONDS)
        self._stubs = find_stubs(process.pid)

    def failed_models(self) -> dict[str, str]:
        """Name and reason of the models that did not load; only with `keep_going` can there be any."""
        entries = json.loads(self._upstream.ask("/v2/repository/index", b"{}") or b"[]")
        return {entry["name"]: entry.get("reason", "") for entry in entries if entry.get("state") != "READY"}

    def ailment(self) -> str | None:
        """What keeps the started server from answering: Triton or a model's process has ended; else None."""
        status = self._running().poll()
        if status is not None:
            return f"Triton ended {how_it_ended(status)}"
        dead = sorted({model for process, model in self._stubs.items() if has_ended(process)})
        return f"the process of {', '.join(dead)} ended" if dead else None

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the process ends by itself; return its exit status, or None at the timeout."""
        try:
            return self._running().wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def last_lines(self) -> str:
        """What Triton last said that tells of an error."""
        lines = self._log.failures() if self._log is not None else []
        return "\n".join(f"  {line}" for line in lines) or "  (none)"

    def stop(self) -> None:
        """Stop the server: no new requests, those under way get `grace` seconds, then everything is killed.

        An exception in the waiting, which a second signal may raise, cuts them off at once. Afterwards no
        process and no shared memory of it is left. Does nothing if it is not running.
        """
        child, self._child = self._child, None
        try:
            if child is not None:
                self._terminate(child.process)
        except BaseException:
            if self._gateway is not None:
                self._gateway.cut_off()
            raise
        finally:
            if child is not None:
                kill_group(child)
                self._finish_log()
            try:
                self._close_gateway()
            finally:
                self._remove_shared_memory()
                self._remove_directory()

    def _come_up(self) -> None:
        """Wait until ready. A Triton that crashes on the way is started anew, once: now and then the python
        backend cannot take a lock that it shares (triton-inference-server/server, issues 5949 and 8882)."""
        try:
            self.wait_until_ready()
        except ServerFailed as error:
            if (self._running().poll() or 0) >= 0:
                raise  # it still runs, or has ended by itself
            if self._journal is not None:
                self._journal.say(f"{error}\nstarting it anew", level=Level.WARNING)
            self._relaunch()
            self.wait_until_ready()

    def _relaunch(self) -> None:
        assert self._child is not None
        kill_group(self._child)
        self._finish_log()
        self._remove_shared_memory()
        assert self._installation is not None
        shutil.rmtree(self._workplace, ignore_errors=True)
        self._workplace.mkdir()
        self._launch(self._environment(self._installation))

    def _terminate(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            return
        if self._gateway is not None:
            self._gateway.begin_stop()
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self._grace + _KILL_SECONDS)

    def _open_gateway(self, ports: Ports, inner: InnerPorts) -> Gateway:
        gateway = Gateway(
            host=self._host,
            port=ports.http,
            upstream=self._upstream,
            access=self._access,
            limits=self._limits,
            grace=self._grace,
            report=None if self._journal is None else self._journal.report_defect,
            page=TryItPage(model_names(self._repository)) if self._try_it else None,
            grpc=GrpcPort(
                host=self._host,
                port=ports.grpc,
                upstream=inner.grpc,
                metadata=((GRPC_KEY_PREFIX + GATEWAY_HEADER, self._gateway_key),),
            ),
            turnstile=self._turnstile,
        )
        gateway.readiness.questions = read_questions(self._repository)
        gateway.start()
        return gateway

    def _close_gateway(self) -> None:
        gateway, self._gateway = self._gateway, None
        if gateway is not None:
            gateway.begin_stop()
            try:
                gateway.join()
            except BaseException:
                gateway.cut_off()
                gateway.join()
                raise
        if self._turnstile is not None:
            self._turnstile.close()
        if self._inner is not None:
            self._inner.close()

    def _launch(self, environment: dict[str, str]) -> None:
        assert self._installation is not None
        self._child = start_child(
            [str(self._installation.executable), *self._arguments(self._installation)],
            environment=environment,
            directory=self._workplace,  # the stub puts it first on sys.path
            patience=self._grace + _KILL_SECONDS,
            leftovers=[f"{_SHARED_MEMORY / self._prefix}*", str(self._directory)],
        )
        assert self._child.process.stdout is not None
        self._log = ServerLog(self._child.process.stdout, self._journal, verbose=self._verbose)

    def _environment(self, installation: TritonInstallation) -> dict[str, str]:
        assert self._directory is not None
        environment = dict(os.environ)
        if installation.wheel is not None:
            environment = prepare_environment(installation, self._workplace)
        if self._request_log is not None:
            environment[LOG_REQUESTS] = "1"
        environment[TURNED_AWAY] = str(self._directory / _TURNED_AWAY)
        environment.pop("AIP_MODE", None)  # it would open another port, on every address (Vertex AI)
        return environment

    def _arguments(self, installation: TritonInstallation) -> list[str]:
        assert self._ports is not None and self._inner is not None
        return triton_arguments(
            self._repository,
            inner=self._inner,
            key=self._gateway_key,
            host=self._host,
            metrics=self._ports.metrics,
            grace=self._grace,
            shared_memory=self._prefix,
            backends=None if installation.wheel is None else self._workplace / "backends",
            keep_going=self._keep_going,
            verbose=self._verbose,
        )

    def _ended(self, status: int | None) -> ServerError:
        self._finish_log()
        failures = self.last_lines()
        if "already in use" in failures:
            return PortInUse(f"Triton could not listen on its ports:\n{failures}")
        return ServerFailed(f"Triton ended {how_it_ended(status)}; its last lines:\n{failures}")

    @property
    def _workplace(self) -> Path:
        """Triton's working directory, which each start has anew."""
        assert self._directory is not None
        return self._directory / "run"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise ServerError("the server is not running; call start() first")
        return self._child.process

    def _finish_log(self) -> None:
        if self._log is not None:
            self._log.finish(_KILL_SECONDS)

    def _remove_shared_memory(self) -> None:
        for region in _SHARED_MEMORY.glob(f"{self._prefix}*"):
            region.unlink(missing_ok=True)

    def _remove_directory(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
