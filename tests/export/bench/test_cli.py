"""`longserve bench` on a bundle and its checkpoint."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from longserve.export.bench.cli import bench_command
from longserve.export.bench.engines import TORCH_NEEDS
from longserve.export.bench.errors import BenchError
from longserve.serving.server.cpu import cpu_flags

ENGINES = "torch,rewrite,onnxruntime,products"
REFUSED = [
    f"products {precision} torch"
    for precision, needed in TORCH_NEEDS.items()
    if cpu_flags() and not cpu_flags() & set(needed)
]
"""What `longserve bench` does not measure on this CPU."""


@pytest.fixture(scope="module")
def made(
    classification_bundle: Path, classification_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, dict[str, Any], Path]:
    """One run: what it printed, its JSON, and the directory of plots."""
    room = tmp_path_factory.mktemp("bench")
    options = ["--lengths", "40,130", "--rounds", "2", "--layouts", "packed", "--engines", ENGINES]
    options += [
        "--reference",
        str(classification_checkpoint),
        "--threads",
        "1",
        "--json",
        str(room / "r.json"),
    ]
    options += ["--plots", str(room / "plots"), "--plot-format", "svg"]
    result = CliRunner().invoke(bench_command, [str(classification_bundle), *options], catch_exceptions=False)
    assert result.exit_code == 0
    return result, json.loads((room / "r.json").read_text(encoding="utf-8")), room / "plots"


def test_the_report_holds_every_engine_at_every_length(made: tuple[Result, dict[str, Any], Path]) -> None:
    _, report, _ = made
    engines = [record["spec"]["name"] for record in report["engines"]]
    assert report["baseline"] == engines[0] == "torch eager fp32"
    assert {(r["engine"], r["length"]) for r in report["results"]} == {
        (engine, length) for engine in engines for length in (40, 130)
    }
    for result in report["results"]:
        if result["engine"] in REFUSED:
            assert "this CPU has none of" in result["error"]
            continue
        assert result["error"] is None
        assert len(result["rounds"]) == 2 and len(result["warmup"]) == 2
        assert 0 < result["seconds"]["p10"] <= result["seconds"]["median"] <= result["seconds"]["p90"]
        assert result["ratio"]["median"] > 0
    assert report["machine"]["cores"] > 0 and report["versions"]["onnxruntime"] and report["date"]


def test_the_engines_gave_the_same_logits(made: tuple[Result, dict[str, Any], Path]) -> None:
    _, report, _ = made
    differences = {r["engine"]: r["difference"] for r in report["results"] if r["length"] == 130}
    assert differences["torch eager fp32"] == 0
    assert differences["rewrite fp32 packed"] < 1e-5 and differences["onnxruntime fp32 packed"] < 1e-5
    assert differences["products fp32 onnxruntime"] is None


def test_an_engine_without_pytorch_has_no_pytorch_in_its_memory(
    made: tuple[Result, dict[str, Any], Path],
) -> None:
    peak = {record["spec"]["name"]: record["peak_bytes"] for record in made[1]["engines"]}
    assert peak["onnxruntime fp32 packed"] < 0.5 * peak["torch eager fp32"]


def test_the_tables_show_times_ratios_and_memory(made: tuple[Result, dict[str, Any], Path]) -> None:
    text = made[0].stdout
    assert "1 x 40 tokens, 1 global" in text and "1 x 130 tokens, 1 global" in text
    assert "times faster than torch eager fp32" in text and "peak MB" in text
    assert text.count("onnxruntime fp32 packed") == 3 and ("failed" in text) == bool(REFUSED)


def test_plots_are_written(made: tuple[Result, dict[str, Any], Path]) -> None:
    plots = sorted(made[2].iterdir())
    assert [plot.name for plot in plots] == ["latency-batch-1.svg", "memory.svg", "ratio-batch-1.svg"]
    for plot in plots:
        assert ElementTree.parse(plot).getroot().tag.endswith("svg")


def test_json_on_standard_output_is_json_alone_and_failures_are_in_it(classification_bundle: Path) -> None:
    options = ["--engines", "onnxruntime", "--layouts", "padded", "--lengths", "20", "--rounds", "1"]
    result = CliRunner().invoke(
        bench_command, [str(classification_bundle), *options, "--json", "-"], catch_exceptions=False
    )
    report = json.loads(result.stdout)
    assert report["format"] == "longserve-bench 1"
    assert report["baseline"] == "onnxruntime fp32 padded"


def test_a_checkpoint_that_is_not_there_is_the_rows_reason(
    classification_bundle: Path, tmp_path: Path
) -> None:
    options = ["--engines", "torch,onnxruntime", "--layouts", "packed", "--lengths", "20", "--rounds", "1"]
    options += ["--reference", str(tmp_path / "nothing"), "--json", "-"]
    result = CliRunner().invoke(bench_command, [str(classification_bundle), *options], catch_exceptions=False)
    failed, measured = json.loads(result.stdout)["results"]
    assert failed["error"].startswith("CheckpointNotFound: there is no directory")
    assert failed["seconds"] is None and measured["seconds"] is not None and measured["ratio"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engines", "tensorflow"], "'tensorflow' is none of torch"),
        (["--layouts", "ragged"], "'ragged' is none of padded, packed"),
        (["--lengths", "128,many"], "'many' is no positive integer"),
        (["--rounds", "0"], "0 is not in the range"),
        ([], "Missing argument 'BUNDLES...'"),
    ],
)
def test_wrong_usage_is_refused(options: list[str], message: str) -> None:
    result = CliRunner().invoke(bench_command, [*options, *(["bundle"] if options else [])])
    assert result.exit_code == 2 and message in result.stderr


def test_plots_without_matplotlib_are_refused_before_anything_runs(
    classification_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BenchError, match=r"install 'longserve\[bench\]'"):
        CliRunner().invoke(
            bench_command,
            [str(classification_bundle), "--plots", str(tmp_path / "plots")],
            catch_exceptions=False,
        )
    assert not (tmp_path / "plots").exists()
