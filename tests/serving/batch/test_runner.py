"""A run gives each row once, in order, with the in-process client's results, however often it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longserve.serving import EngineError, EngineSettings, InvalidInput, LocalClient, Task
from longserve.serving.batch import BatchSettings, BundleScorer, run_batch
from longserve.serving.batch.parts import OutputExists
from longserve.serving.batch.scorers import PreparedRows
from longserve.serving.batch.sources import BadRow
from longserve.serving.batch.tables import Outcome
from longserve.serving.runtime.results import Classification

ONE_THREAD = EngineSettings(threads=1)


class FakeScorer:
    """Labels each text with itself; fails after some batches."""

    described: Mapping[str, Any] = {"model": "fake"}

    def __init__(self, batches: int = 1000) -> None:
        self.left = batches
        self.seen: list[str] = []

    def prepare(self, rows: Sequence[tuple[str, ...] | BadRow]) -> PreparedRows:
        return PreparedRows(tuple(rows))

    def score(self, prepared: PreparedRows) -> list[Outcome]:
        if not self.left:
            raise EngineError("out of luck")
        self.left -= 1
        outcomes: list[Outcome] = []
        for row in prepared.rows:
            if isinstance(row, tuple):
                self.seen.append(row[0])
                outcomes.append(Classification(row[0], 1.0, {row[0]: 1.0}, 3, 1))
            else:
                outcomes.append(BadRow("bad"))
        return outcomes

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def scorer(classification_bundle: Path) -> BundleScorer:
    settings = BatchSettings(task=Task.TEXT_CLASSIFICATION, keep=("id",), chunk_rows=7)
    return BundleScorer(classification_bundle, settings, engine=ONE_THREAD)


def rows_of(texts: Sequence[str]) -> list[dict[str, str]]:
    return [{"id": f"d{index}", "text": text} for index, text in enumerate(texts)]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_results_are_the_clients(
    scorer: BundleScorer,
    classification_bundle: Path,
    documents: list[str],
    write_rows: Callable[..., Path],
    tmp_path: Path,
    suffix: str,
) -> None:
    texts = [*documents[:20], "", "nul\0", *documents[20:30]]
    source = write_rows(rows_of(texts), suffix)
    summary = run_batch(source, tmp_path / "out.parquet", scorer.settings, scorer)
    assert (summary.rows, summary.errors, summary.scored, summary.failed) == (32, 2, 32, 2)
    assert summary.first_error is not None and summary.first_error.startswith("row 20: the text is empty")
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["row"] for row in table] == list(range(32))
    assert [row["id"] for row in table] == [f"d{index}" for index in range(32)]
    assert "is empty" in table[20]["error"] and "NUL" in table[21]["error"]
    assert table[20]["label"] is table[21]["scores"] is None
    with LocalClient(classification_bundle, engine=ONE_THREAD) as client:
        for text, row in zip(texts, table, strict=True):
            if row["error"] is None:
                alone = client.classify(text)
                assert (row["label"], row["windows"]) == (alone.label, alone.windows)
                assert row["tokens"] == alone.tokens and row["score"] == pytest.approx(alone.score, abs=1e-5)
                assert [entry["label"] for entry in row["scores"]] == list(alone.scores)
    assert any(row["windows"] > 1 for row in table if row["windows"])
    assert summary.tokens == sum(row["tokens"] or 0 for row in table)
    assert not (tmp_path / "out.parquet.parts").exists()


def test_questions_are_answered(
    qa_bundle: Path, documents: list[str], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    settings = BatchSettings(task=Task.QUESTION_ANSWERING, question="question", options={"top_k": 2})
    content = [{"question": "who jumps", "text": text} for text in documents[:6]]
    source = write_rows([*content, {"question": "", "text": "fox"}], ".parquet")
    run_batch(
        source, tmp_path / "out.parquet", settings, BundleScorer(qa_bundle, settings, engine=ONE_THREAD)
    )
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    with LocalClient(qa_bundle, engine=ONE_THREAD) as client:
        for row, given in zip(table[:-1], content, strict=True):
            answers = client.answer(given["question"], given["text"], top_k=2)
            assert [entry["answer"] for entry in row["answers"]] == [answer.answer for answer in answers]
            assert given["text"][row["start"] : row["end"]] == row["answer"] == answers[0].answer
    assert "question is empty" in table[-1]["error"]


def test_a_batch_of_columns(scorer: BundleScorer) -> None:
    texts = np.array(["the fox", "", "silver lanterns " * 30], dtype=object)
    columns = scorer({"text": texts, "id": np.arange(3)})
    assert set(columns) == {"id", "label", "score", "scores", "tokens", "windows", "error"}
    assert [label is None for label in columns["label"]] == [False, True, False]
    assert columns["error"][0] is None and "empty" in columns["error"][1]


def test_what_fails_goes_on_where_it_stopped(
    documents: list[str], write_rows: Callable[..., Path], tmp_path: Path, settings: BatchSettings
) -> None:
    source, output = write_rows(rows_of(documents), ".jsonl"), tmp_path / "out.parquet"
    first = FakeScorer(batches=3)
    with pytest.raises(EngineError, match="out of luck"):
        run_batch(source, output, settings, first)
    assert not output.exists()
    (output.with_name("out.parquet.parts") / "part-00000001.parquet").write_bytes(b"damaged")
    second = FakeScorer()
    summary = run_batch(source, output, settings, second)
    assert summary.scored == 60 - 14 and second.seen == documents[7:14] + documents[21:]
    assert pq.read_table(output).column("label").to_pylist() == documents
    third = FakeScorer()
    assert run_batch(source, output, settings, third).scored == 0 and not third.seen


def test_another_run_is_not_mixed_in(
    documents: list[str], write_rows: Callable[..., Path], tmp_path: Path, settings: BatchSettings
) -> None:
    source, output = write_rows(rows_of(documents), ".jsonl"), tmp_path / "out.parquet"
    with pytest.raises(EngineError):
        run_batch(source, output, settings, FakeScorer(batches=1))
    other = FakeScorer()
    other.described = {"model": "other"}
    with pytest.raises(InvalidInput, match="part of another run: model differ"):
        run_batch(source, output, settings, other)
    run_batch(source, output, settings, FakeScorer())
    with pytest.raises(OutputExists, match="not the result of this run"):
        run_batch(source, output, settings, other)
    assert not output.with_name("out.parquet.parts").exists()
    assert run_batch(source, output, settings, other, overwrite=True).scored == 60
    source.write_text(source.read_text().replace("fox", "wolf"), encoding="utf-8")
    with pytest.raises(OutputExists):
        run_batch(source, output, settings, other)


def test_a_foreign_file_is_not_overwritten(
    documents: list[str], write_rows: Callable[..., Path], tmp_path: Path, settings: BatchSettings
) -> None:
    source, output = write_rows(rows_of(documents), ".jsonl"), tmp_path / "out.parquet"
    output.write_text("precious")
    with pytest.raises(OutputExists, match="no Parquet file"):
        run_batch(source, output, settings, FakeScorer())
    assert output.read_text() == "precious"
    for wrong, cause in (
        (tmp_path / "out.csv", "give a .parquet file"),
        (tmp_path / "no/out.parquet", "make it"),
    ):
        with pytest.raises(InvalidInput, match=cause):
            run_batch(source, wrong, settings, FakeScorer())


def test_the_input_is_not_overwritten(
    documents: list[str], write_rows: Callable[..., Path], settings: BatchSettings
) -> None:
    source = write_rows(rows_of(documents), ".parquet")
    before = source.read_bytes()
    with pytest.raises(InvalidInput, match="is the input, too"):
        run_batch(source, source, settings, FakeScorer(), overwrite=True)
    assert source.read_bytes() == before


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_no_rows_make_no_rows(tmp_path: Path, settings: BatchSettings, suffix: str) -> None:
    source = tmp_path / f"in{suffix}"
    source.touch()
    if suffix == ".parquet":
        pq.write_table(pa.table({"id": pa.array([], pa.int32()), "text": pa.array([], pa.string())}), source)
    assert run_batch(source, tmp_path / "out.parquet", settings, FakeScorer()).rows == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.num_rows == 0 and table.column_names[:3] == ["row", "id", "label"]


def test_kept_columns_keep_their_types(tmp_path: Path) -> None:
    kept = pa.table(
        {
            "when": pa.array([1, 2], pa.timestamp("us")),
            "tags": pa.array([["a"], None], pa.list_(pa.string())),
            "kind": pa.array(["x", "y"]).dictionary_encode(),
        }
    )
    pq.write_table(kept.append_column("text", pa.array(["one", "two"])), tmp_path / "in.parquet")
    settings = BatchSettings(
        task=Task.TEXT_CLASSIFICATION, keep=("when", "tags", "kind"), options={"top_k": 1}, chunk_rows=1
    )
    run_batch(tmp_path / "in.parquet", tmp_path / "out.parquet", settings, FakeScorer())
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(["when", "tags", "kind"]).to_pylist() == kept.to_pylist()
    assert found.schema.field("when").type == pa.timestamp("us")


def test_two_processes_do_not_write_one_output(
    documents: list[str], write_rows: Callable[..., Path], tmp_path: Path, settings: BatchSettings
) -> None:
    source, output = write_rows(rows_of(documents), ".jsonl"), tmp_path / "out.parquet"

    class Meanwhile(FakeScorer):
        def score(self, prepared: PreparedRows) -> list[Outcome]:
            with pytest.raises(InvalidInput, match="another process is writing"):
                run_batch(source, output, settings, FakeScorer())
            return super().score(prepared)

    assert run_batch(source, output, settings, Meanwhile()).scored == 60


@pytest.fixture
def many(documents: list[str], write_rows: Callable[..., Path]) -> Iterator[Path]:
    yield write_rows(rows_of(documents * 10), ".jsonl")


def test_a_killed_run_goes_on(
    classification_bundle: Path, documents: list[str], many: Path, tmp_path: Path
) -> None:
    """`kill -9` at three moments, the last within the run; then one run to the end."""
    output = tmp_path / "out.parquet"
    command = [str(Path(sys.executable).parent / "longserve"), "batch", str(many), str(output)]
    command += ["--bundle", str(classification_bundle), "--keep", "id", "--chunk-rows", "10", "--json"]
    command += ["--threads", "1"]
    parts = output.with_name("out.parquet.parts")
    for wanted in (1, 12, 25):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while len(list(parts.glob("part-*.parquet"))) < wanted and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL and not output.exists()
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    summary = json.loads(finished.stdout)
    assert summary["rows"] == 600 and 0 < summary["scored"] <= 600 - 250
    assert "documents were done before" in finished.stderr
    table = pq.read_table(output).to_pylist()
    assert [row["id"] for row in table] == [f"d{index % 600}" for index in range(600)]
    assert [row["row"] for row in table] == list(range(600))
    assert all(row["error"] is None for row in table)
    for first, again in zip(table[:60], table[540:], strict=True):
        assert first["label"] == again["label"] and first["score"] == pytest.approx(again["score"], abs=1e-5)
