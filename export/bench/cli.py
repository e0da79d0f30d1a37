"""The subcommand `longserve bench`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

__all__ = ["bench_command"]

_ENGINES = (
    "torch",
    "torch-kept",
    "torch-bf16",
    "torch-compile",
    "rewrite",
    "onnxruntime",
    "openvino",
    "products",
)
_LAYOUTS = ("padded", "packed")


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read positive integers separated by commas."""
    if value is None:
        return None
    words = [word.strip() for word in value.split(",")]
    for word in words:
        if not word.isdecimal() or int(word) == 0:
            raise click.BadParameter(f"{word!r} is no positive integer; separate several by commas")
    return tuple(int(word) for word in words)


def _names(*legal: str) -> Callable[[click.Context, click.Parameter, str | None], tuple[str, ...] | None]:
    """Read some of the legal names, separated by commas."""

    def read(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        words = [word.strip() for word in value.split(",")]
        for word in words:
            if word not in legal:
                raise click.BadParameter(f"{word!r} is none of {', '.join(legal)}")
        return tuple(words)

    return read


@click.command("bench")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--reference", metavar="MODEL", help="Its checkpoint: adds the engines that run PyTorch.")
@click.option("--revision", help="Branch, tag or commit of a hub repository [the manifest's].")
@click.option(
    "--engines",
    metavar="LIST",
    callback=_names(*_ENGINES),
    help=f"Of {', '.join(_ENGINES)} [all that can be].",
)
@click.option(
    "--layouts",
    metavar="LIST",
    callback=_names(*_LAYOUTS),
    default=",".join(_LAYOUTS),
    show_default=True,
    help="Layouts of the bundles.",
)
@click.option("--lengths", metavar="LIST", callback=_numbers, help="Tokens per row [128,512,1024,2048,4096].")
@click.option("--batches", metavar="LIST", callback=_numbers, default="1", show_default=True, help="Rows.")
@click.option(
    "--global-tokens",
    type=click.IntRange(0),
    help="Global tokens at the beginning of each row [classification 1, question answering 20].",
)
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True, help="Interleaved rounds.")
@click.option("--warmup", type=click.IntRange(1), default=2, show_default=True, help="Untimed runs before.")
@click.option("--threads", type=click.IntRange(0), default=0, help="Threads of each engine [one per core].")
@click.option(
    "--memory-arena", is_flag=True, help="Let the bundles' engines keep freed memory; serving does not."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds that an engine may take to load, to compile and for a turn.",
)
@click.option(
    "--at-once",
    type=click.IntRange(2),
    help="Most engines loaded at a time, the baseline included, where memory is short [all].",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the token ids.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Also write the report as JSON; '-' prints it instead of the tables.",
)
@click.option("--plots", type=click.Path(path_type=Path, file_okay=False), help="Directory for plots.")
@click.option("--plot-format", type=click.Choice(["png", "svg"]), default="png", show_default=True)
def bench_command(
    bundles: tuple[Path, ...],
    reference: str | None,
    revision: str | None,
    engines: tuple[str, ...] | None,
    layouts: tuple[str, ...],
    lengths: tuple[int, ...] | None,
    batches: tuple[int, ...],
    global_tokens: int | None,
    rounds: int,
    warmup: int,
    threads: int,
    memory_arena: bool,
    timeout: float,
    at_once: int | None,
    seed: int,
    json_file: Path | None,
    plots: Path | None,
    plot_format: str,
) -> None:
    """Measure BUNDLES (of one model) against each other and against PyTorch, on this machine.

    Every engine runs in a process of its own, one at a time, in interleaved rounds. A row's ratio says how
    many times faster it is than the first row: eager PyTorch in float32 where --reference names it.
    """
    from longserve.serving.runtime.bundle import Bundle
    from longserve.serving.runtime.manifest import Layout

    from ..cli import stop_on_signals
    from ..progress import TerminalProgress
    from .matrix import BenchSettings, EngineKind
    from .plan import plan_engines
    from .plots import check_plotting, write_plots
    from .rounds import run_benchmark
    from .table import print_report

    if plots is not None:
        check_plotting()
    settings = BenchSettings(
        lengths=lengths,
        batches=batches,
        layouts=tuple(Layout(name) for name in layouts),
        engines=None if engines is None else tuple(EngineKind(name) for name in engines),
        rounds=rounds,
        warmup=warmup,
        threads=threads,
        global_tokens=global_tokens,
        timeout=timeout,
        memory_arena=memory_arena,
        seed=seed,
        at_once=at_once,
    )
    opened = [Bundle.open(path) for path in bundles]
    planned = plan_engines(
        opened,
        settings,
        reference=reference,
        revision=revision,
        report=lambda line: click.echo(line, err=True),
    )
    manifest = opened[0].manifest
    cases = settings.cases(manifest)
    with stop_on_signals(), TerminalProgress() as progress:
        report = run_benchmark(planned, cases, manifest.task.value, settings, progress=progress)
    if json_file is not None and str(json_file) == "-":
        sys.stdout.write(report.to_json())
    else:
        print_report(report)
        if json_file is not None:
            json_file.write_text(report.to_json(), encoding="utf-8")
    if plots is not None:
        for path in write_plots(report, plots, plot_format):
            click.echo(f"wrote {path}", err=True)
    report.raise_if_all_failed()
