"""Load on a Triton model: NVIDIA's perf_analyzer, or the same closed loop with tritonclient.

Both keep `concurrency` requests under way over gRPC until every request was answered, and give when each was
sent and answered. The requests are token ids of given lengths, the first token global.

perf_analyzer comes from PyPI in two ways:

* `pip install perf-analyzer` (2.60, wheels for glibc 2.38 and newer). On an older system, Debian 12 for one,
  pip falls back to version 0.1.0, which is an empty placeholder.
* inside the wheel of an older tritonclient: `pip download --no-deps tritonclient==2.51.0`, then unzip it;
  the program is `tritonclient-2.51.0.data/data/bin/perf_analyzer`. It needs libb64 and libcudart, which are
  taken from the nvidia-pytriton wheel.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_LIBRARIES = ("libb64", "libcudart")
_SONAMES = {"libb64": "libb64.so.0d", "libcudart": "libcudart.so.12"}
_NANOSECONDS = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests for one model.

    Attributes:
        url: host and port of Triton's gRPC service.
        model: the encoder's name.
        lengths: tokens of each request, in the order of sending.
        vocab_size: ids are below it.
        concurrency: requests under way at the same time.
        seed: of the ids.
    """

    url: str
    model: str
    lengths: tuple[int, ...]
    vocab_size: int
    concurrency: int
    seed: int = 0

    def inputs(self) -> Iterator[dict[str, np.ndarray[Any, np.dtype[np.int64]]]]:
        """Make the tensors of each request, `[tokens]`; ids from 5 on are no special ones."""
        random = np.random.default_rng(self.seed)
        for length in self.lengths:
            ids = random.integers(5, self.vocab_size, length, dtype=np.int64)
            mask = np.zeros(length, dtype=np.int64)
            mask[0] = 1
            yield {"input_ids": ids, "global_attention_mask": mask}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """When requests were sent and answered, in seconds of any clock; both in the same order."""

    sent: tuple[float, ...]
    answered: tuple[float, ...]

    @property
    def duration(self) -> float:
        """Seconds from the first request to the last answer."""
        return max(self.answered) - min(self.sent)

    @property
    def latencies(self) -> list[float]:
        """Seconds from each request to its answer."""
        return [end - begin for begin, end in zip(self.sent, self.answered, strict=True)]


class TritonClientLoad:
    """The load with tritonclient: one thread and connection for each request under way."""

    name = "tritonclient"

    def run(self, load: Load) -> Answered:
        """Send all requests and wait for their answers.

        Raises:
            tritonclient.utils.InferenceServerException: a request failed.
        """
        from tritonclient import grpc

        queue, lock = iter(load.inputs()), threading.Lock()

        def work() -> list[tuple[float, float]]:
            times = []
            with grpc.InferenceServerClient(load.url) as client:
                while True:
                    with lock:
                        arrays = next(queue, None)
                    if arrays is None:
                        return times
                    tensors = []
                    for name, array in arrays.items():
                        tensors.append(grpc.InferInput(name, [1, array.size], "INT64"))
                        tensors[-1].set_data_from_numpy(array[None])
                    sent = time.perf_counter()
                    client.infer(load.model, tensors)
                    times.append((sent, time.perf_counter()))

        with ThreadPoolExecutor(load.concurrency) as pool:
            futures = [pool.submit(work) for _ in range(load.concurrency)]
            times = [pair for future in futures for pair in future.result()]
        return Answered(sent=tuple(t[0] for t in times), answered=tuple(t[1] for t in times))


class PerfAnalyzerLoad:
    """The load with NVIDIA's perf_analyzer."""

    def __init__(self, program: str | Path) -> None:
        """Check that the program runs here.

        Raises:
            OSError: it does not.
        """
        self._program = str(program)
        self._room = tempfile.TemporaryDirectory(prefix="longserve-perf-analyzer-")
        for stem in _LIBRARIES:
            for library in _pytriton_libraries().glob(f"{stem}-*"):
                Path(self._room.name, _SONAMES[stem]).symlink_to(library)
        found = self._call("--version")
        if found.returncode != 0:
            raise OSError(found.returncode, (found.stderr or found.stdout).strip().splitlines()[-1])
        self.name = (found.stdout + found.stderr).strip().splitlines()[0].partition(" (")[0]

    def run(self, load: Load) -> Answered:
        """Send all requests and wait for their answers.

        Raises:
            OSError: perf_analyzer failed, or gave not as many answers as there are requests.
        """
        data, export = Path(self._room.name, "inputs.json"), Path(self._room.name, "profile.json")
        data.write_text(
            json.dumps({"data": [_as_json(arrays) for arrays in load.inputs()]}), encoding="ascii"
        )
        export.unlink(missing_ok=True)
        options = ["-m", load.model, "-i", "grpc", "-u", load.url, "--async", "--max-threads", "4"]
        options += ["--input-data", str(data), "--concurrency-range", str(load.concurrency)]
        options += ["--request-count", str(len(load.lengths)), "--profile-export-file", str(export)]
        finished = self._call(*options)
        if finished.returncode != 0 or not export.is_file():
            said = (finished.stderr + finished.stdout).strip().splitlines()
            raise OSError(finished.returncode, f"perf_analyzer failed: {' '.join(said[-3:])}")
        (experiment,) = json.loads(export.read_text(encoding="utf-8"))["experiments"]
        requests = [r for r in experiment["requests"] if r.get("response_timestamps")]
        if len(requests) < len(load.lengths):
            raise OSError(f"perf_analyzer gave {len(requests)} answers to {len(load.lengths)} requests")
        return Answered(
            sent=tuple(request["timestamp"] / _NANOSECONDS for request in requests),
            answered=tuple(request["response_timestamps"][-1] / _NANOSECONDS for request in requests),
        )

    def _call(self, *options: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, (self._room.name, os.environ.get("LD_LIBRARY_PATH"))))
        return subprocess.run(
            [self._program, *options],
            check=False,
            capture_output=True,
            text=True,
            env=os.environ | {"LD_LIBRARY_PATH": path},
        )


def find_generator(kind: str, program: str | None) -> tuple[TritonClientLoad | PerfAnalyzerLoad, str]:
    """Return a generator and why it is this one.

    Args:
        kind: `perf_analyzer`, `tritonclient`, or `auto`: perf_analyzer where it runs.
        program: path of perf_analyzer; None: the one on PATH.

    Raises:
        OSError: perf_analyzer was asked for and does not run here.
    """
    if kind == "tritonclient":
        return TritonClientLoad(), "chosen"
    found = program or shutil.which("perf_analyzer")
    if found is None:
        reason = "there is no perf_analyzer on PATH; its module's docstring says how to get one"
    else:
        try:
            return PerfAnalyzerLoad(found), "found and running"
        except OSError as error:
            reason = f"{found} does not run here: {error.strerror or error}"
    if kind == "perf_analyzer":
        raise OSError(reason)
    return TritonClientLoad(), reason


def _as_json(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: {"content": array.tolist(), "shape": [array.size]} for name, array in arrays.items()}


def _pytriton_libraries() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        return Path(os.devnull)
    return Path(spec.origin).parents[1] / "nvidia_pytriton.libs"
