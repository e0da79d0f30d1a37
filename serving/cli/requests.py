"""`longserve classify` and `longserve ask`: texts from files to a server, or to a bundle in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..runtime.engine_settings import EngineName, EngineSettings, InferencePrecision
from ..runtime.errors import InvalidInput
from ..runtime.results import WindowedAnswers, WindowedClassification
from .connections import Access, access, access_options

if TYPE_CHECKING:
    from ..client import Client, LocalClient

__all__ = ["ask_command", "classify_command"]

_DEFAULT_URL = "grpc://127.0.0.1:8001"
_CONCURRENCY = 16
_Result = TypeVar("_Result")
_Command = TypeVar("_Command", bound=Callable[..., None])

_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True)


def _shared_options(command: _Command) -> _Command:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line, one per file."),
        click.option(
            "--windows",
            "by_window",
            is_flag=True,
            help="Show what each window of a long text gave; with --json, besides the result of the whole.",
        ),
        click.option(
            "--top-k", type=click.IntRange(min=1), default=1, show_default=True, help="Results per file."
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            help="Seconds until a server must have answered.  [default: 60]",
        ),
        access_options,
        click.option("--model", help="Name of the server's text model, if it is not the demo's."),
        click.option(
            "--inference-precision",
            type=click.Choice([precision.value for precision in InferencePrecision]),
            help="With --bundle: arithmetic of its float operators; bf16 with openvino.  [default: fp32]",
        ),
        click.option(
            "--engine",
            type=click.Choice([engine.value for engine in EngineName]),
            help="With --bundle: what runs it.  [default: onnxruntime]",
        ),
        click.option(
            "--bundle", type=click.Path(), help="Run this bundle in-process instead of asking a server."
        ),
        click.option(
            "--url", help=f"Server: grpc://HOST:PORT or http://HOST:PORT.  [default: {_DEFAULT_URL}]"
        ),
    ):
        command = option(command)
    return command


@click.command("classify")
@_shared_options
@click.argument("files", metavar="FILE...|-", nargs=-1, required=True, type=_FILE)
def classify_command(
    url: str | None,
    bundle: str | None,
    engine: str | None,
    inference_precision: str | None,
    model: str | None,
    timeout: float | None,
    ca: str | None,
    headers: tuple[str, ...],
    top_k: int,
    by_window: bool,
    as_json: bool,
    files: tuple[str, ...],
) -> None:
    """Label the text of each FILE (UTF-8; - is standard input).

    Where standard output is no terminal: tab-separated lines of file, label, score, tokens and windows; with
    --windows of file, start, end, label and score.
    """
    remote = _remote_options(url, bundle, model, timeout, ca, headers)
    with _open_client(url, bundle, engine, inference_precision, access(ca, headers)) as client:

        def classify(text: str) -> WindowedClassification:
            if by_window:
                return client.classify_windows(text, top_k=top_k, **remote)
            return WindowedClassification(client.classify(text, top_k=top_k, **remote), ())

        results = _each(files, classify, concurrency=1 if bundle else _CONCURRENCY)
        if as_json:
            _print_lines(
                json.dumps({"file": name, **asdict(result.combined), **_windows(result, by_window)})
                for name, result in results
            )
        elif by_window:
            _print_rows(
                ("file", "start", "end", "label", "score"),
                (
                    (name, str(window.start), str(window.end), label, f"{score:.4f}")
                    for name, result in results
                    for window in result.windows
                    for label, score in window.scores.items()
                ),
            )
        else:
            _print_rows(
                ("file", "label", "score", "tokens", "windows"),
                (
                    (name, label, f"{score:.4f}", str(found.tokens), str(found.windows))
                    for name, result in results
                    for found in [result.combined]
                    for label, score in found.scores.items()
                ),
            )


@click.command("ask")
@_shared_options
@click.argument("question")
@click.argument("file", metavar="FILE|-", type=_FILE)
def ask_command(
    url: str | None,
    bundle: str | None,
    engine: str | None,
    inference_precision: str | None,
    model: str | None,
    timeout: float | None,
    ca: str | None,
    headers: tuple[str, ...],
    top_k: int,
    by_window: bool,
    as_json: bool,
    question: str,
    file: str,
) -> None:
    """Answer QUESTION from the text of FILE (UTF-8; - is standard input).

    Where standard output is no terminal: tab-separated lines of answer, score, start, end, tokens and
    windows; with --windows of the window's start and end, answer, score, start and end. Positions count
    characters.
    """
    remote = _remote_options(url, bundle, model, timeout, ca, headers)
    with _open_client(url, bundle, engine, inference_precision, access(ca, headers)) as client:

        def ask(text: str) -> WindowedAnswers:
            if by_window:
                return client.answer_windows(question, text, top_k=top_k, **remote)
            return WindowedAnswers(tuple(client.answer(question, text, top_k=top_k, **remote)), ())

        results = _each((file,), ask, concurrency=1)
        if as_json:
            for name, result in results:
                answers = {"file": name, "question": question, "answers": [*map(asdict, result.combined)]}
                click.echo(json.dumps({**answers, **_windows(result, by_window)}))
        elif by_window:
            _print_rows(
                ("window start", "window end", "answer", "score", "start", "end"),
                (
                    (str(w.start), str(w.end), a.answer, f"{a.score:.4f}", str(a.start), str(a.end))
                    for _, result in results
                    for w in result.windows
                    for a in w.answers
                ),
            )
        else:
            _print_rows(
                ("answer", "score", "start", "end", "tokens", "windows"),
                (
                    (a.answer, f"{a.score:.4f}", str(a.start), str(a.end), str(a.tokens), str(a.windows))
                    for _, result in results
                    for a in result.combined
                ),
            )


def _windows(result: WindowedAnswers | WindowedClassification, shown: bool) -> dict[str, Any]:
    return {"window_results": [asdict(window) for window in result.windows]} if shown else {}


def _remote_options(
    url: str | None,
    bundle: str | None,
    model: str | None,
    timeout: float | None,
    ca: str | None,
    headers: tuple[str, ...],
) -> dict[str, Any]:
    """Return the options that only a server's client takes, after checking that they go together."""
    if bundle is None:
        return {"model": model, "timeout": timeout}
    given = {"--url": url, "--model": model, "--timeout": timeout, "--ca": ca, "--header": headers or None}
    for name, value in given.items():
        if value is not None:
            raise click.UsageError(f"{name} is for a server; leave it out with --bundle")
    return {}


def _open_client(
    url: str | None,
    bundle: str | None,
    engine: str | None,
    inference_precision: str | None,
    through: Access,
) -> Client | LocalClient:
    if bundle is not None:
        from ..client import LocalClient

        return LocalClient(bundle, engine=_engine_settings(engine, inference_precision))
    for name, value in (("--engine", engine), ("--inference-precision", inference_precision)):
        if value is not None:
            raise click.UsageError(
                f"{name} is for a bundle; give --bundle, a server chose at `longserve repo`"
            )
    from ..client import Client

    return Client(url or _DEFAULT_URL, **through)


def _engine_settings(engine: str | None, inference_precision: str | None) -> EngineSettings:
    return EngineSettings(
        engine=EngineName.ONNXRUNTIME if engine is None else EngineName(engine),
        inference_precision=None if inference_precision is None else InferencePrecision(inference_precision),
    )


def _each(
    files: Sequence[str], run: Callable[[str], _Result], *, concurrency: int
) -> Iterator[tuple[str, _Result]]:
    """Run each file's text, several at a time, and yield file name and result in the files' order."""

    def one(file: str) -> _Result:
        text = _read(file)
        try:
            return run(text)
        except InvalidInput as error:
            raise InvalidInput(f"{_shown(file)}: {error}") from error

    with ThreadPoolExecutor(min(concurrency, len(files))) as executor:
        yield from zip(files, executor.map(one, files), strict=True)


def _read(file: str) -> str:
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{_shown(file)} cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{content[error.start]:02x} at offset {error.start}"
        raise InvalidInput(f"{_shown(file)} is not UTF-8: {byte}; convert it") from error


def _shown(file: str) -> str:
    return "standard input" if file == "-" else file


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _print_rows(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table on a terminal, else tab-separated lines without a header as they come."""
    if not sys.stdout.isatty():
        _print_lines("\t".join(map(_printable, row)) for row in rows)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header)
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    Console().print(table)


def _printable(text: str) -> str:
    """Put a space for what would break the line or steer the terminal; --json has the exact text."""
    return "".join(character if character.isprintable() else " " for character in text)
