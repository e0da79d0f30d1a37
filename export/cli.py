"""The subcommands `longserve export` and `longserve validate`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from longserve.serving.signals import raise_on_signals

if TYPE_CHECKING:
    from .parity import ParityReport
    from .text_parity import TextParity

__all__ = ["export_command", "print_parity", "quiet_libraries", "stop_on_signals", "validate_command"]


@click.command("export")
@click.argument("model")
@click.option(
    "--task",
    required=True,
    help="text-classification (also: classification, sequence-classification, sentiment-analysis) or "
    "question-answering (also: qa).",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Directory of the bundle to write."
)
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "bf16", "int8"]), default="fp32", show_default=True
)
@click.option(
    "--quantization",
    type=click.Choice(["dynamic", "weights"]),
    help="Of int8: dynamic for ONNX Runtime [default], weights for OpenVINO.",
)
@click.option("--max-length", type=click.IntRange(1), help="Longest sequence in tokens [the checkpoint's].")
@click.option(
    "--max-global-tokens", type=click.IntRange(1), help="Fix the padded graph's number of global slots [any]."
)
@click.option(
    "--block-size", type=click.IntRange(1), help="Tokens per block of attention [by the architecture]."
)
@click.option(
    "--fused-attention", is_flag=True, help="Write local attention as one operator (opset 23), for GPUs."
)
@click.option("--opset", type=int, help="ONNX opset [20; with --fused-attention 23].")
@click.option("--revision", help="Branch, tag or commit of a hub repository.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is already there.")
@click.option("--no-validate", is_flag=True, help="Skip the comparison; marks the bundle unvalidated.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export_command(
    model: str,
    task: str,
    output: Path,
    precision: str,
    quantization: str | None,
    max_length: int | None,
    max_global_tokens: int | None,
    block_size: int | None,
    fused_attention: bool,
    opset: int | None,
    revision: str | None,
    overwrite: bool,
    no_validate: bool,
    as_json: bool,
) -> None:
    """Export MODEL (a hub id or a local directory) to a bundle, proved equal to PyTorch."""
    from longserve.serving.runtime.manifest import Precision, Quantization

    from .bundle_writer import check_target

    check_target(output, overwrite=overwrite)  # before torch and transformers load, which takes seconds
    quiet_libraries()
    from .exporter import export_bundle
    from .exporter_config import parse_task
    from .progress import TerminalProgress
    from .settings import ExportSettings

    settings = ExportSettings(
        precision=Precision(precision),
        quantization=None if quantization is None else Quantization(quantization),
        max_length=max_length,
        max_global_tokens=max_global_tokens,
        block_size=block_size,
        fused_attention=fused_attention,
        opset=opset,
        validate=not no_validate,
    )
    with stop_on_signals() as check, TerminalProgress(check) as progress:
        result = export_bundle(
            model,
            parse_task(task),
            output,
            settings=settings,
            revision=revision,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        click.echo(
            json.dumps({"bundle": str(result.path), "manifest": json.loads(result.manifest.to_json())})
        )
        return
    click.echo(f"wrote {result.path}")
    if result.parity is None:
        click.echo("not compared with PyTorch: the bundle is marked unvalidated")
    else:
        print_parity(result.parity)


@click.command("validate")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--reference", required=True, metavar="MODEL", help="Its checkpoint: hub id or directory.")
@click.option("--revision", help="Branch, tag or commit of a hub repository [the manifest's].")
@click.option(
    "--engine",
    type=click.Choice(["onnxruntime", "openvino"]),
    default="onnxruntime",
    show_default=True,
    help="What runs the bundle.",
)
@click.option(
    "--inference-precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Arithmetic of the graph's float operators; bf16 with openvino.",
)
@click.option(
    "--provider",
    default="CPUExecutionProvider",
    show_default=True,
    help="ONNX Runtime's execution provider.",
)
@click.option(
    "--texts",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help='Also compare predictions on your texts: JSON lines of {"text"} or {"question", "context"}.',
)
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="Seed of the random inputs."
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
def validate_command(
    bundle: Path,
    reference: str,
    revision: str | None,
    engine: str,
    inference_precision: str,
    provider: str,
    texts: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Compare BUNDLE with the checkpoint it was exported from, on this machine."""
    from longserve.serving.runtime.bundle import Bundle
    from longserve.serving.runtime.engine import EngineName, EngineSettings, InferencePrecision

    opened = Bundle.open(bundle)  # before torch and transformers load, which takes seconds
    quiet_libraries()
    from .exporter import validate_bundle
    from .progress import TerminalProgress
    from .text_parity import read_texts

    settings = EngineSettings(
        engine=EngineName(engine),
        inference_precision=InferencePrecision(inference_precision),
        provider=provider,
        spin_between_runs=False,
    )
    own = read_texts(texts, opened.manifest.task) if texts is not None else {}
    with stop_on_signals() as check, TerminalProgress(check) as progress:
        result = validate_bundle(
            opened, reference, revision=revision, engine=settings, texts=own, seed=seed, progress=progress
        )
    if as_json:
        report = json.loads(result.parity.to_json())
        report["texts"] = None if result.texts is None else dataclasses.asdict(result.texts)
        click.echo(json.dumps(report, indent=1))
    else:
        print_parity(result.parity)
        if result.texts is not None:
            _print_texts(result.texts)
    result.parity.raise_if_failed()


def print_parity(report: ParityReport) -> None:
    """Print a report's summary as a table: one row per layout and length class, and the worst case."""
    from rich.console import Console
    from rich.table import Table

    summary = report.summary()
    table = Table(
        title=f"parity with PyTorch, {report.precision.value} on {report.runs_on}", title_justify="left"
    )
    for heading in ("layout", "cases", "max abs", "max relative", "min cosine", "same argmax", "result"):
        table.add_column(heading, justify="left" if heading in ("layout", "result") else "right")
    for layout in sorted({result.layout for result in report.results}):
        rows = [result for result in report.results if result.layout == layout]
        failed = [result for result in rows if result in report.failures]
        predictions = sum(result.predictions for result in rows)
        table.add_row(
            layout,
            str(len(rows)),
            f"{max(result.max_abs for result in rows):.2e}",
            f"{max(result.max_relative for result in rows):.2e}",
            f"{min(result.cosine for result in rows):.7f}",
            f"{sum(result.agreeing for result in rows) / predictions:.2%}",
            "passed" if not failed else f"{len(failed)} failed",
        )
    # a fixed width where the output is no terminal: a table must not be cut there
    console = Console(width=None if Console().is_terminal else 110)
    console.print(table)
    console.print(
        f"worst: {summary.worst_case} at {summary.max_relative:.2e}, allowed {summary.tolerance:g}",
        highlight=False,
        markup=False,
    )


def _print_texts(compared: TextParity) -> None:
    click.echo(
        f"texts: {compared.same} of {compared.texts} predictions equal"
        + ("" if compared.f1 is None else f", span F1 {compared.f1:.4f}")
        + f", largest score difference {compared.largest_score_difference:.2e}"
    )
    if compared.differing:
        click.echo(f"lines that differ: {', '.join(map(str, compared.differing))}")
    if compared.tokenized_otherwise:
        lines = ", ".join(map(str, compared.tokenized_otherwise))
        click.echo(f"lines that the checkpoint's own tokenizer reads otherwise: {lines}")


def quiet_libraries() -> None:
    """Keep transformers' and the hub's own progress bars and advice off the terminal; errors still show."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def stop_on_signals() -> contextlib.AbstractContextManager[Callable[[], None]]:
    """Let a signal that asks to stop end the block with a KeyboardInterrupt: nothing half written stays.

    The block is given the check of `raise_on_signals`.
    """
    return raise_on_signals(lambda number: KeyboardInterrupt())
