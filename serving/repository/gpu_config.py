"""The parts of an encoder's Triton configuration that speak of GPUs.

Sources: model_config.proto (triton-inference-server/common); onnxruntime_backend, src/onnxruntime.cc, and
tensorrt_backend, src/instance_state.cc and src/model_state.cc (June and July 2026). What was found there is
written down in docs/gpu.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tritonclient.grpc import model_config_pb2 as triton

from ..runtime.errors import RepositoryError
from ..runtime.gpu_providers import cuda_options, profile_options
from ..runtime.gpu_settings import Arena
from ..runtime.manifest import GlobalAttention, Layout, Manifest
from ..runtime.profiles import OptimizationProfile, default_profiles
from ..runtime.tensorrt_record import EngineRecord
from .gpu_placement import Accelerator, GpuPlacement

__all__ = [
    "check_engine_fits",
    "onnxruntime_parameters",
    "place_on_gpus",
    "python_parameters",
    "unreached_profiles",
    "use_plan",
]

RATE_LIMITED = "longserve_gpu"
"""The resource that a run takes where the rate limiter is to count runs."""
_TOP_LEVEL = {"gpu_mem_limit", "arena_extend_strategy", "cudnn_conv_algo_search", "do_copy_in_default_stream"}
"""Options of the CUDA provider that the backend sets to its defaults as soon as the model has any parameter,
unless the model's own parameters name them: there they are safe, among the accelerator's they are not."""
_ARENAS = {Arena.POWER_OF_TWO: "0", Arena.SAME_AS_REQUESTED: "1"}
_DEFAULT_SEARCH = "2"


def place_on_gpus(config: Any, placement: GpuPlacement, instances: int) -> None:
    """Add the instance group: `instances` on each GPU."""
    group = config.instance_group.add(
        kind=triton.ModelInstanceGroup.KIND_GPU, count=instances, gpus=placement.gpus
    )
    if placement.rate_limited:
        group.rate_limiter.resources.add(name=RATE_LIMITED, count=1)


def onnxruntime_parameters(
    config: Any, manifest: Manifest, placement: GpuPlacement, name: str
) -> Mapping[str, str]:
    """Add the accelerators of Triton's ONNX Runtime backend; return the parameters that go with them.

    Args:
        config: the encoder's `ModelConfig`.
        manifest: the bundle's.
        placement: see `GpuPlacement`.
        name: the encoder's, which tells its engines from others' in the cache.

    Raises:
        RepositoryError: the profiles do not hold every batch that Triton may put together.
    """
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    if placement.accelerator is Accelerator.TENSORRT:
        accelerator = accelerators.add(name="tensorrt")
        accelerator.parameters.update(_tensorrt_parameters(manifest, placement, config.max_batch_size, name))
    options = cuda_options(placement.settings())
    own = {key: value for key, value in options.items() if key not in _TOP_LEVEL | {"device_id"}}
    accelerators.add(name="cuda").parameters.update(own)
    parameters = {
        "arena_extend_strategy": _ARENAS[placement.arena],
        "cudnn_conv_algo_search": _DEFAULT_SEARCH,
        "do_copy_in_default_stream": "1",
    }
    if placement.memory_limit is not None:
        parameters["gpu_mem_limit"] = str(placement.memory_limit)
    return parameters


def _tensorrt_parameters(
    manifest: Manifest, placement: GpuPlacement, max_batch_size: int, name: str
) -> dict[str, str]:
    """The backend gives the accelerator its GPU only if it has a parameter; it always has its shapes."""
    profiles = placement.profiles or default_profiles(
        Layout.PACKED, manifest.max_length, sequences=max_batch_size
    )
    most = max(profile.tokens.maximum for profile in profiles)
    sequences = min(profile.sequences.maximum for profile in profiles)
    _check_batches(max_batch_size, manifest.max_length, most, sequences, "the profiles take")
    shapes = profile_options(profiles, manifest.graph(Layout.PACKED).inputs)
    parameters = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": placement.cache,
        "trt_engine_cache_prefix": name,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": placement.cache,
        **shapes,
    }
    if placement.workspace is not None:
        parameters["max_workspace_size_bytes"] = str(placement.workspace)
    return parameters


def python_parameters(placement: GpuPlacement) -> dict[str, str]:
    """Return what the Python model opens its engine with; Triton tells it which GPU is its own."""
    parameters = {
        "provider": placement.accelerator.provider,
        "gpu_arena": placement.arena.value,
        "allow_tf32": "true" if placement.allow_tf32 else "false",
        "gpu_cache": placement.cache,
    }
    if placement.memory_limit is not None:
        parameters["gpu_memory_limit"] = str(placement.memory_limit)
    return parameters


def use_plan(config: Any, manifest: Manifest, record: EngineRecord) -> None:
    """Have Triton's TensorRT backend load the plan, with an execution context for each profile in use."""
    config.default_model_filename = record.plan.name
    unreached = unreached_profiles(record.profiles, manifest, config.max_batch_size)
    used = [str(i) for i, profile in enumerate(record.profiles) if profile not in unreached]
    for group in config.instance_group:
        group.profile.extend(used)


def unreached_profiles(
    profiles: Sequence[OptimizationProfile], manifest: Manifest, max_batch_size: int
) -> tuple[OptimizationProfile, ...]:
    """Return the profiles whose runs are longer than any batch can be."""
    most = max_batch_size * manifest.max_length
    return tuple(profile for profile in profiles if profile.tokens.minimum > most)


def check_engine_fits(
    record: EngineRecord, manifest: Manifest, fingerprint: str, max_batch_size: int
) -> None:
    """Check that an engine takes every run that a server may ask of it.

    Raises:
        IncompatibleEngine: it was built from another bundle.
        RepositoryError: it is of the padded graph; a batch may have more sequences, tokens or global tokens
            than it takes; or its profiles do not all take a single sequence.
    """
    record.check_bundle(fingerprint)
    if record.layout is not Layout.PACKED:
        raise RepositoryError(
            "the engine is of the padded graph, but encoders are served packed, without padding; build one "
            "with `longserve tensorrt --layout packed`"
        )
    _check_batches(
        max_batch_size, manifest.max_length, record.largest_run, record.most_sequences, "the engine takes"
    )
    _check_gaps(record, max_batch_size)
    _check_global_tokens(record, manifest, max_batch_size)


def _check_batches(max_batch_size: int, max_length: int, tokens: int, sequences: int, who: str) -> None:
    """Triton's batcher counts sequences, not tokens: any batch of the longest ones may come."""
    fitting = min(sequences, tokens // max_length)
    if fitting < 1:
        raise RepositoryError(
            f"{who} runs of up to {tokens} tokens, but a sequence may have {max_length}; give profiles that "
            "reach further"
        )
    if max_batch_size > fitting:
        raise RepositoryError(
            f"max_batch_size is {max_batch_size}, but {who} at most {sequences} sequences and {tokens} "
            "tokens a "
            f"run, and each sequence may have {max_length}; give --max-batch-size {fitting}, or larger "
            "profiles"
        )


def _check_gaps(record: EngineRecord, max_batch_size: int) -> None:
    """Every number of tokens must lie in a profile that takes every number of sequences.

    Triton's TensorRT backend chooses a profile by the tokens alone.
    """
    reached = 0
    for profile in sorted(record.profiles, key=lambda profile: profile.tokens.minimum):
        if profile.sequences.minimum > 1 or profile.sequences.maximum < max_batch_size:
            raise RepositoryError(
                f"the engine's profile {profile.described(record.layout)} does not take 1 to "
                f"{max_batch_size} "
                "sequences, as each must: Triton chooses a profile by the tokens alone; build it with the "
                "same "
                "batch in every profile"
            )
        if profile.tokens.minimum > reached + 1:
            break
        reached = max(reached, profile.tokens.maximum)
    if reached < record.largest_run:
        raise RepositoryError(
            f"no profile of the engine takes a run of {reached + 1} tokens, and such a run may come; build "
            "it with "
            "profiles that begin at 1 and leave nothing out"
        )


def _check_global_tokens(record: EngineRecord, manifest: Manifest, max_batch_size: int) -> None:
    """A run's global tokens are those of its sequences: one too many would make NaN of all of their "
    "logits."""
    if record.global_capacity is None:
        return
    first = manifest.global_attention is GlobalAttention.FIRST_TOKEN
    each = 1 if first else manifest.max_global_tokens
    if each is None:
        raise RepositoryError(
            "a question may have any number of tokens, all of them global, but the engine takes "
            f"{record.global_capacity} a run; export the bundle with --max-global-tokens, so that longer "
            "questions are refused one by one, and build the engine from it"
        )
    if each * max_batch_size > record.global_capacity:
        raise RepositoryError(
            f"a batch of {max_batch_size} sequences may have {each * max_batch_size} global tokens, but the "
            "engine "
            f"takes {record.global_capacity}; give --max-batch-size "
            f"{max(1, record.global_capacity // each)}, or "
            "build it with a larger --max-global-tokens"
        )
