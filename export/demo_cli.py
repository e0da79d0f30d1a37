"""The subcommand `longserve demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

__all__ = ["demo_command"]


@click.command("demo")
@click.option(
    "--examples",
    type=click.Path(path_type=Path),
    default=Path("examples"),
    show_default=True,
    help="Where the demo's checkpoints and documents are.",
)
@click.option(
    "--bundles",
    type=click.Path(path_type=Path),
    default=Path("bundles"),
    show_default=True,
    help="Where the bundles go.",
)
@click.option(
    "--repository",
    type=click.Path(path_type=Path),
    default=Path("model_repository"),
    show_default=True,
    help="The Triton model repository to build.",
)
def demo_command(examples: Path, bundles: Path, repository: Path) -> None:
    """Do the whole job on the demo checkpoints: export, prove, build, serve, ask, stop."""
    from .cli import print_parity, quiet_libraries, stop_on_signals

    quiet_libraries()
    from rich.console import Console
    from rich.table import Table

    from .demo import ask_all, export_all, read_documents
    from .errors import ExportError
    from .progress import TerminalProgress

    documents = read_documents(examples / "documents")
    with stop_on_signals() as check:
        with TerminalProgress(check) as progress:
            results = list(export_all(examples, bundles, repository, progress))
        for result in results:
            assert result.parity is not None
            click.echo(f"\n{result.manifest.model_id} → {result.path}")
            print_parity(result.parity)
        click.echo(f"\nserving {repository}")
        checked = ask_all(repository, documents, sys.stderr, click.echo)
    table = Table(title="answers", title_justify="left")
    for heading in (
        "document",
        "protocol",
        "tokens",
        "windows",
        "evidence at",
        "asked",
        "answer",
        "score",
        "",
    ):
        table.add_column(heading, overflow="fold")
    for one in checked:
        evidence = one.document.evidence_token
        table.add_row(
            one.document.name,
            one.protocol,
            str(one.tokens),
            str(one.windows),
            "scattered" if evidence is None else f"token {evidence}",
            one.document.question or "label?",
            one.found,
            f"{one.score:.3f}",
            "right" if one.right else f"wrong: {one.document.expected}",
        )
    console = Console(width=None if Console().is_terminal else 150)
    console.print(table)
    wrong = [one for one in checked if not one.right]
    if wrong:
        raise ExportError(
            f"{len(wrong)} of {len(checked)} answers are wrong, first {wrong[0].document.name} over "
            f"{wrong[0].protocol}: {wrong[0].found!r} instead of {wrong[0].document.expected!r}"
        )
    click.echo(f"all {len(checked)} answers are right")
    click.echo(f"to ask them yourself, in a browser too: longserve serve {repository} --ui")
