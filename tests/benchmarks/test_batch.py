"""The benchmark of bulk scoring writes mixed documents and tells a right output from a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

pa = pytest.importorskip("pyarrow", reason="bulk scoring needs the extra [batch]")
pq = pytest.importorskip("pyarrow.parquet")
batch = pytest.importorskip("batch", reason="the benchmark imports what it measures")


def write(path: Path, ids: list[str], labels: list[str], error: str | None = None) -> None:
    count = len(ids)
    columns = {
        "id": ids,
        "label": labels,
        "score": [0.5] * count,
        "error": pa.array([error] * count, pa.string()),
    }
    pq.write_table(pa.table(columns), path)


def test_documents_are_mixed_and_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        batch.write_documents(tmp_path / f"{name}.parquet", 30, seed=1)
    first, second = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("a", "b"))
    assert first == second
    lengths = [len(text) for text in first.column("text").to_pylist()]
    assert max(lengths) > 5 * min(lengths)


@pytest.mark.parametrize(
    ("ids", "labels", "error", "wrong"),
    [
        (["d0", "d1", "d2"], ["x", "y", "z"], None, {}),
        (["d0", "d2", "d1"], ["x", "z", "y"], None, {"out_of_order": 2, "unlike_the_undisturbed_run": 1}),
        (["d0", "d1", "d1"], ["x", "y", "y"], None, {"missing": 1, "repeated": 1, "out_of_order": 1}),
        (["d0", "d1", "d2"], ["x", "y", "z"], "bad", {"errors": 3}),
    ],
)
def test_what_is_wrong_with_an_output_is_counted(
    tmp_path: Path, ids: list[str], labels: list[str], error: str | None, wrong: dict[str, int]
) -> None:
    write(tmp_path / "out.parquet", ids, labels, error)
    expected = [{"label": "x", "score": 0.5}, {"label": "y", "score": 0.5}]
    found = batch.check_rows(tmp_path / "out.parquet", expected, 3)
    assert {name: value for name, value in found.items() if value and name != "rows"} == wrong
