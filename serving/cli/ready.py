"""`longserve ready`: do a server's models answer? For probes, deployments and scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .connections import access, access_options

if TYPE_CHECKING:
    from ..client.readiness import ModelReadiness

__all__ = ["ready_command"]

_DEFAULT_URL = "grpc://127.0.0.1:8001"


@click.command("ready")
@click.option(
    "--url",
    default=_DEFAULT_URL,
    show_default=True,
    help="Server: grpc://HOST:PORT or http://HOST:PORT, grpcs:// and https:// with TLS.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Ask this model; may be given several times.  [default: every text model of the server]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds that each answer may take.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Ask again for so many seconds, until every model answers.  [default: ask once]",
)
@click.option("--allow-busy", is_flag=True, help="Count a model that is overloaded as ready.")
@access_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def ready_command(
    url: str,
    models: tuple[str, ...],
    timeout: float,
    wait: float,
    allow_busy: bool,
    ca: str | None,
    headers: tuple[str, ...],
    as_json: bool,
) -> None:
    """Ask a server's models a tiny question each, and say which of them answer.

    Exit status 0: all of them; 1: not all, or there is no server. Triton's own readiness says only that a
    model was loaded.
    """
    from ..client.readiness import Readiness, ask_models, wait_for_answers
    from ..runtime.errors import InferenceFailed

    accepted = {Readiness.ANSWERS, *([Readiness.BUSY] if allow_busy else [])}
    through = access(ca, headers)

    def ask() -> list[ModelReadiness]:
        return ask_models(url, models, timeout=timeout, **through)

    found = wait_for_answers(ask, accepted, wait) if wait else ask()
    if not found:
        raise InferenceFailed(f"the server at {url} has no model of longserve's; see its model repository")
    ready = all(each.readiness in accepted for each in found)
    if as_json:
        click.echo(json.dumps({"ready": ready, "models": [asdict(each) for each in found]}))
    else:
        _print(found)
    if not ready:
        sys.exit(1)


def _print(found: Sequence[ModelReadiness]) -> None:
    width = max(len(each.model) for each in found)
    for each in found:
        line = f"{each.model:<{width}}  {each.readiness.value:<7}  {each.seconds * 1000:.0f} ms"
        click.echo(f"{line}  {each.reason}".rstrip())
