"""What can be chosen when the Triton models of a bundle are built."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..runtime.engine_settings import EngineName, EngineSettings, InferencePrecision
from ..runtime.errors import EngineError, RepositoryError
from ..runtime.limits import DEFAULT_MAX_TEXT_BYTES, DEFAULT_MAX_WINDOWS
from .gpu_placement import Accelerator, GpuPlacement

__all__ = [
    "Backend",
    "OPENVINO_BACKEND",
    "RESPONSE_CACHE_BYTES",
    "RepositoryOptions",
    "check_name",
    "parse_backend",
]

RESPONSE_CACHE_BYTES = 64 << 20
"""Most bytes of the encoder's answers that a process of the text model keeps, if it is to keep any."""

OPENVINO_BACKEND = "openvino"
"""Triton's OpenVINO backend, which people will ask for; `parse_backend` says why it cannot be used."""
_NO_OPENVINO_BACKEND = (
    "the backend is openvino, but Triton's OpenVINO backend cannot serve the packed graph: it has no ragged "
    "batching (batch_input, batch_output), sets the first axis to max_batch_size, and computes in bf16 "
    "unasked where the CPU has it; use --engine openvino with --backend python, or with --backend onnxruntime"
)
"""Source: triton-inference-server/openvino_backend, src/openvino.cc (July 2026): `ValidateInputs` calls
`ov::set_batch`, `SetInputTensors` wants inputs of equal size, and HINT_BF16 can only be YES."""
_NO_OPTIONS = GpuPlacement()
_ONNX_RUNTIMES = {
    "accelerator": "--accelerator",
    "memory_limit": "--gpu-memory",
    "arena": "--gpu-arena",
    "allow_tf32": "--allow-tf32",
    "profiles": "--gpu-profile",
    "workspace": "--gpu-workspace",
    "cache": "--gpu-cache",
}
"""Fields of `GpuPlacement` that speak of ONNX Runtime, and the options that give them."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Backend(str, Enum):
    """The Triton backend that runs the encoder."""

    PYTHON = "python"
    """An engine inside the python backend: the embedded server."""
    ONNXRUNTIME = "onnxruntime"
    """Triton's own ONNX Runtime backend: NVIDIA's container."""
    TENSORRT = "tensorrt"
    """Triton's own TensorRT backend, for an engine of `longserve tensorrt`: NVIDIA's container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryOptions:
    """How the two Triton models of a bundle are configured.

    Attributes:
        backend: what runs the encoder.
        engine: what computes in it. With the backend onnxruntime, openvino means its OpenVINO accelerator.
        inference_precision: arithmetic of the graph's float operators.
        engine_record: the measurements that the choice of the engine rests on, as JSON; empty: it was not
            measured. It is written into the encoder's configuration, unless that is portable.
        instances: encoder instances that run at the same time, each with the weights in memory.
        threads: intra-op threads of each encoder instance; 0: the machine's cores divided by `instances`.
        max_batch_size: most sequences (encoder) or texts (text model) of one execution, and of one request.
        max_tokens_per_run: most tokens of one run of the graph with the python backend; what goes beyond is
            split into several runs. It bounds the memory. 0: twice the model's length, at least 8192.
        max_queue_size: requests that each text instance holds, waiting or under way; one more is refused at
            once.
        queue_timeout: seconds that a text may wait for its first turn at the encoder before it is refused.
        max_queue_delay: seconds that the encoder's batcher waits for more sequences to come.
        text_instances: processes that tokenize and decode.
        max_in_flight: encoder requests that one text instance has under way at the same time.
        max_text_bytes: largest text, question or context that is taken, in bytes of UTF-8.
        max_windows: most windows that one text may be cut into.
        gpu: where the encoder runs on GPUs; None: it runs on the CPU.
        plan: directory of the engine that `longserve tensorrt` built, for the backend or the engine tensorrt.
        response_cache: let each process of the text model keep the encoder's answers, up to
            `RESPONSE_CACHE_BYTES`, so that a text that was read before is not encoded again.
        portable: leave out what differs from one export to the next (the bundle's fingerprint), so that the
            configurations can be kept in version control.
    """

    backend: Backend = Backend.PYTHON
    engine: EngineName = EngineName.ONNXRUNTIME
    inference_precision: InferencePrecision = InferencePrecision.FP32
    engine_record: str = ""
    instances: int = 1
    threads: int = 0
    max_batch_size: int = 16
    max_tokens_per_run: int = 0
    max_queue_size: int = 128
    queue_timeout: float = 60.0
    max_queue_delay: float = 0.001
    text_instances: int = 2
    max_in_flight: int = 16
    max_text_bytes: int = DEFAULT_MAX_TEXT_BYTES
    max_windows: int = DEFAULT_MAX_WINDOWS
    gpu: GpuPlacement | None = None
    plan: Path | None = None
    response_cache: bool = False
    portable: bool = False

    def __post_init__(self) -> None:
        for name in ("instances", "max_batch_size", "max_queue_size", "text_instances", "max_in_flight"):
            _check(name, getattr(self, name), minimum=1)
        for name in ("max_text_bytes", "max_windows"):
            _check(name, getattr(self, name), minimum=1)
        for name in ("threads", "max_tokens_per_run", "max_queue_delay"):
            _check(name, getattr(self, name), minimum=0)
        self._check_engine()
        self._check_gpu()
        if self.queue_timeout <= 0:
            raise RepositoryError(f"queue_timeout is {self.queue_timeout}; give a positive number of seconds")

    def _check_engine(self) -> None:
        try:
            EngineSettings(engine=self.engine, inference_precision=self.inference_precision)
        except EngineError as error:
            raise RepositoryError(str(error)) from error
        if self.backend is Backend.PYTHON or self.engine is not EngineName.OPENVINO:
            return
        if self.inference_precision is not InferencePrecision.FP32:
            raise RepositoryError(
                f"the inference precision is {self.inference_precision.value}, but the OpenVINO accelerator "
                "of Triton's onnxruntime backend computes in fp32 and takes no other; use --backend python"
            )
        if self.threads != 0 or self.instances != 1:
            raise RepositoryError(
                f"threads is {self.threads} and instances {self.instances}, but the OpenVINO accelerator of "
                "Triton's onnxruntime backend takes no number of threads and every instance would use all "
                "cores; leave both out, or use --backend python"
            )

    def _check_gpu(self) -> None:
        runs_plan = self.backend is Backend.TENSORRT or self.engine is EngineName.TENSORRT
        if runs_plan != (self.plan is not None):
            raise RepositoryError(
                "the backend or the engine is tensorrt, which needs the engine that `longserve tensorrt` "
                "built; give its directory with --plan"
                if runs_plan
                else f"the plan is {self.plan}, but neither the backend nor the engine is tensorrt; leave it "
                "out, or choose --backend tensorrt"
            )
        if runs_plan and self.gpu is None:
            object.__setattr__(self, "gpu", GpuPlacement())
        if runs_plan and self.gpu is not None:
            self._check_plan_runs_alone(self.gpu)
        if self.backend is not Backend.PYTHON and self.engine is EngineName.TENSORRT:
            raise RepositoryError(
                "the engine is tensorrt, which runs in the python backend, and the backend "
                f"{self.backend.value}; leave --engine out, and give --backend tensorrt, or onnxruntime with "
                "--accelerator tensorrt"
            )
        if runs_plan and self.threads:
            raise RepositoryError(
                f"threads is {self.threads}, but the engine of --plan computes on the GPU; leave it out"
            )
        if self.backend is not Backend.PYTHON and self.max_tokens_per_run:
            raise RepositoryError(
                f"max_tokens_per_run is {self.max_tokens_per_run}, but the backend {self.backend.value} runs "
                "each batch whole; choose a smaller max_batch_size, or the backend python"
            )
        if self.gpu is not None and not runs_plan:
            _check_cache_is_used(self.gpu)
        if self.gpu is not None and self.engine is EngineName.OPENVINO:
            raise RepositoryError(
                "the engine is openvino, which runs on CPUs, and the device a GPU; choose another engine, or "
                "leave --device out"
            )

    def _check_plan_runs_alone(self, gpu: GpuPlacement) -> None:
        """A plan runs without ONNX Runtime, whose options would be left out."""
        keeps_kernels = self.backend is Backend.PYTHON  # what TensorRT-RTX compiled
        given = [
            option
            for field, option in _ONNX_RUNTIMES.items()
            if getattr(gpu, field) != getattr(_NO_OPTIONS, field) and not (field == "cache" and keeps_kernels)
        ]
        if given:
            raise RepositoryError(
                f"{', '.join(given)} given, but the engine of --plan runs as it was built, without ONNX "
                "Runtime; leave that out (`longserve tensorrt` has --profile, --workspace and --allow-tf32)"
            )


def _check_cache_is_used(gpu: GpuPlacement) -> None:
    if gpu.cache != _NO_OPTIONS.cache and gpu.accelerator is not Accelerator.TENSORRT:
        raise RepositoryError(
            f"cache is {gpu.cache}, but the accelerator is {gpu.accelerator.value}, which keeps no engines; "
            "leave it out, or choose the accelerator tensorrt"
        )


def parse_backend(name: str) -> Backend:
    """Return the backend of that name.

    Raises:
        RepositoryError: it cannot serve our graphs.
    """
    if name == OPENVINO_BACKEND:
        raise RepositoryError(_NO_OPENVINO_BACKEND)
    try:
        return Backend(name)
    except ValueError:
        names = " or ".join(backend.value for backend in Backend)
        raise RepositoryError(f"the backend is {name!r}; give {names}") from None


def check_name(name: str) -> None:
    """Check a Triton model's name.

    Raises:
        RepositoryError: it could not be a directory's name and a part of a URL.
    """
    if not _NAME.fullmatch(name):
        raise RepositoryError(
            f"the model name is {name!r}; use letters, digits, '_', '-' and '.', a letter or digit first"
        )


def _check(name: str, value: float, *, minimum: int) -> None:
    if value < minimum:
        raise RepositoryError(f"{name} is {value}; give {minimum} or more")
