"""OpenVINO as the engine of a bundle's graph, on the CPU."""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .cores import engine_threads
from .engine_settings import Arrays, EngineName, EngineSettings, InferencePrecision
from .errors import EngineError

__all__ = ["OpenVinoEngine", "cpu_capabilities"]

_DEVICE = "CPU"
_PRECISIONS = {InferencePrecision.FP32: "f32", InferencePrecision.BF16: "bf16"}
_ERRORS = (RuntimeError, ValueError, TypeError, MemoryError)
"""What OpenVINO's binding raises; it has no exceptions of its own."""


class OpenVinoEngine:
    """A bundle's graph, compiled by OpenVINO for this CPU.

    The file's weights are mapped; OpenVINO keeps its own copy of those that it lays out anew for the
    processor. Runs from several threads wait for each other, because one run occupies all threads.
    """

    def __init__(self, model: str | Path, settings: EngineSettings | None = None) -> None:
        """Load and compile the ONNX file. Dynamic axes stay dynamic.

        Raises:
            EngineError: openvino is not installed, this CPU does not do the inference precision, or the file
                cannot be loaded.
        """
        chosen = settings or EngineSettings(engine=EngineName.OPENVINO)
        if chosen.engine is not EngineName.OPENVINO:
            raise EngineError(f"the settings are for {chosen.engine.value}; give settings for openvino")
        self._precision = chosen.inference_precision or InferencePrecision.FP32
        self._keeps_memory = chosen.memory_arena
        core = _core()
        _check_device(self._precision)
        try:
            graph = core.read_model(os.fspath(model))
            # the compiled model knows the tensors by further names too
            self._inputs = {port.any_name: np.dtype(port.element_type.to_dtype()) for port in graph.inputs}
            self._outputs = [port.any_name for port in graph.outputs]
            self._compiled = core.compile_model(graph, _DEVICE, _properties(chosen, self._precision))
            self._request = self._compiled.create_infer_request()
            used = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        except _ERRORS as error:
            remedy = "; copy the bundle's files, links followed" if "outside the base" in str(error) else ""
            raise EngineError(f"openvino cannot load {model}: {_reason(error)}{remedy}") from error
        if used != _PRECISIONS[self._precision]:
            raise EngineError(
                f"openvino was told to compute {model} in {self._precision.value} but chose {used}; "
                "choose that inference precision explicitly, or the engine onnxruntime"
            )
        self._lock = threading.Lock()

    @property
    def runs_on(self) -> str:
        """What the graph really runs on, with the arithmetic of its float operators."""
        return f"openvino {_DEVICE} {self._precision.value}"

    def run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Run the graph once. The arrays that it returns are the caller's.

        An index outside the table of a Gather is not noticed, unlike with ONNX Runtime: check ids before
        (`check_sequence`).

        Raises:
            EngineError: the run failed.
        """
        self._check(feeds)
        try:
            with self._lock:
                self._request.infer(dict(feeds))
                values = [self._request.get_output_tensor(i).data.copy() for i in range(len(self._outputs))]
                if not self._keeps_memory:
                    self._compiled.release_memory()
        except _ERRORS as error:
            raise EngineError(f"openvino failed: {_reason(error)}") from error
        return dict(zip(self._outputs, values, strict=True))

    def _check(self, feeds: Arrays) -> None:
        """Check names and types: OpenVINO takes the last run's value for a missing input, and casts."""
        if feeds.keys() != self._inputs.keys():
            raise EngineError(
                f"openvino failed: the inputs given are {', '.join(sorted(feeds)) or 'none'}, "
                f"the graph's are {', '.join(sorted(self._inputs))}; give exactly these"
            )
        for name, dtype in self._inputs.items():
            if feeds[name].dtype != dtype:
                raise EngineError(
                    f"openvino failed: the input {name} has element type {feeds[name].dtype}; give {dtype}"
                )


def _properties(settings: EngineSettings, precision: InferencePrecision) -> dict[str, Any]:
    """Return the compilation's properties.

    Without a hint OpenVINO computes in bf16 wherever the CPU has it. Its threads are not pinned: the
    processes of several instances would all be pinned to the same first cores. The group size is that of
    activations that are multiplied with int8 weights: 64 changes the logits less than 128 and is hardly
    slower, 32 takes a tenth more time (docs/performance.md).
    """
    return {
        "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": engine_threads(settings.threads),
        "ENABLE_CPU_PINNING": False,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 64,
    }


def cpu_capabilities() -> list[str]:
    """Return what OpenVINO computes in on this CPU, in its own words: `FP32`, `BF16`, `INT8` and others.

    Raises:
        EngineError: openvino is not installed or does not work here.
    """
    return list(_property("OPTIMIZATION_CAPABILITIES"))


def _property(name: str) -> Any:
    core = _core()
    try:
        return core.get_property(_DEVICE, name)
    except _ERRORS as error:
        raise EngineError(f"openvino has no {_DEVICE} device here: {_reason(error)}") from error


def _check_device(precision: InferencePrecision) -> None:
    capabilities = cpu_capabilities()
    if precision.value.upper() not in capabilities:
        raise EngineError(
            f"the inference precision is {precision.value}, but OpenVINO's capabilities on this CPU "
            f"({_property('FULL_DEVICE_NAME')}) "
            f"are {', '.join(capabilities)}; bf16 needs AVX512_BF16 or AMX; choose fp32"
        )


def _reason(error: BaseException) -> str:
    """Return OpenVINO's message in one line, without the places in its source that raised it."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith("Exception from ")]
    return " ".join(kept) or type(error).__name__


@cache
def _core() -> Any:
    """Return the process's OpenVINO core, which lives as long as the process.

    Each core's CPU plugin gives the thread that made it a stack for signals, and at its end puts back the one
    that it found. Of two cores the second would put back the first one's, which is freed by then: the next
    signal ends the process (seen with OpenVINO 2026.4.1).
    """
    openvino = _import_openvino()
    try:
        return openvino.Core()
    except _ERRORS as error:
        raise EngineError(f"openvino does not start here: {_reason(error)}") from error


def _import_openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise EngineError(f"openvino cannot be imported ({error}); install 'longserve[openvino]'") from error
    return openvino
