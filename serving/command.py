"""The `longserve` command: one group of the subcommands of both halves.

Nothing of a subcommand is imported before it is asked for: `longserve --help` lists names and summaries only,
and this module knows neither half by import. Its own imports are few too: each call of the command pays for
them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

import click

__all__ = ["COMMANDS", "cli", "main"]

_INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""


class Subcommand(NamedTuple):
    """A subcommand, without importing it.

    Attributes:
        target: `module:attribute` of its click command.
        summary: what the listing says of it.
        extra: what its imports need.
    """

    target: str
    summary: str
    extra: str


COMMANDS = {
    "export": Subcommand(
        "longserve.export.cli:export_command", "Export a checkpoint to a validated ONNX bundle.", "export,cpu"
    ),
    "validate": Subcommand(
        "longserve.export.cli:validate_command", "Compare a bundle with PyTorch again.", "export,cpu"
    ),
    "inspect": Subcommand(
        "longserve.serving.cli.bundles:inspect_command", "Show what a bundle holds.", "serve"
    ),
    "repo": Subcommand(
        "longserve.serving.cli.server:repo_command", "Build the Triton models of a bundle.", "serve"
    ),
    "lint": Subcommand(
        "longserve.serving.cli.lint:lint_command", "Find what is wrong with a model repository.", "serve"
    ),
    "serve": Subcommand(
        "longserve.serving.cli.server:serve_command", "Serve a Triton model repository.", "serve,cpu"
    ),
    "ready": Subcommand(
        "longserve.serving.cli.ready:ready_command", "Ask whether a server's models answer.", "client"
    ),
    "classify": Subcommand(
        "longserve.serving.cli.requests:classify_command", "Classify documents.", "client"
    ),
    "ask": Subcommand(
        "longserve.serving.cli.requests:ask_command", "Answer a question from a document.", "client"
    ),
    "batch": Subcommand(
        "longserve.serving.cli.batch:batch_command",
        "Score a file of documents, resumable.",
        "batch,cpu,client",
    ),
    "compare": Subcommand(
        "longserve.serving.cli.compare:compare_command",
        "Compare models on labelled documents: which one to take.",
        "cpu,report",
    ),
    "bench": Subcommand(
        "longserve.export.bench.cli:bench_command",
        "Measure engines against each other and PyTorch.",
        "export,cpu,bench",
    ),
    "tensorrt": Subcommand(
        "longserve.export.tensorrt.cli:tensorrt_command",
        "Build a TensorRT engine from a bundle.",
        "export,tensorrt",
    ),
    "report": Subcommand(
        "longserve.export.report.cli:report_command",
        "Write a page on a bundle: parity, speed, how to serve it.",
        "report",
    ),
    "push": Subcommand(
        "longserve.export.hub_cli:push_command", "Upload a bundle to the Hugging Face hub.", "hub"
    ),
    "pull": Subcommand(
        "longserve.export.hub_cli:pull_command", "Download a bundle from the Hugging Face hub.", "hub"
    ),
    "doctor": Subcommand(
        "longserve.serving.cli.server:doctor_command", "Show what is installed and usable here.", "serve"
    ),
    "demo": Subcommand(
        "longserve.export.demo_cli:demo_command",
        "Do the whole job on the demo checkpoints.",
        "export,serve,cpu",
    ),
}


class LazyGroup(click.Group):
    """A group that imports a subcommand's module only when the subcommand is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the subcommand."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].target.partition(":")
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise _missing_import(cmd_name, error) from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, subcommand.summary) for name, subcommand in COMMANDS.items()])


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
    from importlib.metadata import version

    extra = COMMANDS[name].extra if name in COMMANDS else "export,serve,client,cpu"
    module = (error.name or str(error)).split(".")[0]
    if module == "longserve":
        return click.ClickException(f"this installation lacks {error.name}; reinstall longserve")
    return click.ClickException(
        f"'longserve {name}' needs the package {module!r}, which is not installed; "
        f"install 'longserve[{extra}]' (version {version('longserve')} is installed here)"
    )
