"""The rows of a file, chunk by chunk: Parquet or JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..runtime.errors import InvalidInput, Refusal
from .plan import Chunk
from .settings import BatchSettings

__all__ = [
    "BadRow",
    "ChunkRows",
    "JsonLinesSource",
    "ParquetSource",
    "RowSource",
    "Texts",
    "open_source",
    "texts_of",
]

_CHUNK_BYTES = 32 << 20
"""Most text of a chunk, about: what bounds the memory where rows are long."""

_CHECKED_ROWS = 1000
"""Rows of JSON Lines of which one must have each field that is read or kept."""

Texts = tuple[str, ...]
"""What is scored of one row: the text, or question and context."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be scored, and why."""

    error: str


@dataclass(frozen=True, slots=True)
class ChunkRows:
    """The rows of a chunk.

    Attributes:
        inputs: what is to be scored of each row.
        kept: a pyarrow table of the columns to repeat, one row each.
    """

    inputs: list[Texts | BadRow]
    kept: Any


class RowSource(Protocol):
    """A file of rows."""

    def chunks(self) -> tuple[Chunk, ...]:
        """Cut the file into chunks; the same file and settings give the same chunks.

        Raises:
            InvalidInput: the file cannot be read.
        """
        ...

    def read(self, chunk: Chunk) -> ChunkRows:
        """Read a chunk. Reading them in order is fastest, and any order is possible.

        Raises:
            InvalidInput: the file cannot be read.
        """
        ...


def open_source(path: Path, settings: BatchSettings) -> RowSource:
    """Open the input by its suffix.

    Raises:
        InvalidInput: another suffix, no such file, or no file of that kind, or a column is not there.
    """
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}; give a .parquet or .jsonl file", reason=Refusal.OPTION)
    if path.suffix == ".parquet":
        return ParquetSource(path, settings)
    if path.suffix in (".jsonl", ".ndjson"):
        return JsonLinesSource(path, settings)
    raise InvalidInput(
        f"{path} ends with {path.suffix or 'no suffix'}; give a file that ends with .parquet, .jsonl or "
        ".ndjson",
        reason=Refusal.OPTION,
    )


def texts_of(settings: BatchSettings, values: Sequence[object]) -> Texts | BadRow:
    """Return what is scored of a row, given the values of its text columns (`BadRow`: not readable)."""
    texts: list[str] = [] if settings.asked is None else [settings.asked]
    for name, value in zip(settings.text_columns, values, strict=True):
        if isinstance(value, BadRow):
            return value
        if not isinstance(value, str):
            kind = "null" if value is None else f"of type {type(value).__name__}"
            return BadRow(f"{name!r} is {kind}; give a string")
        texts.append(value)
    return tuple(texts)


class ParquetSource:
    """A Parquet file. Only the columns that are used are read, a few rows at a time."""

    def __init__(self, path: Path, settings: BatchSettings) -> None:
        """Open the file and check its columns.

        Raises:
            InvalidInput: no Parquet file, or a column is missing, there twice, or holds no strings.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path = path
        self._settings = settings
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(f"{path} is no Parquet file: {error}", reason=Refusal.OPTION) from error
        schema = self._file.schema_arrow
        for name in (*settings.text_columns, *settings.keep):
            if name not in schema.names:
                raise InvalidInput(
                    f"{path} has no column {name!r}; it has {', '.join(schema.names)}", reason=Refusal.OPTION
                )
            if schema.names.count(name) > 1:
                raise InvalidInput(
                    f"{path} has {schema.names.count(name)} columns called {name!r}; rename them",
                    reason=Refusal.OPTION,
                )
        for name in settings.text_columns:
            if not _holds_strings(schema.field(name).type):
                raise InvalidInput(
                    f"the column {name!r} of {path} holds {schema.field(name).type}, not strings; "
                    "give another column",
                    reason=Refusal.OPTION,
                )
        self._pending: Iterator[Any] = iter(())
        self._next = 0
        self._rest: Any = None

    def chunks(self) -> tuple[Chunk, ...]:
        """Cut the file into chunks of `chunk_rows` rows, or fewer where rows are long."""
        total = self._file.metadata.num_rows
        rows = min(self._settings.chunk_rows, max(1, int(_CHUNK_BYTES / max(1.0, self._row_bytes()))))
        return tuple(
            Chunk(index=index, first=first, rows=min(rows, total - first), position=first)
            for index, first in enumerate(range(0, total, rows))
        )

    def read(self, chunk: Chunk) -> ChunkRows:
        """Read a chunk: one after the last that was read, or any other."""
        import pyarrow as pa

        if self._next > chunk.first or self._rest is None:
            self._start(chunk.first)
        wanted: list[Any] = []
        missing = chunk.rows
        while missing:
            if self._rest.num_rows == 0:
                self._rest = self._following()
            skip = min(self._rest.num_rows, max(0, chunk.first - self._next))
            taken = min(self._rest.num_rows - skip, missing)
            if taken:
                wanted.append(self._rest.slice(skip, taken))
            self._rest = self._rest.slice(skip + taken)
            self._next += skip + taken
            missing -= taken
        table = pa.Table.from_batches(wanted)
        return ChunkRows(self._inputs(table), table.select(list(self._settings.keep)))

    def _row_bytes(self) -> float:
        """Mean size of the texts of a row, by the file's own statistics."""
        metadata = self._file.metadata
        size = 0
        for group in range(metadata.num_row_groups):
            for column in range(metadata.num_columns):
                details = metadata.row_group(group).column(column)
                if details.path_in_schema in self._settings.text_columns:
                    size += details.total_uncompressed_size
        return float(size / max(1, metadata.num_rows))

    def _start(self, row: int) -> None:
        """Begin to read at the row group that holds a row."""
        metadata = self._file.metadata
        first, group = 0, 0
        while first + metadata.row_group(group).num_rows <= row:
            first += metadata.row_group(group).num_rows
            group += 1
        columns = list(dict.fromkeys((*self._settings.text_columns, *self._settings.keep)))
        self._pending = self._file.iter_batches(
            batch_size=self._settings.chunk_rows,
            row_groups=list(range(group, metadata.num_row_groups)),
            columns=columns,
        )
        self._next = first
        self._rest = self._following()

    def _following(self) -> Any:
        import pyarrow as pa

        try:
            return next(self._pending)
        except StopIteration:
            raise InvalidInput(
                f"{self._path} has fewer rows than its metadata says; write it again", reason=Refusal.OPTION
            ) from None
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(f"{self._path} cannot be read: {error}", reason=Refusal.OPTION) from error

    def _inputs(self, table: Any) -> list[Texts | BadRow]:
        columns = [_values(name, table.column(name)) for name in self._settings.text_columns]
        return [texts_of(self._settings, values) for values in zip(*columns, strict=True)]


class JsonLinesSource:
    """A file with one JSON object a line. Lines with nothing but whitespace are no rows."""

    def __init__(self, path: Path, settings: BatchSettings) -> None:
        """Remember the file; it is opened for each reading."""
        self._path = path
        self._settings = settings

    def chunks(self) -> tuple[Chunk, ...]:
        """Read the file once and cut it into chunks of `chunk_rows` rows, or fewer where rows are long.

        Raises:
            InvalidInput: none of the first rows has a field that is read or kept.
        """
        chunks: list[Chunk] = []
        first, rows, size, begin, position = 0, 0, 0, 0, 0
        with self._path.open("rb") as stream:
            for line in stream:
                if line.strip():
                    if rows and (rows == self._settings.chunk_rows or size + len(line) > _CHUNK_BYTES):
                        chunks.append(Chunk(index=len(chunks), first=first, rows=rows, position=begin))
                        first, rows, size, begin = first + rows, 0, 0, position
                    rows += 1
                    size += len(line)
                position += len(line)
        if rows:
            chunks.append(Chunk(index=len(chunks), first=first, rows=rows, position=begin))
        self._check_fields(min(first + rows, _CHECKED_ROWS))
        return tuple(chunks)

    def _check_fields(self, count: int) -> None:
        """Refuse a name that none of the first rows has: misspelt, every row would fail, or be null."""
        chunk = Chunk(index=0, first=0, rows=count, position=0)
        rows = [fields for fields in map(_fields, self._lines(chunk)) if isinstance(fields, dict)]
        found = {name: None for fields in rows for name in fields}
        for name in (*self._settings.text_columns, *self._settings.keep):
            if rows and name not in found:
                raise InvalidInput(
                    f"none of the first {count} rows of {self._path} has a field {name!r}; they have "
                    f"{', '.join(map(repr, found)) or 'none'}",
                    reason=Refusal.OPTION,
                )

    def read(self, chunk: Chunk) -> ChunkRows:
        """Read a chunk."""
        import pyarrow as pa

        inputs: list[Texts | BadRow] = []
        kept: dict[str, list[str | None]] = {name: [] for name in self._settings.keep}
        for fields in map(_fields, self._lines(chunk)):
            row = self._input(fields)
            for name, values in kept.items():
                value = _as_text(name, fields.get(name)) if isinstance(fields, dict) else None
                if isinstance(value, BadRow):
                    row, value = value, None
                values.append(value)
            inputs.append(row)
        return ChunkRows(inputs, pa.table({name: pa.array(v, pa.string()) for name, v in kept.items()}))

    def _lines(self, chunk: Chunk) -> Iterator[bytes]:
        found = 0
        with self._path.open("rb") as stream:
            stream.seek(chunk.position)
            while found < chunk.rows:
                line = stream.readline()
                if not line:
                    raise InvalidInput(
                        f"{self._path} ends before row {chunk.first + found}; it was cut meanwhile",
                        reason=Refusal.OPTION,
                    )
                if line.strip():
                    found += 1
                    yield line

    def _input(self, fields: dict[str, Any] | BadRow) -> Texts | BadRow:
        if isinstance(fields, BadRow):
            return fields
        for name in self._settings.text_columns:
            if name not in fields:
                return BadRow(
                    f"the row has no field {name!r}; it has {', '.join(map(repr, fields)) or 'none'}"
                )
        return texts_of(self._settings, [fields[name] for name in self._settings.text_columns])


def _holds_strings(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _fields(line: bytes) -> dict[str, Any] | BadRow:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(f"the line is not JSON: {error}")
    if not isinstance(fields, dict):
        return BadRow(f"the line holds a {type(fields).__name__}; give a JSON object")
    return fields


def _values(name: str, column: Any) -> list[object]:
    """The values of a Parquet column; a `BadRow` for one that is not UTF-8, which Arrow does not check."""
    try:
        values: list[object] = column.to_pylist()
        return values
    except UnicodeDecodeError:
        return [_value(name, value) for value in column]


def _value(name: str, value: Any) -> object:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        return BadRow(f"{name!r} is not UTF-8: {where}; encode the text as UTF-8")


def _as_text(name: str, value: Any) -> str | BadRow | None:
    """A kept value: a string as it is, everything else as JSON, null as null."""
    if value is None:
        return None
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text.encode("utf-8")
    except UnicodeEncodeError:
        return BadRow(f"{name!r} has an unpaired surrogate, which is no character; decode the text properly")
    except RecursionError:
        return BadRow(f"{name!r} is nested too deeply to be kept")
    return text
