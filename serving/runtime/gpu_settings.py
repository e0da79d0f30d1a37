"""How a GPU is used: which one, how much of its memory, what may round, what is kept between processes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .errors import EngineError
from .profiles import OptimizationProfile

__all__ = ["Arena", "GpuSettings"]


class Arena(str, Enum):
    """How ONNX Runtime's memory arena on the GPU grows (its option `arena_extend_strategy`)."""

    SAME_AS_REQUESTED = "same-as-requested"
    """By what is asked for. With lengths that vary, the arena stays near what the largest run needed."""
    POWER_OF_TWO = "power-of-two"
    """By doubling: fewer allocations, and up to twice the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSettings:
    """Settings of the engines that run on a GPU; those that run on a CPU ignore them.

    Attributes:
        device: number of the GPU.
        memory_limit: most bytes of ONNX Runtime's arena there; None: all that is free. The libraries' own
            memory (cuBLAS, cuDNN, TensorRT's contexts) comes on top.
        arena: how that arena grows.
        allow_tf32: let float32 products be computed in TF32, which keeps ten bits of a number's fraction:
            ONNX Runtime's and TensorRT's default, but not ours, because a float32 bundle promises more.
        allow_cpu: if the provider cannot be had, run on the CPU instead of raising an error.
        profiles: of the TensorRT provider; empty: its own, from the shapes that it meets, with a build of
            seconds to minutes whenever a new one is outside.
        workspace: most bytes that TensorRT may use as scratch memory while it builds; None: all.
        cache: directory in which engines and timings (the TensorRT provider) or compiled kernels
            (TensorRT-RTX) are kept for the next process; None: nowhere.
    """

    device: int = 0
    memory_limit: int | None = None
    arena: Arena = Arena.SAME_AS_REQUESTED
    allow_tf32: bool = False
    allow_cpu: bool = False
    profiles: tuple[OptimizationProfile, ...] = ()
    workspace: int | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.device < 0:
            raise EngineError(f"the GPU is number {self.device}; give 0 or more")
        for name in ("memory_limit", "workspace"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise EngineError(f"{name} is {size}; give a positive number of bytes")
