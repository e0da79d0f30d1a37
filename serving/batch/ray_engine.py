"""A bulk run on Ray Data: actors on one machine or many, each with the model, take chunks and write parts.

Input, bundle and output must have the same paths on every machine, as on any shared file system. The parts
are those of a run in one process, so a run may be begun on the one and finished on the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..runtime.engine_settings import EngineSettings
from ..runtime.errors import EngineError
from .parts import PartStore
from .plan import BatchPlan, Chunk
from .runner import ChunkDone, Distributor, score_chunks
from .scorers import BundleScorer
from .settings import BatchSettings

__all__ = ["RayRun", "ray_distributor"]

_MOST_BLOCKS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RayRun:
    """What an actor needs to do chunks.

    Attributes:
        source, output, bundle: absolute paths, the same on every machine.
        settings: what is read from each row.
        engine: what runs the model; its `threads` are the CPUs that an actor asks Ray for.
        tokens_per_run: most tokens of one run; None: the model's length.
    """

    source: Path
    output: Path
    bundle: Path
    settings: BatchSettings
    engine: EngineSettings
    tokens_per_run: int | None = None


def ray_distributor(run: RayRun, *, workers: int, address: str | None = None) -> Distributor:
    """Return what `run_batch` takes as `distribute`.

    Args:
        run: what the actors do.
        workers: how many actors.
        address: the Ray cluster; None: that of the environment variable RAY_ADDRESS, or Ray on this machine.

    Raises:
        EngineError: ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise EngineError(f"ray cannot be imported ({error}); install 'longserve[ray]'") from error

    def distribute(chunks: Sequence[Chunk], store: PartStore) -> Iterator[ChunkDone]:
        if not chunks:
            return
        started = not ray.is_initialized()
        if started:
            ray.init(address=address, log_to_driver=False)
        try:
            items = [asdict(chunk) for chunk in chunks]
            dataset = ray.data.from_items(items, override_num_blocks=min(len(items), _MOST_BLOCKS))
            results = dataset.map_batches(
                _Actor,
                fn_constructor_args=(run,),
                batch_size=1,
                concurrency=workers,
                num_cpus=max(1, run.engine.threads),
            )
            for row in results.iter_rows():
                yield ChunkDone(rows=row["rows"], tokens=row["tokens"], errors=row["errors"])
        finally:
            if started:
                ray.shutdown()

    return distribute


class _Actor:
    """Holds the model of one worker."""

    def __init__(self, run: RayRun) -> None:
        self._run = run
        self._scorer = BundleScorer(
            run.bundle, run.settings, engine=run.engine, tokens_per_run=run.tokens_per_run
        )
        self._store = PartStore(run.output, BatchPlan(chunks=(), described={}))

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[int]]:
        names = tuple(Chunk.__dataclass_fields__)
        columns = [batch[name].tolist() for name in names]
        chunks = [Chunk(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]
        run = self._run
        done = list(score_chunks(run.source, run.settings, self._scorer, chunks, self._store))
        return {
            "rows": [chunk.rows for chunk in done],
            "tokens": [chunk.tokens for chunk in done],
            "errors": [chunk.errors for chunk in done],
        }
