"""Files are cut into chunks that together are the file, readable in any order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from longserve.serving import InvalidInput, Task
from longserve.serving.batch import BatchSettings
from longserve.serving.batch.sources import BadRow, open_source


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@given(total=st.integers(0, 50), rows=st.integers(1, 20), group=st.integers(1, 20), data=st.data())
@hypothesis_settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_chunks_are_the_file_in_any_order(
    write_rows: Callable[..., Path], suffix: str, total: int, rows: int, group: int, data: st.DataObject
) -> None:
    settings = BatchSettings(task=Task.TEXT_CLASSIFICATION, keep=("id",), chunk_rows=rows)
    content = [{"id": f"d{index}", "text": f"text {index}"} for index in range(total)]
    if suffix == ".parquet" and not content:
        return
    source = open_source(write_rows(content, suffix, group), settings)
    chunks = source.chunks()
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert all(1 <= chunk.rows <= rows for chunk in chunks)
    found = {}
    for chunk in data.draw(st.permutations(chunks)):
        read = source.read(chunk)
        kept = read.kept.column("id").to_pylist()
        for offset, (texts, name) in enumerate(zip(read.inputs, kept, strict=True)):
            assert chunk.first + offset not in found
            found[chunk.first + offset] = (name, texts)
    assert [found[index] for index in range(total)] == [(row["id"], (row["text"],)) for row in content]


def test_long_rows_make_small_chunks(
    write_rows: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longserve.serving.batch.sources._CHUNK_BYTES", 5000)
    settings = BatchSettings(task=Task.TEXT_CLASSIFICATION, chunk_rows=100)
    rows = [{"text": f"{index} " * 400} for index in range(20)]
    for suffix in (".parquet", ".jsonl"):
        chunks = open_source(write_rows(rows, suffix), settings).chunks()
        assert len(chunks) > 1 and sum(chunk.rows for chunk in chunks) == 20, suffix


def test_bad_lines_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(
        b'{"id": 1, "text": "good"}\n'
        b"{broken\n"
        b"\n"
        b'["a", "list"]\n'
        b'{"id": {"nested": true}, "body": "elsewhere"}\n'
        b'{"text": 5}\n'
        b'{"text": null}\n'
        b"\xff\xfe\n"
        b'{"text": "last, without an end of line"}'
    )
    settings = BatchSettings(task=Task.TEXT_CLASSIFICATION, keep=("id",))
    source = open_source(path, settings)
    (chunk,) = source.chunks()
    read = source.read(chunk)
    causes = ["not JSON", "a list", "no field 'text'", "of type int", "is null", "not JSON"]
    assert read.inputs[0] == ("good",) and read.inputs[-1] == ("last, without an end of line",)
    for row, cause in zip(read.inputs[1:-1], causes, strict=True):
        assert isinstance(row, BadRow) and cause in row.error
    assert read.kept.column("id").to_pylist() == ["1", None, None, '{"nested": true}', None, None, None, None]


def test_a_kept_value_that_is_no_text_fails_its_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(
        b'{"id": "\\ud800", "text": "a"}\n'
        b'{"id": ["\\udfff"], "text": "b"}\n'
        b'{"id": "\\ud83d\\ude00", "text": "c"}\n'
    )
    source = open_source(path, BatchSettings(task=Task.TEXT_CLASSIFICATION, keep=("id",)))
    read = source.read(source.chunks()[0])
    for row in read.inputs[:2]:
        assert isinstance(row, BadRow) and "'id' has an unpaired surrogate" in row.error
    assert read.inputs[2] == ("c",)
    assert read.kept.column("id").to_pylist() == [None, None, "😀"]


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_text_in_parquet_that_is_not_utf8_fails_its_row_alone(tmp_path: Path, dictionary: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.array([b"good", b"ab\xff", None, b"good too"], pa.binary()).view(pa.string())
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": texts.dictionary_encode() if dictionary else texts}), path)
    source = open_source(path, BatchSettings(task=Task.TEXT_CLASSIFICATION))
    good, bad, null, other = source.read(source.chunks()[0]).inputs
    assert (good, other) == (("good",), ("good too",))
    assert isinstance(bad, BadRow) and "'text' is not UTF-8: invalid start byte at byte 2" in bad.error
    assert isinstance(null, BadRow) and "is null" in null.error


@pytest.mark.parametrize("twice", ["text", "id"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, twice: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["text", "id", twice]
    path = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, names=names), path)
    with pytest.raises(InvalidInput, match=f"has 2 columns called '{twice}'; rename"):
        open_source(path, BatchSettings(task=Task.TEXT_CLASSIFICATION, keep=("id",)))


@pytest.mark.parametrize("chunk_rows", [1, 100])
def test_a_field_that_no_row_has_is_refused(write_rows: Callable[..., Path], chunk_rows: int) -> None:
    path = write_rows([{"id": "1"}, {"id": "2", "text": "a"}], ".jsonl")
    task = Task.TEXT_CLASSIFICATION
    open_source(path, BatchSettings(task=task, keep=("id",), chunk_rows=chunk_rows)).chunks()
    for wrong in ({"text": "body"}, {"keep": ("body",)}):
        settings = BatchSettings(task=task, chunk_rows=chunk_rows, **wrong)  # type: ignore[arg-type]
        with pytest.raises(
            InvalidInput, match=r"first 2 rows of .*in\.jsonl has a field 'body'; they have 'id', 'text'"
        ):
            open_source(path, settings).chunks()


def test_a_question_is_a_column_or_one_for_all(write_rows: Callable[..., Path]) -> None:
    path = write_rows([{"question": "q?", "text": "c"}], ".jsonl")
    for settings in (
        BatchSettings(task=Task.QUESTION_ANSWERING, question="question"),
        BatchSettings(task=Task.QUESTION_ANSWERING, asked="q?"),
    ):
        source = open_source(path, settings)
        assert source.read(source.chunks()[0]).inputs == [("q?", "c")]


def test_what_cannot_be_read_is_refused(write_rows: Callable[..., Path], tmp_path: Path) -> None:
    settings = BatchSettings(task=Task.TEXT_CLASSIFICATION)
    numbers = write_rows([{"text": 1, "body": "b"}], ".parquet")
    with pytest.raises(InvalidInput, match=r"'text' of .* holds int64, not strings"):
        open_source(numbers, settings)
    with pytest.raises(InvalidInput, match="no column 'content'; it has text, body"):
        open_source(numbers, BatchSettings(task=Task.TEXT_CLASSIFICATION, text="content"))
    (tmp_path / "wrong.parquet").write_text("no")
    with pytest.raises(InvalidInput, match="no Parquet file"):
        open_source(tmp_path / "wrong.parquet", settings)
    (tmp_path / "in.csv").write_text("no")
    with pytest.raises(InvalidInput, match=r"ends with \.csv"):
        open_source(tmp_path / "in.csv", settings)
    with pytest.raises(InvalidInput, match="there is no file"):
        open_source(tmp_path / "missing.jsonl", settings)


@pytest.mark.parametrize(
    ("task", "given", "cause"),
    [
        (Task.TEXT_CLASSIFICATION, {"asked": "why?"}, "asked no question"),
        (Task.QUESTION_ANSWERING, {}, "either a column"),
        (Task.QUESTION_ANSWERING, {"asked": "a", "question": "b"}, "either a column"),
        (Task.TEXT_CLASSIFICATION, {"keep": ("label",)}, "label cannot be kept"),
        (Task.TEXT_CLASSIFICATION, {"keep": ("a", "a")}, "kept twice"),
        (Task.TEXT_CLASSIFICATION, {"chunk_rows": 0}, "1 or more"),
        (Task.TEXT_CLASSIFICATION, {"options": {"max_answer_tokens": 3}}, "unknown parameter"),
        (Task.TEXT_CLASSIFICATION, {"options": {"window_results": True}}, "does not fit a table"),
    ],
)
def test_settings_that_do_not_go_together(task: Task, given: dict[str, object], cause: str) -> None:
    with pytest.raises(InvalidInput, match=cause):
        BatchSettings(task=task, **given)  # type: ignore[arg-type]
