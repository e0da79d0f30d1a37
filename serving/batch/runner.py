"""A bulk run: plan it, do the chunks that are not done, put the parts together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..runtime.errors import InvalidInput, Refusal
from .parts import OutputExists, PartStore, finished_digest
from .plan import BatchPlan, Chunk
from .scorers import PreparedRows, Scorer
from .settings import BatchSettings
from .sources import ChunkRows, open_source
from .tables import as_table, result_schema

__all__ = [
    "BatchProgress",
    "BatchSummary",
    "ChunkDone",
    "Distributor",
    "make_plan",
    "run_batch",
    "run_distributed",
    "score_chunks",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkDone:
    """A chunk whose results are on the disk: its rows, tokens, and rows without a result."""

    rows: int
    tokens: int
    errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSummary:
    """What a run did.

    Attributes:
        output: the file that was written.
        rows: rows of the input and the output.
        errors: rows without a result; their column `error` says why.
        first_error: that of the first such row, with its number; None where every row has a result.
        scored: rows that this run scored; the others were done before.
        failed: how many of those have no result.
        tokens: tokens of those.
        seconds: time that scoring them took, reading and writing included, loading the model not.
    """

    output: str
    rows: int
    errors: int
    first_error: str | None
    scored: int
    failed: int
    tokens: int
    seconds: float


class BatchProgress(Protocol):
    """Is told how far a run is."""

    def begin(self, rows: int, done: int) -> None:
        """The run has so many rows, of which some were done before."""
        ...

    def advance(self, done: ChunkDone) -> None:
        """A chunk is done."""
        ...


Distributor = Callable[[Sequence[Chunk], PartStore], Iterator[ChunkDone]]
"""Does chunks wherever it likes, writes each into the store, and yields it, in any order."""


def make_plan(source: Path, settings: BatchSettings, model: Mapping[str, Any]) -> BatchPlan:
    """Cut the input into chunks and note what decides the results.

    Raises:
        InvalidInput: the input cannot be used.
    """
    chunks = open_source(source, settings).chunks()
    status = source.stat()
    described = {
        "input": {"name": source.name, "bytes": status.st_size, "modified": status.st_mtime_ns},
        "settings": settings.described(),
        "model": dict(model),
    }
    return BatchPlan(chunks=chunks, described=described)


def run_batch(
    source: str | Path,
    output: str | Path,
    settings: BatchSettings,
    scorer: Scorer,
    *,
    overwrite: bool = False,
    progress: BatchProgress | None = None,
) -> BatchSummary:
    """Score every row of a file in this process and write the results, in order, each row once.

    What is done is kept in `OUTPUT.parts` until the whole is. The same call after a crash goes on there; once
    the output is complete it does nothing more.

    Args:
        source: a `.parquet` or `.jsonl` file.
        output: the `.parquet` file to write.
        settings: what is read from each row.
        scorer: what scores them.
        overwrite: replace an output that is there already.
        progress: is told how far the run is.

    Raises:
        OutputExists: the output is there and is not the result of this very run.
        InvalidInput: the input or output cannot be used, another process is writing it, or its parts belong
            to another run.
        EngineError, RequestError: rows cannot be computed at all. What is done stays.
    """

    def distribute(chunks: Sequence[Chunk], store: PartStore) -> Iterator[ChunkDone]:
        return score_chunks(Path(source), settings, scorer, chunks, store)

    return run_distributed(
        source, output, settings, scorer.described, distribute, overwrite=overwrite, progress=progress
    )


def run_distributed(
    source: str | Path,
    output: str | Path,
    settings: BatchSettings,
    model: Mapping[str, Any],
    distribute: Distributor,
    *,
    overwrite: bool = False,
    progress: BatchProgress | None = None,
) -> BatchSummary:
    """As `run_batch`, with the chunks done elsewhere.

    Args:
        source, output, settings, overwrite, progress: as `run_batch` takes them.
        model: what computes the results, as far as it decides them: JSON values.
        distribute: does the chunks that are not done.

    Raises:
        As `run_batch`, and whatever `distribute` raises.
    """
    source, output = Path(source), Path(output)
    if output.suffix != ".parquet":
        raise InvalidInput(f"the output is {output}; give a .parquet file", reason=Refusal.OPTION)
    if not output.parent.is_dir():
        raise InvalidInput(f"there is no directory {output.parent}; make it first", reason=Refusal.OPTION)
    if output.exists() and source.exists() and output.samefile(source):
        raise InvalidInput(f"{output} is the input, too; give another output", reason=Refusal.OPTION)
    plan = make_plan(source, settings, model)
    begun = time.perf_counter()
    done: list[ChunkDone] = []
    with PartStore(output, plan) as store:
        if output.exists() and not overwrite:
            _check_finished(output, plan, store)
            return _summary(output, plan, done, begun)
        remaining = store.remaining()
        if progress is not None:
            progress.begin(plan.rows, plan.rows - sum(chunk.rows for chunk in remaining))
        for chunk in distribute(remaining, store):
            done.append(chunk)
            if progress is not None:
                progress.advance(chunk)
        store.assemble(_empty_schema(source, settings))
    return _summary(output, plan, done, begun)


def score_chunks(
    source: Path, settings: BatchSettings, scorer: Scorer, chunks: Sequence[Chunk], store: PartStore
) -> Iterator[ChunkDone]:
    """Score chunks one after the other and write each; the next is read and tokenized meanwhile."""
    rows = open_source(source, settings)

    def load(chunk: Chunk) -> tuple[ChunkRows, PreparedRows]:
        loaded = rows.read(chunk)
        return loaded, scorer.prepare(loaded.inputs)

    with ThreadPoolExecutor(1, thread_name_prefix="longserve-read") as reader:
        following: Future[tuple[ChunkRows, PreparedRows]] | None = None
        for index, chunk in enumerate(chunks):
            loading = following or reader.submit(load, chunk)
            loaded, prepared = loading.result()
            more = index + 1 < len(chunks)
            following = reader.submit(load, chunks[index + 1]) if more else None
            table = as_table(settings.task, chunk, loaded.kept, scorer.score(prepared))
            store.write(chunk, table)
            yield _done(table)


def _done(table: Any) -> ChunkDone:
    import pyarrow.compute as pc

    tokens = pc.sum(table.column("tokens")).as_py() or 0
    errors = table.num_rows - table.column("error").null_count
    return ChunkDone(rows=table.num_rows, tokens=tokens, errors=errors)


def _check_finished(output: Path, plan: BatchPlan, store: PartStore) -> None:
    """Clear up after a run that was ended between its last two steps; refuse any other output."""
    begun = any(store.directory.glob("part-*.parquet"))
    if finished_digest(output) == plan.digest:
        store.remove()
        return
    if not begun:
        store.remove()
    raise OutputExists(
        f"{output} exists and is not the result of this run (other input, model or options); give another "
        "output, or --overwrite",
        reason=Refusal.OPTION,
    )


def _empty_schema(source: Path, settings: BatchSettings) -> Any:
    """The schema of an output without rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = list(result_schema(settings.task))
    kept = [pa.field(name, pa.string()) for name in settings.keep]
    if source.suffix == ".parquet":
        found = pq.read_schema(source)
        kept = [found.field(name) for name in settings.keep]
    return pa.schema([schema[0], *kept, *schema[1:]])


def _summary(output: Path, plan: BatchPlan, done: Sequence[ChunkDone], begun: float) -> BatchSummary:
    import pyarrow.parquet as pq

    seconds = time.perf_counter() - begun
    errors, first_error = 0, None
    with pq.ParquetFile(output) as written:
        for batch in written.iter_batches(columns=["row", "error"]):
            errors += batch.num_rows - batch.column("error").null_count
            if errors and first_error is None:
                bad = next(row for row in batch.to_pylist() if row["error"] is not None)
                first_error = f"row {bad['row']}: {bad['error']}"
    return BatchSummary(
        output=str(output),
        rows=plan.rows,
        errors=errors,
        first_error=first_error,
        scored=sum(chunk.rows for chunk in done),
        failed=sum(chunk.errors for chunk in done),
        tokens=sum(chunk.tokens for chunk in done),
        seconds=seconds,
    )
