"""Files of documents, good and bad."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="bulk scoring needs the extra [batch]")

from longserve.serving import Task
from longserve.serving.batch import BatchSettings

WORDS = ("the", "quick", "brown", "fox", "jumps", "invoice", "northern", "harbour", "silver", "lanterns")


@pytest.fixture
def documents() -> list[str]:
    """Sixty texts of mixed lengths, some longer than the model's 512 tokens."""
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.choice((1, 5, 40, 90, 300)))) for _ in range(60)]


@pytest.fixture
def settings() -> BatchSettings:
    """A classifier's, with small chunks."""
    return BatchSettings(task=Task.TEXT_CLASSIFICATION, keep=("id",), chunk_rows=7)


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as `in.parquet` (with small row groups) or `in.jsonl`."""

    def write(rows: Sequence[dict[str, Any]], suffix: str, group: int = 16) -> Path:
        path = tmp_path / f"in{suffix}"
        if suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=group)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
