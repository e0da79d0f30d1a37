"""The subcommand `longserve report`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

__all__ = ["report_command"]

_MEASURED_ROUNDS = 5


@click.command("report")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="The page.",
)
@click.option("--card", type=click.Path(path_type=Path, dir_okay=False), help="Also write a model card here.")
@click.option(
    "--beside",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="BUNDLE",
    help="A bundle of the same model in another precision, to show its drift; repeatable.",
)
@click.option(
    "--bench",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Show latency and memory from this JSON of `longserve bench`.",
)
@click.option("--measure", metavar="MODEL", help="Measure latency and memory now, against this checkpoint.")
def report_command(
    bundle: Path,
    output: Path,
    card: Path | None,
    beside: tuple[Path, ...],
    bench: Path | None,
    measure: str | None,
) -> None:
    """Write one HTML page on what BUNDLE is, how equal to PyTorch, how fast, and how to serve it."""
    import tempfile

    from .gathering import gather
    from .pages import render_card, render_page

    if bench is not None and measure is not None:
        raise click.UsageError("give either --bench or --measure")
    with tempfile.TemporaryDirectory() as folder:
        if measure is not None:
            bench = Path(folder) / "bench.json"
            bench.write_text(_measure(bundle, measure), encoding="utf-8")
        data = gather(bundle, beside=beside, bench=bench)
    output.write_text(render_page(data), encoding="utf-8")
    click.echo(str(output))
    if card is not None:
        card.write_text(render_card(data), encoding="utf-8")
        click.echo(str(card))


def _measure(bundle: Path, reference: str) -> str:
    """Measure PyTorch and the packed bundle in every engine; return the benchmark's JSON."""
    from longserve.serving.runtime.bundle import Bundle
    from longserve.serving.runtime.manifest import Layout

    from ..bench.matrix import BenchSettings, EngineKind
    from ..bench.plan import plan_engines
    from ..bench.rounds import run_benchmark
    from ..cli import stop_on_signals
    from ..progress import TerminalProgress

    opened = Bundle.open(bundle)
    engines: tuple[EngineKind, ...] = (EngineKind.TORCH, EngineKind.ONNXRUNTIME)
    if find_spec("openvino") is not None:
        engines += (EngineKind.OPENVINO,)
    settings = BenchSettings(
        layouts=(Layout.PACKED,),
        engines=engines,
        rounds=_MEASURED_ROUNDS,
    )
    planned = plan_engines([opened], settings, reference=reference)
    with stop_on_signals(), TerminalProgress() as progress:
        report = run_benchmark(
            planned, settings.cases(opened.manifest), opened.manifest.task.value, settings, progress=progress
        )
    report.raise_if_all_failed()
    return report.to_json()
