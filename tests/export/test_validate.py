"""`longserve validate`: a bundle is compared with its checkpoint again, on cases and on texts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import make_checkpoint
from click.testing import CliRunner

from longserve.export import TOLERANCES, CaseResult, ExportError, ParityReport, validate_bundle
from longserve.export.cli import print_parity
from longserve.export.text_parity import read_texts, span_f1
from longserve.serving.command import cli
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import InferencePrecision
from longserve.serving.runtime.errors import BundleNotFound
from longserve.serving.runtime.manifest import Precision, Task


def test_validate_repeats_the_comparison(
    classification_bundle: Path, classification_checkpoint: Path
) -> None:
    bundle = Bundle.open(classification_bundle)
    texts = [{"text": "the quick brown fox " * count} for count in (1, 20, 300)]
    result = validate_bundle(bundle, str(classification_checkpoint), texts=texts)
    assert result.parity.failures == ()
    assert result.texts is not None
    assert (result.texts.texts, result.texts.same, result.texts.f1) == (3, 3, None)
    assert 0 <= result.texts.largest_score_difference <= 1e-5


def test_validate_compares_answers(qa_bundle: Path, qa_checkpoint: Path) -> None:
    texts = [{"question": "who counted the lanterns?", "context": "the miller of the valley " * 100}]
    result = validate_bundle(Bundle.open(qa_bundle), str(qa_checkpoint), texts=texts)
    assert result.texts is not None
    assert (result.texts.same, result.texts.f1) == (1, 1.0)
    assert result.texts.tokenized_otherwise == ()


def test_texts_that_the_checkpoints_tokenizer_reads_otherwise_are_named(
    classification_bundle: Path, classification_checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "texts.jsonl"
    lines = ["the quick fox", "", "one\u2028line\u0085", "the </s> fox", ""]
    path.write_text(
        "\n".join(json.dumps({"text": line}, ensure_ascii=False) if line else "" for line in lines)
    )
    command = ["validate", str(classification_bundle), "--reference", str(classification_checkpoint)]
    result = CliRunner().invoke(cli, [*command, "--texts", str(path)])
    assert result.exit_code == 0, result.output
    assert "texts: 3 of 3 predictions equal" in result.output
    assert "lines that the checkpoint's own tokenizer reads otherwise: 4\n" in result.output


def test_validate_refuses_another_checkpoint(qa_bundle: Path, tmp_path: Path) -> None:
    other = make_checkpoint(
        tmp_path / "other", "question-answering", attention_window=[32, 32], max_position_embeddings=514
    )
    with pytest.raises(ExportError, match="has attention_window"):
        validate_bundle(Bundle.open(qa_bundle), str(other))


def test_a_validation_that_fails_exits_1(
    longserve: Callable[..., tuple[object, str, str]], qa_bundle: Path, tmp_path: Path
) -> None:
    """Same shape, other weights: every figure is off, and the command says so."""
    other = make_checkpoint(tmp_path / "other", "question-answering", seed=99)
    status, printed, errors = longserve("validate", qa_bundle, "--reference", other, "--json")
    assert status == 1
    assert "cases differ from PyTorch" in errors
    assert json.loads(printed)["failures"]


def test_a_seed_below_zero_is_a_usage_error(
    longserve: Callable[..., tuple[object, str, str]], qa_bundle: Path
) -> None:
    status, _, errors = longserve("validate", qa_bundle, "--reference", "none", "--seed", "-1")
    assert status == 2 and "'--seed': -1 is not in the range x>=0" in errors


@pytest.mark.parametrize("precision", Precision)
def test_a_figure_within_the_tolerance_is_not_printed_as_one_beyond_it(
    capsys: pytest.CaptureFixture[str], precision: Precision
) -> None:
    tolerance = TOLERANCES[precision]
    case = CaseResult(
        case="8 tokens",
        layout="packed",
        scale=1.0,
        max_abs=tolerance.max_relative,
        max_relative=tolerance.max_relative,
        cosine=1.0,
        predictions=1,
        agreeing=1,
        finite=True,
    )
    report = ParityReport(
        runs_on="CPU",
        precision=precision,
        inference_precision=InferencePrecision.FP32,
        tolerance=tolerance,
        results=(case,),
    )
    print_parity(report)
    figure, allowed = re.findall(r"at (\S+), allowed (\S+)", capsys.readouterr().out)[0]
    assert float(figure) == float(allowed) == tolerance.max_relative


def test_spans_overlap() -> None:
    assert span_f1((3, 9), (3, 9)) == 1.0
    assert span_f1((0, 0), (0, 0)) == 1.0
    assert span_f1((0, 4), (4, 8)) == 0.0
    assert span_f1((0, 0), (4, 8)) == 0.0
    assert span_f1((0, 4), (2, 6)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no text"),
        ('{"text": "a"}\nnonsense', "line 2 .* is not JSON"),
        ('{"question": "a"}', 'line 1 .* has no text under "text"'),
        ('{"text": 3}', "line 1"),
    ],
)
def test_texts_that_cannot_be_read_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ExportError, match=message):
        read_texts(path, Task.TEXT_CLASSIFICATION)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["validate", "none", "--reference", "x"], "none is no bundle"),
        (["export", "x", "--task", "text-classification", "-o", "."], "exists and is no bundle"),
    ],
    ids=["validate", "export"],
)
def test_what_is_wrong_with_a_path_is_said_before_torch_is_loaded(
    tmp_path: Path, words: list[str], message: str
) -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); "
        "from longserve.serving.command import main; main()"
    )
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    finished = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert (finished.returncode, finished.stdout) == (1, "False\n")
    assert message in finished.stderr and "Traceback" not in finished.stderr
    with pytest.raises(BundleNotFound):
        Bundle.open(tmp_path / "none")
