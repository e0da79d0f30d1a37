"""The parent's end of a process that is measured; `worker` is the other.

Between its turns a process is stopped (SIGSTOP): threads of the pools of PyTorch, ONNX Runtime and OpenVINO
spin for a while after a run, and would take their share of the cores from the engine whose turn it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .errors import MeasurementError

if TYPE_CHECKING:
    if sys.version_info >= (3, 11):
        from typing import Self
    else:
        from typing_extensions import Self

__all__ = ["StoppedProcess"]

_LAST_LINES = 3


class StoppedProcess:
    """A process that answers requests, stopped unless it is asked something.

    Attributes:
        loaded: its first reply, when it was ready.
        timeout: seconds that a request may take.
        failure: what is raised when it fails; takes the reason.
    """

    failure: type[Exception] = MeasurementError

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        timeout: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process and wait until it is ready.

        Args:
            module: what is run with `python -m`; it calls `answer_requests` on its first argument, which is
                put before the others.
            arguments: the others.
            timeout: seconds that the start and each later request may take.
            environment: variables to set beside those of this process.

        Raises:
            MeasurementError, or `failure` of a subclass: it does not get ready.
        """
        self.timeout = timeout
        self._open = contextlib.ExitStack()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._open.callback(self._log.close)
        ours, theirs = socket.socketpair()
        self._channel, self._received = self._open.enter_context(ours), b""
        with theirs:
            descriptor = theirs.fileno()
            # no `preexec_fn`: it makes a real fork, whose handlers break the child of a user of gRPC
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(descriptor), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[descriptor],
                env=os.environ | dict(environment or {}),
            )
        self.loaded: dict[str, Any] = {}
        try:
            self.loaded = self._receive()
            self._process.send_signal(signal.SIGSTOP)
        except BaseException:
            self.close()
            raise

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Let the process do one thing and return its reply.

        Raises:
            MeasurementError, or `failure` of a subclass: it failed, ended, or took longer than the timeout;
                the process is gone then.
        """
        try:
            with self._awake():
                line = json.dumps({"do": command, "with": arguments}) + "\n"
                with contextlib.suppress(BrokenPipeError):  # it ended: `_receive` says why
                    self._channel.sendall(line.encode())
                return self._receive()
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def _awake(self) -> Iterator[None]:
        self._process.send_signal(signal.SIGCONT)
        yield
        self._process.send_signal(signal.SIGSTOP)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def kill(self) -> None:
        """Kill the process, as the system does when memory runs out."""
        self._process.kill()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> dict[str, Any]:
        until = time.monotonic() + self.timeout
        while b"\n" not in self._received:
            self._channel.settimeout(max(0.001, until - time.monotonic()))
            try:
                chunk = self._channel.recv(1 << 20)
            except TimeoutError:
                raise self.failure(f"no result within {self.timeout:g} s") from None
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                raise self.failure(self._how_it_ended())
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise self.failure(reply["error"].strip())
        return reply

    def _how_it_ended(self) -> str:
        status = self._process.wait()
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"its process was {how}" + "".join(f"; {line.strip()}" for line in lines[-_LAST_LINES:])
