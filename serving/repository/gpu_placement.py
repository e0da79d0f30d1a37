"""Where and how an encoder's Triton model runs on GPUs: what can be chosen."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..runtime.errors import EngineError, RepositoryError
from ..runtime.gpu_providers import CUDA_PROVIDER, TENSORRT_PROVIDER
from ..runtime.gpu_settings import Arena, GpuSettings
from ..runtime.profiles import OptimizationProfile

__all__ = ["Accelerator", "GpuPlacement"]


class Accelerator(str, Enum):
    """What computes on the GPU where ONNX Runtime runs the graph."""

    CUDA = "cuda"
    TENSORRT = "tensorrt"
    """ONNX Runtime's TensorRT provider, with CUDA behind it for what it leaves."""

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of its execution provider."""
        return TENSORRT_PROVIDER if self is Accelerator.TENSORRT else CUDA_PROVIDER


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlacement:
    """How the encoder runs on GPUs.

    Attributes:
        gpus: numbers of the GPUs; empty: all that the server sees. Each gets as many instances as the options
            say.
        accelerator: what computes, where ONNX Runtime runs the graph.
        memory_limit: most bytes of ONNX Runtime's arena of each instance; None: all that is free.
        arena: how that arena grows.
        allow_tf32: let float32 products be computed in TF32.
        profiles: of the TensorRT accelerator; empty: three, up to the largest run that a batch can make.
        workspace: most bytes of scratch memory while the TensorRT accelerator builds; None: its own bound.
        cache: directory, as the server sees it, in which the TensorRT accelerator keeps engines and timings.
        rate_limited: let each run take a unit of the resource `longserve_gpu`, so that a server with
            `--rate-limit=execution_count --rate-limit-resource=longserve_gpu:N` has at most N runs at a time
            on a GPU, over all models that were built so.
    """

    gpus: tuple[int, ...] = ()
    accelerator: Accelerator = Accelerator.CUDA
    memory_limit: int | None = None
    arena: Arena = Arena.SAME_AS_REQUESTED
    allow_tf32: bool = False
    profiles: tuple[OptimizationProfile, ...] = ()
    workspace: int | None = None
    cache: str = "/tmp/longserve-tensorrt"
    rate_limited: bool = False

    def __post_init__(self) -> None:
        if len(set(self.gpus)) != len(self.gpus) or any(gpu < 0 for gpu in self.gpus):
            shown = ", ".join(map(str, self.gpus))
            raise RepositoryError(f"the GPUs are {shown}; give each number, from 0 on, once")
        try:
            self.settings()
        except EngineError as error:
            raise RepositoryError(str(error)) from error
        if self.profiles and self.accelerator is not Accelerator.TENSORRT:
            raise RepositoryError(
                "profiles are given, but the accelerator is cuda, which takes any shape; leave them out, or "
                "choose the accelerator tensorrt"
            )
        if self.workspace is not None and self.accelerator is not Accelerator.TENSORRT:
            raise RepositoryError(
                f"workspace is {self.workspace}, but the accelerator is cuda, which builds no engine; leave "
                "it out, or choose the accelerator tensorrt"
            )

    def settings(self) -> GpuSettings:
        """Return the same as settings of an engine."""
        return GpuSettings(
            memory_limit=self.memory_limit,
            arena=self.arena,
            allow_tf32=self.allow_tf32,
            profiles=self.profiles,
            workspace=self.workspace,
            cache=self.cache,
        )
