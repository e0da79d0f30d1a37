"""`longserve repo --engine`: the engine that is named, or the one that was measured fastest here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from openvino_support import require_openvino

from longserve.serving.cli.server import repo_command
from longserve.serving.repository.config import parse_config


def repo(bundle: Path, *options: str | Path) -> Result:
    return CliRunner().invoke(repo_command, [str(bundle), "--name", "x", *map(str, options)])


def test_repo_writes_the_engine_asked_for(classification_bundle: Path, tmp_path: Path) -> None:
    options = ("--engine", "openvino", "--inference-precision", "bf16")
    result = repo(classification_bundle, *options, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    config = parse_config((tmp_path / "x_encoder" / "config.pbtxt").read_text(), "test")
    assert config.parameters["engine"].string_value == "openvino"
    assert config.parameters["inference_precision"].string_value == "bf16"
    assert "engine_measured" not in config.parameters


def test_repo_measures_the_engines_and_takes_the_fastest(classification_bundle: Path, tmp_path: Path) -> None:
    require_openvino()
    options = ("--engine", "auto", "--threads", "1")
    result = repo(classification_bundle, *options, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [str(tmp_path / "x_encoder"), str(tmp_path / "x")]
    config = parse_config((tmp_path / "x_encoder" / "config.pbtxt").read_text(), "test")
    measured = json.loads(config.parameters["engine_measured"].string_value)
    assert set(measured["speedup"]) == {"onnxruntime fp32", "openvino fp32"}, "bf16 was not asked for"
    assert (measured["reference"], measured["threads"]) == ("onnxruntime fp32", 1)
    assert measured["speedup"]["onnxruntime fp32"] == 1 and len(measured["lengths"]) == 2
    chosen = f"{config.parameters['engine'].string_value} fp32"
    assert measured["speedup"][chosen] * 1.05 >= max(measured["speedup"].values())
    (row,) = [line for line in result.stderr.splitlines() if "chosen" in line]
    assert chosen in row
    assert (
        "engine_measured" not in parse_config((tmp_path / "x" / "config.pbtxt").read_text(), "t").parameters
    )


@pytest.mark.parametrize(
    ("options", "status", "cause"),
    [
        (("--backend", "openvino"), 1, "no ragged batching"),
        (("--inference-precision", "bf16"), 1, "onnxruntime computes in the precision of the graph"),
        (("--engine", "auto", "--backend", "onnxruntime"), 2, "engines of this environment"),
        (("--engine", "tensorflow"), 2, "tensorflow"),
    ],
)
def test_repo_refuses_engines_that_cannot_be(
    classification_bundle: Path, tmp_path: Path, options: tuple[str, ...], status: int, cause: str
) -> None:
    result = repo(classification_bundle, *options, "-o", tmp_path / "out")
    assert result.exit_code == status
    assert cause in (result.stderr or str(result.exception)) and not result.stdout
    assert not (tmp_path / "out").exists()
