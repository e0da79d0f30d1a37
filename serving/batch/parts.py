"""The parts of a run that are done: one file per chunk beside the output, each whole or not there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..runtime.errors import InvalidInput, Refusal
from .plan import BatchPlan, Chunk

__all__ = ["OutputExists", "PartStore", "finished_digest"]

_DIGEST = b"longserve.plan"
_PLAN = "plan.json"
_ROW_GROUP = 65536


class OutputExists(InvalidInput):
    """The output is there already, and is not the result of this very run."""


class PartStore:
    """The directory `OUTPUT.parts`: what is done of one run; one process alone adds to it."""

    def __init__(self, output: Path, plan: BatchPlan) -> None:
        """Name the directory; `__enter__` makes it or goes on with it."""
        self._output = output
        self._plan = plan
        self.directory = output.with_name(output.name + ".parts")
        self._lock: IO[str] | None = None

    def __enter__(self) -> PartStore:
        """Lock the directory and check that what is in it belongs to this run.

        Raises:
            InvalidInput: another process is at work on it, or it belongs to a run with another input, model
                or settings.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = (self.directory / "lock").open("w", encoding="ascii")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InvalidInput(
                f"another process is writing {self._output}; wait for it, or give another output",
                reason=Refusal.OPTION,
            ) from None
        self._check_plan()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    def path(self, chunk: Chunk) -> Path:
        """Return the file of a chunk."""
        return self.directory / f"part-{chunk.index:08d}.parquet"

    def is_done(self, chunk: Chunk) -> bool:
        """Return whether a chunk's file is there and has its rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return bool(pq.read_metadata(self.path(chunk)).num_rows == chunk.rows)
        except FileNotFoundError:
            return False
        except (pa.ArrowException, OSError):  # damaged on the disk: it is made again
            return False

    def remaining(self) -> list[Chunk]:
        """Return the chunks that are not done, in order."""
        return [chunk for chunk in self._plan.chunks if not self.is_done(chunk)]

    def write(self, chunk: Chunk, table: Any) -> None:
        """Write a chunk's results, so that a crash leaves the whole file or none."""
        import pyarrow.parquet as pq

        target = self.path(chunk)
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        pq.write_table(table, scratch)
        _secure(scratch, target)

    def assemble(self, schema: Any) -> None:
        """Put the parts together in order as the output, and remove them.

        Args:
            schema: of the output, for a run without rows.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        scratch = self.directory / "whole.parquet"
        if self._plan.chunks:
            schema = pq.read_schema(self.path(self._plan.chunks[0]))
        schema = schema.with_metadata({_DIGEST: self._plan.digest.encode("ascii")})
        with pq.ParquetWriter(scratch, schema) as writer:
            gathered: list[Any] = []
            rows = 0
            for chunk in self._plan.chunks:
                gathered.append(pq.read_table(self.path(chunk)).cast(schema))
                rows += chunk.rows
                if rows >= _ROW_GROUP or chunk is self._plan.chunks[-1]:
                    writer.write_table(pa.concat_tables(gathered))
                    gathered, rows = [], 0
        _secure(scratch, self._output)
        self.remove()

    def remove(self) -> None:
        """Remove the directory with everything in it."""
        shutil.rmtree(self.directory)

    def _check_plan(self) -> None:
        path = self.directory / _PLAN
        wanted = {"digest": self._plan.digest, **self._plan.described}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            for stale in self.directory.glob("part-*.parquet"):
                stale.unlink()
            scratch = path.with_suffix(".tmp")
            scratch.write_text(json.dumps(wanted, indent=1, sort_keys=True), encoding="utf-8")
            _secure(scratch, path)
            return
        if found.get("digest") != self._plan.digest:
            different = sorted(
                name for name in wanted if name != "digest" and wanted[name] != found.get(name)
            )
            raise InvalidInput(
                f"{self.directory} holds a part of another run: {', '.join(different) or 'the chunks'} "
                f"differ, see its {_PLAN}; finish that run with the same input, model and options, remove "
                "the directory, or give another output",
                reason=Refusal.OPTION,
            )


def finished_digest(output: Path) -> str | None:
    """Return the digest of the run that wrote a file; None if none did.

    Raises:
        OutputExists: the file is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(output).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise OutputExists(
            f"{output} exists and is no Parquet file ({error}); give another output, or --overwrite",
            reason=Refusal.OPTION,
        ) from error
    digest = metadata.get(_DIGEST)
    return None if digest is None else digest.decode("ascii", errors="replace")


def _secure(scratch: Path, target: Path) -> None:
    """Move a file into place once its bytes are on the disk."""
    with scratch.open("rb") as stream:
        os.fsync(stream.fileno())
    scratch.replace(target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
