"""`longserve repo`, `serve` and `doctor`."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..repository.options import OPENVINO_BACKEND, Backend, RepositoryOptions, parse_backend
from ..runtime.engine_settings import EngineName
from ..runtime.manifest import Layout
from ..signals import raise_on_signals
from .engines import engine_options, with_engine
from .gpu import chosen_gpu, gpu_options

if TYPE_CHECKING:
    from ..server.access import AccessPolicy
    from ..server.journal import Journal

__all__ = ["doctor_command", "repo_command", "serve_command"]

_LOG_FORMATS = ("text", "json")
_DEFAULT_REPOSITORY = "model_repository"
_DEFAULTS = RepositoryOptions()


@click.command("repo")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name of the text model; the encoder is NAME_encoder.")
@click.option(
    "--backend",
    type=click.Choice([*(backend.value for backend in Backend), OPENVINO_BACKEND]),
    default=_DEFAULTS.backend.value,
    show_default=True,
    help="What runs the encoder: python for `longserve serve`, the others for NVIDIA's container.",
)
@engine_options
@gpu_options
@click.option(
    "--instances", type=int, default=_DEFAULTS.instances, show_default=True, help="Encoder instances."
)
@click.option(
    "--threads",
    type=int,
    default=_DEFAULTS.threads,
    help="Threads of each encoder instance.  [default: cores divided by instances]",
)
@click.option(
    "--max-batch-size",
    type=int,
    default=_DEFAULTS.max_batch_size,
    show_default=True,
    help="Most sequences or texts of one execution, and of one request.",
)
@click.option(
    "--max-queue-size",
    type=int,
    default=_DEFAULTS.max_queue_size,
    show_default=True,
    help="Requests that each process of the text model holds; one more is refused.",
)
@click.option(
    "--queue-timeout",
    type=float,
    default=_DEFAULTS.queue_timeout,
    show_default=True,
    help="Seconds that a text may wait for its first turn before it is refused.",
)
@click.option(
    "--max-text-bytes",
    type=int,
    default=_DEFAULTS.max_text_bytes,
    show_default=True,
    help="Largest text, question or context, in bytes of UTF-8.",
)
@click.option(
    "--max-windows",
    type=int,
    default=_DEFAULTS.max_windows,
    show_default=True,
    help="Most windows that one text may be cut into.",
)
@click.option(
    "--portable",
    is_flag=True,
    help="Leave the bundle's fingerprint out of the configurations, so that they can be kept in git.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=_DEFAULT_REPOSITORY,
    show_default=True,
    help="The model repository.",
)
def repo_command(
    bundle: Path,
    name: str,
    backend: str,
    engine: str,
    inference_precision: str,
    instances: int,
    threads: int,
    max_batch_size: int,
    max_queue_size: int,
    queue_timeout: float,
    max_text_bytes: int,
    max_windows: int,
    portable: bool,
    output: Path,
    **gpu: Any,
) -> None:
    """Build the Triton models NAME and NAME_encoder from BUNDLE.

    Models of these names that longserve wrote are replaced; others in the repository are left alone.
    """
    from ..repository.builder import build_repository

    options = RepositoryOptions(
        backend=parse_backend(backend),
        instances=instances,
        threads=threads,
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        queue_timeout=queue_timeout,
        max_text_bytes=max_text_bytes,
        max_windows=max_windows,
        portable=portable,
        engine=EngineName.ONNXRUNTIME if engine == "auto" else EngineName(engine),
        **chosen_gpu(gpu),
    )
    options = with_engine(options, bundle, engine, inference_precision)
    with raise_on_signals(lambda number: KeyboardInterrupt()):  # so that nothing half written stays
        built = build_repository(bundle, name, output, options)
    click.echo(str(built.encoder))
    for profile in built.unreached:
        click.echo(
            f"no batch reaches the engine's profile {profile.described(Layout.PACKED)}, so it is not used; "
            "give a larger --max-batch-size to use it",
            err=True,
        )
    if built.text is None:
        click.echo(f"{bundle} has no tokenizer, so there is no text model, only the encoder", err=True)
    else:
        click.echo(str(built.text))


@click.command("serve")
@click.argument("repository", type=click.Path(path_type=Path), default=_DEFAULT_REPOSITORY)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address, or name, to listen on.")
@click.option("--public", is_flag=True, help="Let --host be an address that other machines reach.")
@click.option("--http-port", type=int, default=8000, show_default=True, help="0 picks a free one.")
@click.option("--grpc-port", type=int, default=8001, show_default=True, help="0 picks a free one.")
@click.option("--metrics-port", type=int, default=8002, show_default=True, help="0 picks a free one.")
@click.option(
    "--admin-key-file",
    type=click.Path(path_type=Path),
    help="File whose first line is the key to the administrative APIs, 16 or more characters.  "
    "[default: closed to everybody]",
)
@click.option(
    "--open-model-config",
    is_flag=True,
    help="With --public too, let everybody read the models' configurations (labels, limits).",
)
@click.option(
    "--max-request-bytes",
    type=click.IntRange(min=1),
    default=16 << 20,
    show_default=True,
    help="Largest body of an HTTP request, and message of a gRPC call.",
)
@click.option("--ui", is_flag=True, help="Serve a page to try the models on too, at /ui/ of the HTTP port.")
@click.option("--keep-going", is_flag=True, help="Serve the models that load although another does not load.")
@click.option(
    "--restarts",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Times within ten minutes that Triton is started anew when it, or a model's process, has ended.",
)
@click.option(
    "--ready-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds that the models may take to load.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds that requests under way get at a stop.",
)
@click.option(
    "--log-format",
    type=click.Choice(_LOG_FORMATS),
    default="text",
    show_default=True,
    help="json: one JSON object a line on stderr, also for every request to a text model, without its text.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the URLs as one JSON document.")
@click.option("-v", "--verbose", is_flag=True, help="Pass on everything that Triton logs.")
def serve_command(
    repository: Path,
    host: str,
    public: bool,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    admin_key_file: Path | None,
    open_model_config: bool,
    max_request_bytes: int,
    ui: bool,
    keep_going: bool,
    restarts: int,
    ready_timeout: float,
    grace: float,
    log_format: str,
    as_json: bool,
    verbose: bool,
) -> None:
    """Serve the models of REPOSITORY with Triton until SIGTERM, SIGHUP or Ctrl-C.

    Requests under way get --grace seconds then; a second signal cuts them off. Under nohup SIGHUP is ignored.

    The URLs are printed when every model has answered a question. A Triton that crashes while it starts gets
    a second try, which --restarts does not count. Triton's warnings and errors go to stderr, and nothing of a
    request. docs/security.md says what is open to whom.
    """
    from ..runtime.errors import ServerFailed
    from ..server.descriptors import raise_limit
    from ..server.gateway import GatewayLimits
    from ..server.journal import Journal, Level, LogFormat
    from ..server.ports import Ports
    from ..server.process import TritonServer
    from ..server.questions import fault_at
    from ..server.supervisor import Supervisor
    from ..server.try_it import PAGE_PATH, model_names

    journal = Journal(sys.stderr, LogFormat(log_format))
    with _failures_told(journal):
        host = _address(host, public)
        access = _access(public, open_model_config, admin_key_file)
    server = TritonServer(
        repository,
        host=host,
        public=public,
        ports=Ports(http=http_port, grpc=grpc_port, metrics=metrics_port),
        access=access,
        limits=GatewayLimits(max_request_bytes=max_request_bytes),
        keep_going=keep_going,
        try_it=ui,
        log=sys.stderr,
        log_format=LogFormat(log_format),
        verbose=verbose,
        ready_timeout=ready_timeout,
        grace=grace,
    )
    raise_limit()
    journal.say(f"starting Triton on {repository}")
    stops: list[_StopRequested] = []

    def stop_requested(number: int) -> _StopRequested:
        stops.append(_StopRequested(number))
        return stops[-1]

    try:
        with _failures_told(journal), raise_on_signals(stop_requested) as check, server:
            failed = server.failed_models() if keep_going else {}
            for name, reason in failed.items():
                journal.say(f"{name} does not load and is not served: {reason}", level=Level.ERROR)
            fault = fault_at(server.urls.http)
            if fault is not None and not keep_going:
                raise ServerFailed(f"{fault}; see `longserve lint {repository}`")
            if fault is not None and not failed:
                journal.say(fault, level=Level.ERROR)
            models = [name for name in model_names(repository) if name not in failed]
            urls: dict[str, object] = {**asdict(server.urls), "models": models}
            if ui:
                urls["page"] = server.urls.http + PAGE_PATH
            click.echo(json.dumps(urls) if as_json else _table(urls))
            sys.stdout.flush()
            Supervisor(server, journal.say, restarts=restarts).watch(check)
    except _StopRequested as stop:
        cut = ", a second signal: what was under way was cut off" if len(stops) > 1 else ""
        journal.say(f"stopped by {stop.name}{cut}")


class _StopRequested(BaseException):
    """A signal asked for an orderly stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name


def _address(host: str, public: bool) -> str:
    """Return the address to listen on.

    Raises:
        click.UsageError: it is none, or other machines reach it and nobody said that they may.
    """
    from ..runtime.errors import ServerError
    from ..server.access import check_host, resolve_host

    try:
        check_host(host, public=public)
        return resolve_host(host)
    except ServerError as error:
        raise click.UsageError(str(error)) from error


def _access(public: bool, open_model_config: bool, admin_key_file: Path | None) -> AccessPolicy:
    """Return who may do what.

    Raises:
        ServerError: the key cannot be read or used.
    """
    from ..server.access import AccessPolicy, Api, closed_apis, read_admin_key

    closed = closed_apis(public=public) - ({Api.MODEL_CONFIG} if open_model_config else frozenset())
    if admin_key_file is None:
        return AccessPolicy(closed=closed)
    return AccessPolicy(closed=closed, key=read_admin_key(admin_key_file))


@contextmanager
def _failures_told(journal: Journal) -> Iterator[None]:
    """Let a failure end the command with its own exit status, told in the journal's format."""
    from ..runtime.errors import ServingError
    from ..server.journal import Level, LogFormat

    try:
        yield
    except (ServingError, click.UsageError) as error:
        if journal.format is LogFormat.TEXT:
            raise
        journal.say(str(error), level=Level.FATAL)
        sys.exit(error.exit_code)


def _table(urls: dict[str, object]) -> str:
    lines = []
    for name, value in urls.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        lines.append(f"{name:<8} {shown}")
    return "\n".join(lines)


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON document.")
def doctor_command(as_json: bool) -> None:
    """Show what is installed and usable here, and what to do where it falls short.

    Starts a Triton for a moment to see that it works. Exit status 0: this machine can serve; 1: it cannot.
    """
    from rich.console import Console
    from rich.table import Table

    from ..server.doctor import Status, examine

    with Console(stderr=True).status("looking around"):
        findings = list(examine())
    usable = all(finding.status is not Status.SHORT for finding in findings)
    if as_json:
        click.echo(json.dumps({"usable": usable, "findings": [asdict(finding) for finding in findings]}))
    else:
        table = Table(box=None, pad_edge=False)
        for heading in ("", "", "found", "what to do"):
            table.add_column(heading, overflow="fold")
        styles = {Status.OK: "green", Status.SHORT: "bold red", Status.ABSENT: "dim"}
        for finding in findings:
            status = f"[{styles[finding.status]}]{finding.status.value}[/]"
            table.add_row(finding.name, status, _literal(finding.found), _literal(finding.remedy))
        Console().print(table)
        click.echo("this machine can serve" if usable else "this machine cannot serve yet: see 'short' above")
    if not usable:
        sys.exit(1)


def _literal(text: str) -> str:
    from rich.markup import escape

    return escape(text)
