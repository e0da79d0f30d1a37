"""The subcommands `longserve push` and `longserve pull`."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["pull_command", "push_command"]

_REPOSITORY = "OWNER/NAME"


@click.command("push")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("repository", metavar=_REPOSITORY)
@click.option("--revision", help="Branch to commit to.  [default: the main one]")
@click.option("--private", is_flag=True, help="Make a repository that does not exist yet a private one.")
@click.option(
    "--card",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The repository's README.md.  [default: the card of `longserve report`]",
)
def push_command(
    bundle: Path, repository: str, revision: str | None, private: bool, card: Path | None
) -> None:
    """Upload BUNDLE to a model repository of the Hugging Face hub, with a model card."""
    from .hub import push_bundle

    click.echo(push_bundle(bundle, repository, revision=revision, private=private, card=card))


@click.command("pull")
@click.argument("repository", metavar=_REPOSITORY)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The bundle's directory."
)
@click.option("--revision", help="Branch, tag or commit.  [default: the main branch]")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
def pull_command(repository: str, output: Path, revision: str | None, overwrite: bool) -> None:
    """Download a bundle from the Hugging Face hub and check every file."""
    from .hub import pull_bundle

    bundle = pull_bundle(repository, output, revision=revision, overwrite=overwrite)
    click.echo(f"{bundle.path}  {bundle.fingerprint}")
