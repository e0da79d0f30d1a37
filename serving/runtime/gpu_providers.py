"""ONNX Runtime's execution providers on NVIDIA GPUs, and the options that longserve chooses for them.

What each option does: docs/gpu.md. Names and meanings: onnxruntime.ai/docs/execution-providers, CUDA and
TensorRT; those that are left out keep ONNX Runtime's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .errors import EngineError
from .gpu_settings import Arena, GpuSettings
from .manifest import TensorSpec
from .profiles import OptimizationProfile

__all__ = [
    "CUDA_PROVIDER",
    "GPU_PROVIDERS",
    "TENSORRT_PROVIDER",
    "cuda_options",
    "profile_options",
    "provider_chain",
    "tensorrt_options",
]

CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"
GPU_PROVIDERS = frozenset({CUDA_PROVIDER, TENSORRT_PROVIDER})
_ARENAS = {Arena.SAME_AS_REQUESTED: "kSameAsRequested", Arena.POWER_OF_TWO: "kNextPowerOfTwo"}
_SHAPES = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")


def provider_chain(
    provider: str, settings: GpuSettings, inputs: Sequence[TensorSpec] = ()
) -> list[tuple[str, dict[str, str]]]:
    """Return a GPU's provider and those that take what it leaves, with their options.

    Every chain ends without the CPU's provider, which ONNX Runtime adds itself: it computes shapes there.

    Args:
        provider: `CUDA_PROVIDER` or `TENSORRT_PROVIDER`.
        settings: see `GpuSettings`.
        inputs: the graph's, for the shapes of the profiles.

    Raises:
        EngineError: there are profiles, and an input that they do not bound, or no inputs are given.
    """
    cuda = (CUDA_PROVIDER, cuda_options(settings))
    if provider == CUDA_PROVIDER:
        return [cuda]
    return [(TENSORRT_PROVIDER, tensorrt_options(settings, inputs)), cuda]


def cuda_options(settings: GpuSettings) -> dict[str, str]:
    """Return the options of the CUDA provider."""
    options = {
        "device_id": str(settings.device),
        "arena_extend_strategy": _ARENAS[settings.arena],
        # the graphs hold no convolution: nothing to search for
        "cudnn_conv_algo_search": "DEFAULT",
        "use_tf32": "1" if settings.allow_tf32 else "0",
        # where a sum and a LayerNormalization are fused: normalize in float32, as the graph says
        "enable_skip_layer_norm_strict_mode": "1",
    }
    if settings.memory_limit is not None:
        options["gpu_mem_limit"] = str(settings.memory_limit)
    return options


def tensorrt_options(settings: GpuSettings, inputs: Sequence[TensorSpec] = ()) -> dict[str, str]:
    """Return the options of the TensorRT provider. No precision is among them: the graph's types decide.

    Raises:
        EngineError: see `provider_chain`.
    """
    options = {"device_id": str(settings.device)}
    if settings.workspace is not None:
        options["trt_max_workspace_size"] = str(settings.workspace)
    if settings.cache is not None:
        options["trt_engine_cache_enable"] = options["trt_timing_cache_enable"] = "1"
        options["trt_engine_cache_path"] = options["trt_timing_cache_path"] = settings.cache
    return {**options, **profile_options(settings.profiles, inputs)}


def profile_options(profiles: Sequence[OptimizationProfile], inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Return the shapes of every input in every profile, as the TensorRT provider reads them.

    An input stands there once per profile, in the profiles' order: `ids:1,ends:1,ids:513,ends:1`.

    Raises:
        EngineError: there are profiles, and an input that they do not bound, or no inputs are given.
    """
    if profiles and not inputs:
        raise EngineError(
            "profiles are given, but not the graph's inputs that they are for; open the bundle's graph with "
            "`open_packed_engine`, or leave the profiles out"
        )
    bounds: Mapping[str, list[str]] = {option: [] for option in _SHAPES}
    for profile in profiles:
        for name, shapes in profile.shapes(inputs).items():
            for option, shape in zip(_SHAPES, shapes, strict=True):
                bounds[option].append(f"{name}:{'x'.join(map(str, shape))}")
    return {option: ",".join(shapes) for option, shapes in bounds.items() if shapes}
