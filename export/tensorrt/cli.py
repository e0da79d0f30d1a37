"""The subcommand `longserve tensorrt`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from .builder import BuiltEngine

__all__ = ["tensorrt_command"]

_MIB = 1 << 20


@click.command("tensorrt")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Directory of the engine to write."
)
@click.option(
    "--library",
    type=click.Choice(["tensorrt", "tensorrt_rtx"]),
    default="tensorrt",
    show_default=True,
    help="tensorrt builds for this machine's GPU; tensorrt_rtx for RTX GPUs, also without one.",
)
@click.option(
    "--layout",
    type=click.Choice(["padded", "packed"]),
    default="packed",
    show_default=True,
    help="Which of the bundle's graphs.",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="RANGES",
    help="What it shall take: batch=MIN:OPT:MAX,tokens=MIN:OPT:MAX (packed) or batch=…,length=… (padded); "
    "several make buckets.  [default: three, by the model's length]",
)
@click.option(
    "--max-global-tokens",
    type=click.IntRange(1),
    help="Most global tokens of a sequence.  [default: the bundle's, else 1, or 64 for question answering]",
)
@click.option(
    "--global-slots",
    type=click.Choice(["bounded", "fixed"]),
    default="bounded",
    show_default=True,
    help="bounded: their number follows the input; fixed: always room for the most.",
)
@click.option("--workspace", type=click.IntRange(1), metavar="MIB", help="Scratch memory of a kernel.  [all]")
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that keeps the times of kernels between builds (tensorrt).",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="CAPABILITY",
    help="Compute capability to build for, such as 8.9 (tensorrt_rtx); may be repeated.  "
    "[all from 8.0 on; 7.5 only if given]",
)
@click.option(
    "--optimization-level", type=click.IntRange(0, 5), help="How long to look for fast kernels.  [3]"
)
@click.option("--allow-tf32", is_flag=True, help="Let products of float32 be rounded to TF32.")
@click.option("--no-validate", is_flag=True, help="Skip the comparison with the bundle; marks the engine.")
@click.option("--overwrite", is_flag=True, help="Replace an engine that is already there.")
@click.option("--json", "as_json", is_flag=True, help="Print the engine's record as JSON.")
def tensorrt_command(
    bundle: Path,
    output: Path,
    library: str,
    layout: str,
    profiles: tuple[str, ...],
    max_global_tokens: int | None,
    global_slots: str,
    workspace: int | None,
    timing_cache: Path | None,
    targets: tuple[str, ...],
    optimization_level: int | None,
    allow_tf32: bool,
    no_validate: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Build a TensorRT engine from BUNDLE.

    It is compared with the bundle where there is a GPU that it was built for; one that differs is not kept.
    """
    from longserve.serving.runtime.bundle import Bundle
    from longserve.serving.runtime.cuda_device import find_gpu
    from longserve.serving.runtime.manifest import Layout
    from longserve.serving.runtime.profiles import parse_profile
    from longserve.serving.runtime.tensorrt_engine import import_tensorrt
    from longserve.serving.runtime.tensorrt_record import TensorRtLibrary

    from ..cli import stop_on_signals
    from .builder import BuildSettings, build_engine
    from .global_slots import GlobalSlots
    from .validation import validator

    kind, graph = TensorRtLibrary(library), Layout(layout)
    settings = BuildSettings(
        layout=graph,
        profiles=tuple(parse_profile(text, graph) for text in profiles),
        max_global_tokens=max_global_tokens,
        global_slots=GlobalSlots(global_slots),
        workspace=None if workspace is None else workspace * _MIB,
        timing_cache=timing_cache,
        targets=targets,
        allow_tf32=allow_tf32,
        optimization_level=optimization_level,
    )
    opened = Bundle.open(bundle)
    module = import_tensorrt(kind)
    with stop_on_signals():
        built = build_engine(
            opened,
            output,
            kind,
            library=module,
            gpu=find_gpu(),
            settings=settings,
            validator=None if no_validate else validator,
            overwrite=overwrite,
        )
    if as_json:
        click.echo(json.dumps({"engine": str(built.path), "record": json.loads(built.record.to_json())}))
    else:
        _print(built)
    if built.unvalidated:
        click.echo(
            f"NOT VALIDATED: nobody has run this engine ({built.unvalidated}); it says so when it is loaded",
            err=True,
        )


def _print(built: BuiltEngine) -> None:
    record = built.record
    click.echo(
        f"wrote {built.path}: {record.plan.size / 1e6:.1f} MB by {record.library.value} {record.version}"
    )
    click.echo(f"runs on   {', '.join(record.targets) or record.gpu}")
    for profile in record.profiles:
        click.echo(f"profile   {profile.described(record.layout)}")
    if record.global_capacity is not None:
        where = "row" if record.layout.value == "padded" else "run"
        click.echo(f"capacity  {record.global_capacity} global tokens a {where}")
    if record.validation is not None:
        validation = record.validation
        click.echo(
            f"validated {validation.cases} runs against {validation.reference}: "
            f"{validation.max_relative:.1e} "
            f"of the largest logit at most (allowed {validation.tolerance:g})"
        )
