"""Stand-ins for TensorRT and CUDA, for what needs a GPU: they keep the calls and copy real bytes."""

# ruff: noqa: N802, N815 (the names are CUDA's and TensorRT's)
from __future__ import annotations

import ctypes
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

from longserve.serving.runtime.manifest import FileRecord, Layout, Precision, Task, TensorSpec
from longserve.serving.runtime.profiles import default_profiles
from longserve.serving.runtime.tensorrt_record import ENGINE_SCHEMA, EngineRecord, Gpu, TensorRtLibrary

__all__ = ["GPU", "FakeCuda", "FakeTensorRt", "make_record"]

GPU = Gpu(name="NVIDIA Test 1", compute_capability="9.0")


class _Status(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorIllegalAddress = 700


class FakeCuda:
    """`cuda.bindings.runtime` over the host's memory."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, *, devices: int = 1, driver: bool = True, memory: int = 1 << 30) -> None:
        self.devices, self.driver, self.memory = devices, driver, memory
        self.held: dict[int, Any] = {}
        self.calls: list[str] = []

    def cudaGetDeviceCount(self) -> tuple[Any, int | None]:
        return (_Status.cudaSuccess, self.devices) if self.driver else (_Status(35), None)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, Any]:
        return _Status.cudaSuccess, SimpleNamespace(name=b"NVIDIA Test 1\0\0", major=9, minor=0)

    def cudaSetDevice(self, device: int) -> tuple[Any]:
        self.calls.append(f"device {device}")
        return (_Status.cudaSuccess,)

    def cudaStreamCreate(self) -> tuple[Any, int]:
        return _Status.cudaSuccess, 7

    def cudaStreamDestroy(self, stream: int) -> tuple[Any]:
        return (_Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]:
        self.calls.append("synchronize")
        return (_Status.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple[Any, int | None]:
        if size > self.memory:
            return _Status.cudaErrorMemoryAllocation, None
        memory = ctypes.create_string_buffer(size)
        self.held[ctypes.addressof(memory)] = memory
        self.calls.append(f"malloc {size}")
        return _Status.cudaSuccess, ctypes.addressof(memory)

    def cudaFree(self, address: int) -> tuple[Any]:
        del self.held[address]
        return (_Status.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[Any]:
        ctypes.memmove(target, source, size)
        return (_Status.cudaSuccess,)


class _Context:
    """Gives, for every token, its id as start logit and minus its id as end logit."""

    def __init__(self, library: FakeTensorRt) -> None:
        self.library = library
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.library.calls.append(f"profile {index}")
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.library.output_shape or self.shapes["input_ids"]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.library.calls.append("run")
        count = int(np.prod(self.shapes["input_ids"]))
        ids = np.ctypeslib.as_array((ctypes.c_int64 * count).from_address(self.addresses["input_ids"]))
        for name, sign in (("start_logits", 1), ("end_logits", -1)):
            out = np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses[name]))
            out[:] = sign * ids * self.library.error
        return self.library.runs


class FakeTensorRt:
    """A module like `tensorrt_rtx`, whose plans load and run."""

    ERROR = 1
    __version__ = "1.7.1.116"

    def __init__(self, *, loads: bool = True, runs: bool = True, error: float = 1.0) -> None:
        self.loads, self.runs, self.error = loads, runs, error
        self.output_shape: tuple[int, ...] | None = None
        self.calls: list[str] = []
        self.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda *_: None})
        self.tensors = ["input_ids", "global_attention_mask", "sequence_ends", "start_logits", "end_logits"]
        self.cached: bytes | None = None

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: self._engine() if self.loads else None)

    def _engine(self) -> Any:
        def context(config: Any = None) -> _Context:
            self.calls.append("context" if config is None else "context with a runtime cache")
            return _Context(self)

        def deserialize(blob: bytes) -> bool:
            self.cached = blob
            return True

        cache = SimpleNamespace(deserialize=deserialize, serialize=lambda: b"compiled")
        config = SimpleNamespace(create_runtime_cache=lambda: cache, set_runtime_cache=lambda cache: None)
        return SimpleNamespace(
            num_io_tensors=len(self.tensors),
            get_tensor_name=lambda index: self.tensors[index],
            create_execution_context=context,
            create_runtime_config=lambda: config,
        )


def make_record(**fields: Any) -> EngineRecord:
    """The record of a packed question-answering engine for sequences of up to 64 tokens, 16 globals a run."""
    integers = [("input_ids", "int64", "tokens"), ("global_attention_mask", "int64", "tokens")]
    values: dict[str, Any] = {
        "schema_version": ENGINE_SCHEMA,
        "library": TensorRtLibrary.TENSORRT_RTX,
        "version": FakeTensorRt.__version__,
        "gpu": None,
        "targets": ("8.9", "9.0"),
        "bundle": "b" * 64,
        "task": Task.QUESTION_ANSWERING,
        "precision": Precision.FP16,
        "layout": Layout.PACKED,
        "inputs": tuple(
            TensorSpec(name=name, dtype=dtype, axes=(axis,))
            for name, dtype, axis in (*integers, ("sequence_ends", "int32", "batch"))
        ),
        "outputs": tuple(
            TensorSpec(name=name, dtype="float32", axes=("tokens",))
            for name in ("start_logits", "end_logits")
        ),
        "profiles": default_profiles(Layout.PACKED, 64, sequences=4),
        "global_capacity": 16,
        "plan": FileRecord(name="model.plan", sha256="0" * 64, size=4),
        "validation": None,
    }
    return EngineRecord(**{**values, **fields})
