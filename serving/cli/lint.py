"""`longserve lint`: what is wrong with a model repository."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..repository.lint import Finding

__all__ = ["lint_command"]

_SERVERS = ("auto", "embedded", "container")


@click.command("lint")
@click.argument("repository", type=click.Path(path_type=Path), default="model_repository")
@click.option(
    "--server",
    type=click.Choice(_SERVERS),
    default="auto",
    show_default=True,
    help="What will serve it: the embedded Triton, NVIDIA's container, or what this machine has.",
)
@click.option(
    "--cores", type=click.IntRange(min=1), help="Cores that the server may use.  [default: this machine's]"
)
@click.option("--strict", is_flag=True, help="Let warnings fail too.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON document.")
def lint_command(repository: Path, server: str, cores: int | None, strict: bool, as_json: bool) -> None:
    """Find what is wrong with the models of REPOSITORY, and say how to put it right.

    Nothing is started or changed. Exit status 0: no error; 1: there is one.
    """
    from ..repository.lint import Severity, Target, lint_repository

    findings = lint_repository(repository, server=Target(server), cores=cores)
    if as_json:
        click.echo(json.dumps({"findings": [asdict(finding) for finding in findings]}))
    else:
        _print(findings)
        click.echo(_summary(repository, findings), err=True)
    failing = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    if any(finding.severity in failing for finding in findings):
        sys.exit(1)


def _print(findings: Sequence[Finding]) -> None:
    colours = {"error": "red", "warning": "yellow", "note": "cyan"}
    for finding in findings:
        severity = click.style(finding.severity.value, fg=colours[finding.severity.value], bold=True)
        where = f"{finding.where}: " if finding.where else ""
        click.echo(f"{severity}: {where}{finding.found} [{finding.rule}]\n  fix: {finding.fix}")


def _summary(repository: Path, findings: Sequence[Finding]) -> str:
    counts = Counter(finding.severity.value for finding in findings)
    counted = ", ".join(f"{number} {name}{'s' * (number > 1)}" for name, number in counts.items())
    return f"{repository}: {counted or 'nothing found'}"
