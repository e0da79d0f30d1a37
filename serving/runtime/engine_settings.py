"""What runs a bundle's graph, and how: the choices that every engine understands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from .errors import EngineError
from .gpu_settings import GpuSettings
from .manifest import Precision

__all__ = [
    "Arrays",
    "CPU_PROVIDER",
    "EngineName",
    "EngineSettings",
    "InferencePrecision",
    "has_cpu_kernels",
]

CPU_PROVIDER = "CPUExecutionProvider"
Arrays = Mapping[str, npt.NDArray[np.generic]]
"""Tensors by name."""


class EngineName(str, Enum):
    """A library that runs a bundle's graphs."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    """TensorRT or TensorRT-RTX, with an engine that `longserve tensorrt` built."""


class InferencePrecision(str, Enum):
    """The arithmetic that an engine uses for the graph's float operators, whatever the file's weights are."""

    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Which engine runs a graph, and its settings. What an engine cannot do is an error, never left out.

    Attributes:
        engine: the library.
        inference_precision: arithmetic of the float operators; None: fp32. bf16 needs OpenVINO and a CPU that
            has it.
        provider: ONNX Runtime's execution provider; it is used or an error is raised, never replaced.
        threads: threads of one run; 0 lets the engine take one per core that this process may use.
        memory_arena: keep freed memory for the next run. It is off by default: with lengths that vary, what
            is kept grows to the largest request ever seen and stays there.
        spin_between_runs: let ONNX Runtime's threads wait for the next run by spinning, for milliseconds.
            That is faster where one run follows the other at once; where other processes have a part in the
            work, as in a server, it takes the cores from them. Of no meaning to other engines.
        gpu: how a GPU is used; of no meaning on a CPU.
    """

    engine: EngineName = EngineName.ONNXRUNTIME
    inference_precision: InferencePrecision | None = None
    provider: str = CPU_PROVIDER
    threads: int = 0
    memory_arena: bool = False
    spin_between_runs: bool = True
    gpu: GpuSettings = field(default_factory=GpuSettings)

    @classmethod
    def of(cls, engine: EngineName | EngineSettings | str) -> EngineSettings:
        """Return the settings themselves, or the default ones for an engine's name.

        Raises:
            EngineError: there is no engine of that name.
        """
        if isinstance(engine, EngineSettings):
            return engine
        try:
            return cls(engine=EngineName(engine))
        except ValueError:
            names = " or ".join(name.value for name in EngineName)
            raise EngineError(f"the engine is {engine!r}; give {names}, or EngineSettings") from None

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise EngineError(f"threads is {self.threads}; give 0 (one per core) or a positive number")
        if self.engine is not EngineName.OPENVINO and self.inference_precision is InferencePrecision.BF16:
            raise EngineError(
                f"the inference precision is bf16, but {self.engine.value} computes in the precision of the "
                "graph; choose the engine openvino"
            )
        if self.engine is not EngineName.ONNXRUNTIME and self.provider != CPU_PROVIDER:
            raise EngineError(
                f"the provider is {self.provider}, which is one of ONNX Runtime's; leave it out with the "
                f"engine {self.engine.value}"
            )


def has_cpu_kernels(engine: EngineName, precision: Precision) -> bool:
    """Return whether an engine runs bundles of a precision on CPUs: ONNX Runtime 1.32 has no bf16 there."""
    return not (engine is EngineName.ONNXRUNTIME and precision is Precision.BF16)
