"""The options `--ca` and `--header`: how a command gets through to a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict, TypeVar

import click

if TYPE_CHECKING:
    from ..client import Tls

__all__ = ["Access", "access", "access_options"]

_HEADER = "NAME:VALUE"
_Command = TypeVar("_Command", bound=Callable[..., None])


class Access(TypedDict):
    """The arguments of a client that the options give."""

    tls: Tls | None
    headers: dict[str, str]


def access_options(command: _Command) -> _Command:
    """Add `--ca` and `--header`."""
    for option in (
        click.option(
            "--header",
            "headers",
            metavar=_HEADER,
            multiple=True,
            help="Send a server this header, such as a key; repeatable.",
        ),
        click.option(
            "--ca",
            type=click.Path(exists=True, dir_okay=False),
            help="Authorities to trust with TLS, as PEM.",
        ),
    ):
        command = option(command)
    return command


def access(ca: str | None, headers: Sequence[str]) -> Access:
    """Return the client's arguments.

    Raises:
        click.BadParameter: a header without a name or a colon.
    """
    sent = dict(map(_header, headers))
    if ca is None:
        return {"tls": None, "headers": sent}
    from ..client import Tls

    return {"tls": Tls(ca=ca), "headers": sent}


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition(":")
    if not separator or not name.strip():
        raise click.BadParameter(f"{text.split(':')[0]!r} is no {_HEADER}", param_hint="--header")
    return name.strip(), value.strip()
