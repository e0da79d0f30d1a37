"""The options of `longserve repo` that choose the encoder's engine, by name or by measurement."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ..repository.options import Backend, RepositoryOptions
from ..runtime.cores import available_cores
from ..runtime.engine_settings import EngineName, InferencePrecision

if TYPE_CHECKING:
    from ..repository.engine_choice import EngineChoice

__all__ = ["engine_options", "with_engine"]

_AUTO = "auto"
_DEFAULTS = RepositoryOptions()
_Command = TypeVar("_Command", bound=Callable[..., None])


def engine_options(command: _Command) -> _Command:
    """Add `--engine` and `--inference-precision`, each of which may be `auto`."""
    for option in (
        click.option(
            "--inference-precision",
            type=click.Choice([*(precision.value for precision in InferencePrecision), _AUTO]),
            default=_DEFAULTS.inference_precision.value,
            show_default=True,
            help="Arithmetic of the float operators; auto measures and may take bf16, which rounds.",
        ),
        click.option(
            "--engine",
            type=click.Choice([*(engine.value for engine in EngineName), _AUTO]),
            default=_DEFAULTS.engine.value,
            show_default=True,
            help="What computes in the encoder; auto measures on this machine. With --backend onnxruntime, "
            "openvino is its OpenVINO accelerator.",
        ),
    ):
        command = option(command)
    return command


def with_engine(
    options: RepositoryOptions, bundle: Path, engine: str, inference_precision: str
) -> RepositoryOptions:
    """Return the options with the engine named, or, if one of them is `auto`, with the one measured best."""
    if _AUTO not in (engine, inference_precision):
        precision = InferencePrecision(inference_precision)
        return replace(options, engine=EngineName(engine), inference_precision=precision)
    if options.backend is not Backend.PYTHON:
        raise click.UsageError(
            f"auto measures the engines of this environment, and --backend {options.backend.value} runs "
            "another's; name the engine and the precision"
        )
    from ..repository.engine_choice import choose_engine
    from ..runtime.bundle import Bundle

    choice = choose_engine(
        Bundle.open(bundle, verify=False),  # building the repository verifies it
        engine=None if engine == _AUTO else EngineName(engine),
        inference_precision=None if inference_precision == _AUTO else InferencePrecision(inference_precision),
        threads=options.threads or max(1, available_cores() // options.instances),
        report=lambda line: click.echo(line, err=True),
    )
    _print_choice(choice)
    return replace(
        options,
        engine=choice.chosen.engine,
        inference_precision=choice.chosen.inference_precision,
        engine_record=choice.to_json(),
    )


def _print_choice(choice: EngineChoice) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"milliseconds of one run, {choice.threads} threads", title_justify="left")
    for heading in ("engine", *(f"{length} tokens" for length in choice.lengths), "speed", "difference"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    table.add_column("", overflow="fold")
    for candidate in choice.measured:
        figures = [f"{1e3 * seconds:.1f}" for seconds in candidate.seconds] or [""] * len(choice.lengths)
        speed = f"{candidate.speedup:.2f}" if candidate.seconds else ""
        difference = f"{candidate.difference:.1e}" if candidate.seconds else ""
        verdict = candidate.refused or ("" if candidate.allowed else "for comparison")
        verdict = "chosen" if candidate is choice.chosen else verdict
        table.add_row(*map(escape, (candidate.name, *figures, speed, difference, verdict)))
    # a fixed width where the output is no terminal: a table must not be cut there
    Console(stderr=True, width=None if sys.stderr.isatty() else 140).print(table)
