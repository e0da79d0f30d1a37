"""The parts of an encoder's Triton configuration that speak of GPUs.

Sources: model_config.proto (triton-inference-server/common); onnxruntime_backend, src/onnxruntime.cc, and
tensorrt_backend, src/instance_state.cc and src/model_state.cc (June and July 2026). What was found there is
written down in docs/gpu.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tritonclient.grpc import model_config_pb2 as triton

from ..runtime.errors import RepositoryError
from ..runtime.gpu_providers import cuda_options, profile_options
from ..runtime.gpu_settings import Arena
from ..runtime.manifest import GlobalAttention, Layout, Manifest
from ..runtime.profiles import OptimizationProfile, SizeRange, default_profiles
from ..runtime.tensorrt_record import EngineRecord
from .gpu_placement import Accelerator, GpuPlacement
from .options import Backend, RepositoryOptions

__all__ = [
    "check_engine_fits",
    "default_run",
    "largest_run",
    "onnxruntime_parameters",
    "place_on_gpus",
    "python_parameters",
    "tensorrt_profiles",
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
    config: Any, manifest: Manifest, options: RepositoryOptions, name: str
) -> Mapping[str, str]:
    """Add the accelerators of Triton's ONNX Runtime backend; return the parameters that go with them.

    Args:
        config: the encoder's `ModelConfig`.
        manifest: the bundle's.
        options: see `RepositoryOptions`; they place the encoder on a GPU.
        name: the encoder's, which tells its engines from others' in the cache.

    Raises:
        RepositoryError: the profiles do not hold every batch that Triton may put together.
    """
    placement = options.gpu or GpuPlacement()
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    if placement.accelerator is Accelerator.TENSORRT:
        accelerator = accelerators.add(name="tensorrt")
        profiles = tensorrt_profiles(manifest, options)
        accelerator.parameters.update(_tensorrt_parameters(manifest, placement, profiles, name))
    given = cuda_options(placement.settings())
    own = {key: value for key, value in given.items() if key not in _TOP_LEVEL | {"device_id"}}
    accelerators.add(name="cuda").parameters.update(own)
    parameters = {
        "arena_extend_strategy": _ARENAS[placement.arena],
        "cudnn_conv_algo_search": _DEFAULT_SEARCH,
        "do_copy_in_default_stream": "1",
    }
    if placement.memory_limit is not None:
        parameters["gpu_mem_limit"] = str(placement.memory_limit)
    return parameters


def largest_run(manifest: Manifest, options: RepositoryOptions) -> int:
    """Return the most tokens of a run: a batch of the longest sequences, unless it is split."""
    whole = options.max_batch_size * manifest.max_length
    if options.backend is not Backend.PYTHON:
        return whole
    bound = options.max_tokens_per_run or (0 if options.plan is not None else default_run(manifest))
    return min(whole, bound or whole)


def default_run(manifest: Manifest) -> int:
    """Return the most tokens of a run of a graph with the python backend, where nothing else is asked for."""
    return max(8192, 2 * manifest.max_length)


def tensorrt_profiles(manifest: Manifest, options: RepositoryOptions) -> tuple[OptimizationProfile, ...]:
    """Return the profiles of the TensorRT accelerator, none for another: those given, or three.

    Raises:
        RepositoryError: those given do not hold every batch that Triton may put together.
    """
    placement, max_length = options.gpu, manifest.max_length
    if placement is None or placement.accelerator is not Accelerator.TENSORRT:
        return ()
    if not placement.profiles:
        longest = -(-largest_run(manifest, options) // max_length)
        sequences = SizeRange(minimum=1, optimum=1, maximum=options.max_batch_size)
        profiles = default_profiles(Layout.PACKED, max_length, sequences=longest)
        return tuple(replace(profile, sequences=sequences) for profile in profiles)
    most = max(profile.tokens.maximum for profile in placement.profiles)
    at_once = min(profile.sequences.maximum for profile in placement.profiles)
    _check_batches(options.max_batch_size, max_length, most, at_once, "the profiles take")
    return placement.profiles


def _tensorrt_parameters(
    manifest: Manifest, placement: GpuPlacement, profiles: Sequence[OptimizationProfile], name: str
) -> dict[str, str]:
    """The backend gives the accelerator its GPU only if it has a parameter; it always has its shapes."""
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


def python_parameters(manifest: Manifest, options: RepositoryOptions) -> dict[str, str]:
    """Return what the Python model opens its engine with; Triton tells it which GPU is its own.

    Raises:
        RepositoryError: see `tensorrt_profiles`.
    """
    placement = options.gpu or GpuPlacement()
    parameters = {
        "provider": placement.accelerator.provider,
        "gpu_arena": placement.arena.value,
        "allow_tf32": "true" if placement.allow_tf32 else "false",
        "gpu_cache": placement.cache,
    }
    if placement.memory_limit is not None:
        parameters["gpu_memory_limit"] = str(placement.memory_limit)
    if placement.workspace is not None:
        parameters["gpu_workspace"] = str(placement.workspace)
    profiles = tensorrt_profiles(manifest, options)
    if profiles:
        parameters["gpu_profiles"] = ";".join(profile.described(Layout.PACKED) for profile in profiles)
    return parameters


def use_plan(config: Any, record: EngineRecord, most_tokens: int) -> None:
    """Have Triton's TensorRT backend load the plan, with an execution context for each profile in use.

    Unless told otherwise, each context takes the memory of the largest profile. Tritons before 25.05 know no
    other way and ignore the parameter.
    """
    config.default_model_filename = record.plan.name
    config.parameters["execution_context_allocation_strategy"].string_value = "ON_PROFILE_CHANGE"
    unreached = unreached_profiles(record.profiles, most_tokens)
    used = [str(i) for i, profile in enumerate(record.profiles) if profile not in unreached]
    for group in config.instance_group:
        group.profile.extend(used)


def unreached_profiles(
    profiles: Sequence[OptimizationProfile], most_tokens: int
) -> tuple[OptimizationProfile, ...]:
    """Return the profiles that begin beyond the largest run."""
    return tuple(profile for profile in profiles if profile.tokens.minimum > most_tokens)


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
