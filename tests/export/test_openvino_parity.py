"""OpenVINO against the stock PyTorch model, as `longserve validate --engine openvino` compares them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from openvino_support import BF16, FP32, require_bf16, require_openvino

from longserve.export import TOLERANCES, ParityFailed
from longserve.export.checkpoint import load_checkpoint
from longserve.export.parity import BF16_INFERENCE, ParityReport, check_parity
from longserve.serving import (
    Bundle,
    EngineError,
    EngineSettings,
    InferencePrecision,
    Layout,
    Precision,
    open_engine,
)
from longserve.serving.command import cli
from longserve.serving.runtime.engine import Engine

require_openvino()
LENGTHS = (1, 2, 15, 16, 17, 33, 64, 101, 512)


def compare(request: pytest.FixtureRequest, kind: str, settings: EngineSettings) -> ParityReport:
    """Compare a test bundle in both layouts with its checkpoint."""
    checkpoint: Path = request.getfixturevalue(f"{kind}_checkpoint")
    bundle = Bundle.open(request.getfixturevalue(f"{kind}_bundle"))
    return check_parity(
        load_checkpoint(str(checkpoint), bundle.manifest.task).model,
        {layout: open_engine(bundle.model_path(layout), settings) for layout in Layout},
        bundle.manifest,
        lengths=LENGTHS,
        inference_precision=settings.inference_precision or InferencePrecision.FP32,
    )


@pytest.mark.parametrize("kind", ["classification", "qa"])
def test_fp32_passes_the_tolerance_of_fp32(request: pytest.FixtureRequest, kind: str) -> None:
    report = compare(request, kind, FP32)
    report.raise_if_failed()
    assert {result.layout for result in report.results} == {"padded", "packed"}
    assert report.tolerance == TOLERANCES[Precision.FP32]
    assert report.runs_on == "openvino CPU fp32"
    assert 0 < report.worst.max_relative <= 1e-5
    assert report.summary().argmax_agreement == 1.0


@pytest.mark.parametrize("kind", ["classification", "qa"])
def test_bf16_passes_its_own_tolerance_and_not_that_of_fp32(
    request: pytest.FixtureRequest, kind: str
) -> None:
    require_bf16()
    report = compare(request, kind, BF16)
    report.raise_if_failed()
    assert report.tolerance == BF16_INFERENCE
    assert report.runs_on == "openvino CPU bf16"
    assert report.worst.max_relative > 100 * TOLERANCES[Precision.FP32].max_relative, "else it ran in fp32"
    assert json.loads(report.to_json())["inference_precision"] == "bf16"
    with pytest.raises(ParityFailed, match="on openvino CPU bf16"):
        replace(report, tolerance=TOLERANCES[Precision.FP32]).raise_if_failed()


class Scaled:
    """An engine whose results are a quarter too large."""

    runs_on = "scaled"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
        return {name: value * np.float32(1.25) for name, value in self._engine.run(feeds).items()}


def test_the_tolerance_of_bf16_still_sees_a_wrong_result(qa_bundle: Path, qa_checkpoint: Path) -> None:
    bundle = Bundle.open(qa_bundle)
    report = check_parity(
        load_checkpoint(str(qa_checkpoint), bundle.manifest.task).model,
        {Layout.PACKED: Scaled(open_engine(bundle.model_path(Layout.PACKED), FP32))},
        bundle.manifest,
        lengths=(5, 40),
        inference_precision=InferencePrecision.BF16,
    )
    assert report.tolerance == BF16_INFERENCE
    with pytest.raises(ParityFailed, match=r"allowed 0\.1"):
        report.raise_if_failed()


def test_the_wider_of_two_tolerances_counts(qa_bundle: Path, qa_checkpoint: Path) -> None:
    """An int8 bundle that is computed in bf16 may differ by what either may."""
    bundle = Bundle.open(qa_bundle)
    report = check_parity(
        load_checkpoint(str(qa_checkpoint), bundle.manifest.task).model,
        {Layout.PACKED: open_engine(bundle.model_path(Layout.PACKED), FP32)},
        replace(bundle.manifest, precision=Precision.INT8),
        lengths=(5,),
        inference_precision=InferencePrecision.BF16,
    )
    own = TOLERANCES[Precision.INT8]
    assert report.tolerance.max_relative == max(own.max_relative, BF16_INFERENCE.max_relative)
    assert report.tolerance.min_cosine == min(own.min_cosine, BF16_INFERENCE.min_cosine)


def test_the_command_says_what_it_ran_on(
    classification_bundle: Path, classification_checkpoint: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "the quick brown fox jumps over the lazy dog"}\n', encoding="utf-8")
    command = [
        "validate",
        str(classification_bundle),
        "--reference",
        str(classification_checkpoint),
        "--json",
    ]
    result = CliRunner().invoke(cli, [*command, "--engine", "openvino", "--texts", str(texts)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["runs_on"] == "openvino CPU fp32"
    assert report["summary"]["max_relative"] <= 1e-5
    assert report["texts"]["same"] == 1


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--inference-precision", "bf16"], "onnxruntime computes in the precision of the graph"),
        (["--engine", "openvino", "--provider", "CUDAExecutionProvider"], "which is one of ONNX Runtime's"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    classification_bundle: Path, options: list[str], cause: str
) -> None:
    command = ["validate", str(classification_bundle), "--reference", "nowhere", *options]
    result = CliRunner().invoke(cli, command)
    assert isinstance(result.exception, EngineError)
    assert cause in str(result.exception)
