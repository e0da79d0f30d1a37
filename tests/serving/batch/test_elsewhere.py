"""The same rows from a server, from Ray's workers, and from the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from triton_fixture import RunningServer

from longserve.serving import EngineSettings, ServerUnavailable
from longserve.serving.batch import BatchSettings, BundleScorer, ServerScorer, run_batch
from longserve.serving.batch.scorers import described_model
from longserve.serving.cli.batch import batch_command
from longserve.serving.runtime.bundle import Bundle


def labels(path: Path) -> list[tuple[Any, ...]]:
    return [
        (row["row"], row["id"], row["label"], row["tokens"], row["error"] is None)
        for row in pq.read_table(path).to_pylist()
    ]


@pytest.fixture
def source(documents: list[str], write_rows: Callable[..., Path]) -> Path:
    texts = [*documents[:20], ""]
    return write_rows([{"id": f"d{index}", "text": text} for index, text in enumerate(texts)], ".parquet")


@pytest.fixture
def local(source: Path, tmp_path: Path, settings: BatchSettings, classification_bundle: Path) -> Path:
    """The rows as this process scores them."""
    output = tmp_path / "local.parquet"
    run_batch(source, output, settings, BundleScorer(classification_bundle, settings))
    return output


def test_a_server_gives_the_same_rows(
    triton_server: RunningServer, source: Path, local: Path, tmp_path: Path, settings: BatchSettings
) -> None:
    with ServerScorer(triton_server.urls.grpc, settings) as scorer:
        summary = run_batch(source, tmp_path / "out.parquet", settings, scorer)
    assert (summary.rows, summary.errors) == (21, 1)
    assert labels(tmp_path / "out.parquet") == labels(local)


def test_an_absent_server_stops_the_run(source: Path, tmp_path: Path, settings: BatchSettings) -> None:
    with (
        ServerScorer("grpc://127.0.0.1:9", settings, timeout=0.5) as scorer,
        pytest.raises(ServerUnavailable),
    ):
        run_batch(source, tmp_path / "out.parquet", settings, scorer)
    assert not (tmp_path / "out.parquet").exists()


def test_ray_gives_the_same_rows(
    source: Path, local: Path, tmp_path: Path, settings: BatchSettings, classification_bundle: Path
) -> None:
    pytest.importorskip("ray", reason="needs the extra [ray]")
    from longserve.serving.batch import run_distributed
    from longserve.serving.batch.ray_engine import RayRun, ray_distributor

    engine = EngineSettings(threads=1)
    output = tmp_path / "out.parquet"
    run = RayRun(source=source, output=output, bundle=classification_bundle, settings=settings, engine=engine)
    model = described_model(Bundle.open(classification_bundle), engine)
    summary = run_distributed(source, output, settings, model, ray_distributor(run, workers=2))
    assert (summary.rows, summary.errors, summary.scored) == (21, 1, 21)
    assert labels(output) == labels(local)


def test_the_command(source: Path, local: Path, tmp_path: Path, classification_bundle: Path) -> None:
    arguments = [str(source), str(tmp_path / "out.parquet"), "--bundle", str(classification_bundle)]
    arguments += ["--task", "text-classification", "--keep", "id", "--top-k", "2", "--json"]
    result = CliRunner().invoke(batch_command, arguments, catch_exceptions=False)
    assert json.loads(result.stdout)["errors"] == 1
    assert labels(tmp_path / "out.parquet") == labels(local)
    assert len(pq.read_table(tmp_path / "out.parquet").column("scores")[0]) == 2
    anew = CliRunner().invoke(
        batch_command, [*arguments[:-1], "--overwrite", "--top-k", "1"], catch_exceptions=False
    )
    assert "21 rows; 20 scored now, 1 failed, " in anew.stdout
    arguments += ["--top-k", "1"]
    arguments.remove("--json")
    again = CliRunner().invoke(batch_command, arguments, catch_exceptions=False)
    assert "all done before" in again.stdout and "1 of 21 rows have no result" in again.stderr
    assert "row 20: the text is empty" in again.stderr


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ([], "either --bundle"),
        (["--bundle", "b", "--url", "u"], "either --bundle"),
        (["--url", "u"], "give --task"),
        (["--url", "u", "--engine", "ray"], "give --bundle"),
        (["--url", "u", "--threads", "2"], "--threads goes with --bundle only"),
        (["--bundle", "b", "--model", "m"], "--model goes with --url only"),
        (["--bundle", "b", "--workers", "2"], "--workers goes with --engine ray only"),
        (["--url", "u", "--task", "text-classification", "--max-answer-tokens", "2"], "is for question-answ"),
    ],
)
def test_options_that_do_not_go_together(source: Path, given: list[str], cause: str) -> None:
    with pytest.raises(click.UsageError, match=cause):
        CliRunner().invoke(
            batch_command, [str(source), "out.parquet", *given], catch_exceptions=False, standalone_mode=False
        )
