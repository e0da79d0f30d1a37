"""`longserve compare`: models on the user's own labelled documents, and which one to take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from ..runtime.engine_settings import EngineName

__all__ = ["compare_command"]

_WIDTH = 130
"""Of the tables where standard output is no terminal."""


@click.command("compare")
@click.argument("source", metavar="DOCS", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("more_models", metavar="[BUNDLE]...", nargs=-1)
@click.option(
    "--models",
    "models",
    metavar="[NAME=]BUNDLE",
    multiple=True,
    required=True,
    help="The first bundle; the others follow it, or have a --models each.",
)
@click.option(
    "--engine",
    type=click.Choice([engine.value for engine in EngineName]),
    default=EngineName.ONNXRUNTIME.value,
    show_default=True,
    help="What runs all models.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Of each model.  [default: all cores]")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=1, show_default=True, help="Timings of each document."
)
@click.option(
    "--worth",
    type=click.FloatRange(min=0, max=100, max_open=True),
    default=1.0,
    show_default=True,
    metavar="POINTS",
    help="A difference of macro-F1 or F1 that is not worth a slower model.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order and the resampling.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds that a model may take to load, or for one document.",
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here."
)
@click.option(
    "--html", "html_path", type=click.Path(path_type=Path, dir_okay=False), help="Write a page here."
)
def compare_command(
    source: Path,
    more_models: tuple[str, ...],
    models: tuple[str, ...],
    engine: str,
    threads: int | None,
    rounds: int,
    worth: float,
    seed: int,
    timeout: float,
    json_path: Path | None,
    html_path: Path | None,
) -> None:
    """Compare bundles on labelled documents, and say which one to take.

    DOCS is a .jsonl or .parquet file. Rows hold text and label, or question, context and answers (as SQuAD
    has them); a field evidence may say where in the text the evidence stands: [[start, end], ...].
    """
    for path in (json_path, html_path):
        if path is not None and not path.absolute().parent.is_dir():
            raise click.UsageError(f"there is no directory {path.parent} for {path.name}; make it first")
    from rich.console import Console

    from ..compare import CompareSettings, compare
    from ..compare.page import check_page_libraries, render_page
    from ..compare.table import print_comparison

    settings = CompareSettings(
        engine=EngineName(engine),
        threads=threads or 0,
        rounds=rounds,
        worth=worth / 100,
        seed=seed,
        timeout=timeout,
    )
    if html_path is not None:
        check_page_libraries()
    with _progress() as advance:
        comparison = compare(source, (*models, *more_models), settings, progress=advance)
    console = Console()
    print_comparison(comparison, console if console.is_terminal else Console(width=_WIDTH))
    if json_path is not None:
        json_path.write_text(comparison.to_json(), encoding="utf-8")
    if html_path is not None:
        html_path.write_text(render_page(comparison), encoding="utf-8")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("documents")
        yield lambda done, total: bar.update(task, completed=done, total=total)
