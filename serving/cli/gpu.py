"""The options of `longserve repo` that place the encoder on GPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..repository.gpu_placement import Accelerator, GpuPlacement
from ..runtime.gpu_settings import Arena
from ..runtime.manifest import Layout
from ..runtime.profiles import parse_profile

__all__ = ["chosen_gpu", "gpu_options"]

_DEFAULTS = GpuPlacement()
_MIB = 1 << 20
_Command = TypeVar("_Command", bound=Callable[..., None])


def gpu_options(command: _Command) -> _Command:
    """Add `--device` and what goes with it; the command passes their values to `chosen_gpu`."""
    for option in (
        click.option(
            "--response-cache",
            is_flag=True,
            help="Let each process of the text model keep the encoder's answers, 64 MiB of them.",
        ),
        click.option(
            "--rate-limited",
            is_flag=True,
            help="Let each run take a unit of the resource longserve_gpu (tritonserver --rate-limit).",
        ),
        click.option(
            "--gpu-cache",
            default=_DEFAULTS.cache,
            show_default=True,
            help="The server's directory for engines, timings and compiled kernels.",
        ),
        click.option(
            "--gpu-profile",
            "gpu_profiles",
            multiple=True,
            metavar="RANGES",
            help="With --accelerator tensorrt: batch=MIN:OPT:MAX,tokens=MIN:OPT:MAX; may be repeated.",
        ),
        click.option(
            "--gpu-workspace",
            type=click.IntRange(1),
            metavar="MIB",
            help="With --accelerator tensorrt: most scratch memory while it builds an engine.  [all]",
        ),
        click.option("--allow-tf32", is_flag=True, help="Let products of float32 be rounded to TF32."),
        click.option(
            "--gpu-arena",
            type=click.Choice([arena.value for arena in Arena]),
            default=_DEFAULTS.arena.value,
            show_default=True,
            help="How ONNX Runtime's memory on the GPU grows.",
        ),
        click.option(
            "--gpu-memory",
            type=click.IntRange(1),
            metavar="MIB",
            help="Most memory of ONNX Runtime's arena of each instance.  [all]",
        ),
        click.option(
            "--accelerator",
            type=click.Choice([accelerator.value for accelerator in Accelerator]),
            default=_DEFAULTS.accelerator.value,
            show_default=True,
            help="What computes on the GPU where ONNX Runtime runs the graph.",
        ),
        click.option(
            "--gpu",
            "gpus",
            type=click.IntRange(0),
            multiple=True,
            help="Number of a GPU; may be repeated; each gets --instances.  [all that the server sees]",
        ),
        click.option(
            "--plan",
            type=click.Path(path_type=Path),
            help="Engine of `longserve tensorrt`, for --backend tensorrt or --engine tensorrt.",
        ),
        click.option(
            "--device",
            type=click.Choice(["cpu", "gpu"]),
            help="Where the encoder runs.  [default: cpu; gpu for tensorrt]",
        ),
    ):
        command = option(command)
    return command


def chosen_gpu(given: dict[str, Any]) -> dict[str, Any]:
    """Return what `gpu_options` gave, as fields of `RepositoryOptions`.

    Args:
        given: the values of the options.

    Raises:
        UsageError: an option for GPUs without a GPU.
        RepositoryError, EngineError: a value cannot be used.
    """
    plan, device = given["plan"], given["device"]
    changes: dict[str, Any] = {"plan": plan, "response_cache": given["response_cache"]}
    placement = GpuPlacement(
        gpus=given["gpus"],
        accelerator=Accelerator(given["accelerator"]),
        memory_limit=None if given["gpu_memory"] is None else given["gpu_memory"] * _MIB,
        arena=Arena(given["gpu_arena"]),
        allow_tf32=given["allow_tf32"],
        profiles=tuple(parse_profile(text, Layout.PACKED) for text in given["gpu_profiles"]),
        workspace=None if given["gpu_workspace"] is None else given["gpu_workspace"] * _MIB,
        cache=given["gpu_cache"],
        rate_limited=given["rate_limited"],
    )
    if device == "gpu" or (device is None and plan is not None):
        return {**changes, "gpu": placement}
    if device == "cpu" and plan is not None:
        raise click.UsageError("--plan runs on a GPU; leave --device cpu out")
    if placement != _DEFAULTS:
        raise click.UsageError(
            "options for GPUs are given, but the encoder is to run on the CPU; add --device gpu, or leave "
            "them "
            "out"
        )
    return changes
