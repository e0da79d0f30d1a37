"""The `longserve` command: one group whose subcommands other modules register.

A subcommand is an entry point of the group `longserve.commands`, so this module knows neither half by import.
Nothing of a subcommand is imported before it is asked for: `longserve --help` lists names and summaries only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points, version

import click

__all__ = ["ENTRY_POINT_GROUP", "cli", "main"]

ENTRY_POINT_GROUP = "longserve.commands"
_INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the listing says of a subcommand without importing it, and the extra that its imports need."""

    summary: str
    extra: str


_KNOWN = {
    "export": _Known("Export a checkpoint to a validated ONNX bundle.", "export,cpu"),
    "validate": _Known("Compare a bundle with PyTorch again.", "export,cpu"),
    "inspect": _Known("Show what a bundle holds.", "serve"),
    "repo": _Known("Build the Triton models of a bundle.", "serve"),
    "lint": _Known("Find what is wrong with a model repository.", "serve"),
    "serve": _Known("Serve a Triton model repository.", "serve,cpu"),
    "ready": _Known("Ask whether a server's models answer.", "client"),
    "classify": _Known("Classify documents.", "client"),
    "ask": _Known("Answer a question from a document.", "client"),
    "batch": _Known("Score a file of documents, resumable.", "batch,cpu,client"),
    "compare": _Known("Compare models on labelled documents: which one to take.", "batch,cpu,report"),
    "bench": _Known("Measure engines against each other and PyTorch.", "export,cpu,bench"),
    "tensorrt": _Known("Build a TensorRT engine from a bundle.", "export,tensorrt"),
    "report": _Known("Write a page on a bundle: parity, speed, how to serve it.", "export,cpu,report"),
    "push": _Known("Upload a bundle to the Hugging Face hub.", "hub"),
    "pull": _Known("Download a bundle from the Hugging Face hub.", "hub"),
    "doctor": _Known("Show what is installed and usable here.", "serve"),
    "demo": _Known("Do the whole job on the demo checkpoints.", "export,serve,cpu"),
}


class LazyGroup(click.Group):
    """A group that imports a subcommand's module only when the subcommand is used."""

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Registered names: the known ones in the order of use, then the others by name."""
        known = [name for name in _KNOWN if name in self._entries]
        return known + sorted(set(self._entries) - set(known))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the subcommand."""
        entry = self._entries.get(cmd_name)
        if entry is None:
            if cmd_name in _KNOWN:
                raise click.UsageError(
                    f"this installation has no command '{cmd_name}'; "
                    f"install 'longserve[{_KNOWN[cmd_name].extra}]'",
                    ctx,
                )
            return None
        try:
            command = entry.load()
        except ModuleNotFoundError as error:
            raise _missing_import(cmd_name, error) from error
        if not isinstance(command, click.Command):
            raise click.ClickException(
                f"the entry point {entry.value} is no click command; reinstall longserve"
            )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands without importing them."""
        rows = [
            (name, _KNOWN[name].summary if name in _KNOWN else self._entries[name].value)
            for name in self.list_commands(ctx)
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="longserve", message="longserve %(version)s")
def cli() -> None:
    """Longformer from a Hugging Face checkpoint to production.

    Results go to stdout, logs and progress to stderr. Exit status: 0 done, 1 failed, 2 usage.
    """


def main() -> None:
    """Run the `longserve` command and exit."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str], command: click.Command = cli) -> int:
    """Run the command and return its exit status, with one line on stderr for a failure on purpose.

    An exception is raised on purpose if its class has an `exit_code`: the roots of both halves' error trees
    have one, as click's exceptions do. Anything else is a defect and keeps its traceback.
    """
    try:
        return _flushed(lambda: command.main(arguments, prog_name="longserve", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("longserve: interrupted", err=True)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`): say nothing, as click does, and keep the interpreter from flushing
        # into it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        name = next((argument for argument in arguments if not argument.startswith("-")), "")
        _missing_import(name, error).show()
        return 1
    except OSError as error:
        where = f": {error.filename}" if error.filename is not None else ""
        click.echo(f"longserve: {error.strerror or error}{where}", err=True)
        return 1
    except Exception as error:
        exit_code = getattr(type(error), "exit_code", None)
        if not isinstance(exit_code, int):
            raise
        click.echo(f"longserve: {error}", err=True)
        return exit_code


def _flushed(call: Callable[[], object]) -> int:
    result = call()
    sys.stdout.flush()
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _missing_import(name: str, error: ModuleNotFoundError) -> click.ClickException:
    extra = _KNOWN[name].extra if name in _KNOWN else "export,serve,client,cpu"
    module = (error.name or str(error)).split(".")[0]
    if module == "longserve":
        return click.ClickException(f"this installation lacks {error.name}; reinstall longserve")
    return click.ClickException(
        f"'longserve {name}' needs the package {module!r}, which is not installed; "
        f"install 'longserve[{extra}]' (version {version('longserve')} is installed here)"
    )
