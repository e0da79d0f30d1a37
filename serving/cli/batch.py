"""`longserve batch`: score a file of documents."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..batch.settings import DEFAULT_CHUNK_ROWS, BatchSettings
from ..runtime.cores import available_cores
from ..runtime.engine_settings import EngineName, EngineSettings, InferencePrecision
from ..runtime.manifest import Task
from ..runtime.options import APPLICABLE_FUNCTIONS, WINDOW_COMBINATIONS
from .connections import access, access_options

if TYPE_CHECKING:
    from ..batch.runner import BatchSummary

__all__ = ["batch_command"]

_LOCAL, _RAY = "local", "ray"
_BUNDLE_ONLY = ("encoder_engine", "inference_precision", "tokens_per_run", "threads")
_SERVER_ONLY = ("model", "timeout", "ca", "headers")
_RAY_ONLY = ("workers", "ray_address")


@click.command("batch")
@click.argument("source", metavar="IN.parquet|jsonl", type=click.Path(exists=True, dir_okay=False))
@click.argument("output", metavar="OUT.parquet", type=click.Path(dir_okay=False))
@click.option(
    "--task",
    type=click.Choice([task.value for task in Task]),
    help="What to do with each row; with --bundle, its task is the default.",
)
@click.option("--bundle", type=click.Path(), help="Run this bundle.")
@click.option("--url", help="Ask this server instead: grpc://HOST:PORT or http://HOST:PORT.")
@click.option("--text-column", default="text", show_default=True, help="Column of the text, or context.")
@click.option("--question-column", help="Column of the question.  [default: question, without --question]")
@click.option("--question", help="Ask this of every row.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Repeat this column of the input; repeatable.")
@click.option("--top-k", type=click.IntRange(min=1), default=1, show_default=True, help="Results per row.")
@click.option("--stride", type=click.IntRange(min=0), help="Tokens that neighbouring windows share.")
@click.option("--function-to-apply", type=click.Choice(APPLICABLE_FUNCTIONS), help="Makes scores of logits.")
@click.option("--window-combination", type=click.Choice(WINDOW_COMBINATIONS), help="Of windows' scores.")
@click.option("--max-answer-tokens", type=click.IntRange(min=1), help="Longest answer.")
@click.option("--handle-impossible-answer", is_flag=True, default=None, help='Let "no answer" compete.')
@click.option(
    "--chunk-rows",
    type=click.IntRange(min=1),
    default=DEFAULT_CHUNK_ROWS,
    show_default=True,
    help="Rows that are sorted by length, scored and secured together: what a crash can cost.",
)
@click.option("--overwrite", is_flag=True, help="Replace an output that is there already.")
@click.option(
    "--engine",
    "where",
    type=click.Choice([_LOCAL, _RAY]),
    default=_LOCAL,
    show_default=True,
    help="Where the rows are scored: in this process, or by Ray's workers, on one machine or many.",
)
@click.option("--workers", type=click.IntRange(min=1), help="With --engine ray: its workers.  [default: 1]")
@click.option(
    "--ray-address", help="With --engine ray: the cluster.  [default: RAY_ADDRESS, or this machine]"
)
@click.option(
    "--encoder-engine",
    type=click.Choice([engine.value for engine in EngineName]),
    help="With --bundle: what runs it.  [default: onnxruntime]",
)
@click.option(
    "--inference-precision",
    type=click.Choice([precision.value for precision in InferencePrecision]),
    help="With --bundle: arithmetic of its float operators; bf16 with openvino.  [default: fp32]",
)
@click.option(
    "--tokens-per-run",
    type=click.IntRange(min=1),
    help="With --bundle: bounds memory.  [default: the model's length]",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="With --bundle: of each process.  [default: all cores, shared by the workers]",
)
@access_options
@click.option("--model", help="With --url: the server's text model, if it is not the demo's.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="With --url: seconds until each row must have been answered.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as one JSON document.")
def batch_command(
    source: str,
    output: str,
    task: str | None,
    bundle: str | None,
    url: str | None,
    overwrite: bool,
    where: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Score every row of a Parquet or JSON Lines file.

    The output has one row per row of the input, in order: its number, the columns of --keep, the results, and
    in `error` why there are none. A run that was stopped is gone on with by the same command: what was done
    is kept in OUT.parquet.parts until the output is whole.
    """
    from ..batch.progress import BatchProgressBar

    _check_together(bundle, url, where, given)
    settings = _settings(_task(task, bundle), given)
    with BatchProgressBar() as progress:
        again = {"overwrite": overwrite, "progress": progress}
        if bundle is None:
            summary = _on_server(source, output, settings, str(url), given, again)
        elif where == _RAY:
            summary = _on_ray(Path(source), Path(output), settings, Path(bundle), given, again)
        else:
            summary = _here(source, output, settings, bundle, given, again)
    _report(summary, as_json)


def _check_together(bundle: str | None, url: str | None, where: str, given: dict[str, Any]) -> None:
    if (bundle is None) == (url is None):
        raise click.UsageError("give either --bundle, to run it here, or --url, to ask a server")
    if where == _RAY and bundle is None:
        raise click.UsageError("--engine ray runs a bundle; give --bundle")
    closed: list[tuple[tuple[str, ...], str, bool]] = [
        (_BUNDLE_ONLY, "--bundle", bundle is not None),
        (_SERVER_ONLY, "--url", url is not None),
        (_RAY_ONLY, "--engine ray", where == _RAY),
    ]
    for names, needed, fits in closed:
        for name in names:
            if given[name] not in (None, ()) and not fits:
                option = "header" if name == "headers" else name.replace("_", "-")
                raise click.UsageError(f"--{option} goes with {needed} only; leave it out")


def _task(task: str | None, bundle: str | None) -> Task:
    if task is not None:
        return Task(task)
    if bundle is None:
        raise click.UsageError("give --task with --url")
    from ..runtime.bundle import Bundle

    return Bundle.open(bundle, verify=False).manifest.task


def _settings(task: Task, given: dict[str, Any]) -> BatchSettings:
    names = {"top_k", "stride"}
    own = {
        Task.TEXT_CLASSIFICATION: {"function_to_apply", "window_combination"},
        Task.QUESTION_ANSWERING: {"max_answer_tokens", "handle_impossible_answer"},
    }
    for other, options in own.items():
        for name in sorted(options):
            if other is not task and given[name] is not None:
                raise click.UsageError(f"--{name.replace('_', '-')} is for {other.value}; leave it out")
    question = given["question_column"]
    if task is Task.QUESTION_ANSWERING and question is None and given["question"] is None:
        question = "question"
    chosen = names | own[task]
    return BatchSettings(
        task=task,
        text=given["text_column"],
        question=question,
        asked=given["question"],
        keep=tuple(given["keep"]),
        options={name: given[name] for name in sorted(chosen) if given[name] is not None},
        chunk_rows=given["chunk_rows"],
    )


def _here(
    source: str,
    output: str,
    settings: BatchSettings,
    bundle: str,
    given: dict[str, Any],
    again: dict[str, Any],
) -> BatchSummary:
    from ..batch.runner import run_batch
    from ..batch.scorers import BundleScorer

    scorer = BundleScorer(bundle, settings, engine=_engine(given), tokens_per_run=given["tokens_per_run"])
    return run_batch(source, output, settings, scorer, **again)


def _on_server(
    source: str, output: str, settings: BatchSettings, url: str, given: dict[str, Any], again: dict[str, Any]
) -> BatchSummary:
    from ..batch.runner import run_batch
    from ..batch.scorers import ServerScorer

    remote = {"model": given["model"], "timeout": given["timeout"]}
    with ServerScorer(url, settings, **remote, **access(given["ca"], given["headers"])) as scorer:
        return run_batch(source, output, settings, scorer, **again)


def _on_ray(
    source: Path,
    output: Path,
    settings: BatchSettings,
    bundle: Path,
    given: dict[str, Any],
    again: dict[str, Any],
) -> BatchSummary:
    from ..batch.ray_engine import RayRun, ray_distributor
    from ..batch.runner import run_distributed
    from ..batch.scorers import described_model
    from ..runtime.bundle import Bundle

    engine, workers = _engine(given), given["workers"] or 1
    model = described_model(Bundle.open(bundle), engine)
    run = RayRun(
        source=source.resolve(),
        output=output.resolve(),
        bundle=bundle.resolve(),
        settings=settings,
        engine=replace(engine, threads=engine.threads or max(1, available_cores() // workers)),
        tokens_per_run=given["tokens_per_run"],
    )
    distribute = ray_distributor(run, workers=workers, address=given["ray_address"])
    return run_distributed(source, output, settings, model, distribute, **again)


def _engine(given: dict[str, Any]) -> EngineSettings:
    precision = given["inference_precision"]
    return EngineSettings(
        engine=EngineName(given["encoder_engine"] or EngineName.ONNXRUNTIME),
        inference_precision=None if precision is None else InferencePrecision(precision),
        threads=given["threads"] or 0,
    )


def _report(summary: BatchSummary, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(summary)))
        return
    if summary.scored:
        documents, tokens = summary.scored / summary.seconds, summary.tokens / summary.seconds
        rate = f"{documents:,.1f} documents/s, {tokens:,.0f} tokens/s"
        failed = f", {summary.failed} failed" if summary.failed else ""
        scored = summary.scored - summary.failed
        click.echo(f"{summary.output}: {summary.rows} rows; {scored} scored now{failed}, {rate}")
    else:
        click.echo(f"{summary.output}: {summary.rows} rows, all done before")
    if summary.errors:
        click.echo(
            f"{summary.errors} of {summary.rows} rows have no result; the column error says why, as in "
            f"{summary.first_error}",
            err=True,
        )
