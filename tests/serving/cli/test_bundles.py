"""`longserve inspect`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from longserve.serving import Bundle, CorruptBundle
from longserve.serving.cli.bundles import inspect_command


def inspect(*arguments: str | Path) -> Result:
    return CliRunner().invoke(inspect_command, [str(argument) for argument in arguments], terminal_width=200)


def test_the_table_says_what_the_bundle_is(classification_bundle: Path) -> None:
    bundle = Bundle.open(classification_bundle)
    output = inspect(classification_bundle).output
    for expected in ("text-classification", "512 tokens", "alpha, beta", "16, 32 (2 layers)", "fp32"):
        assert expected in output
    for record in bundle.manifest.files:
        assert record.name in output
    assert "NOT VALIDATED" not in output


def test_a_directory_may_be_called_like_markup(classification_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "x[" / "y]"
    copy.parent.mkdir()
    shutil.copytree(classification_bundle, copy)
    result = inspect(copy)
    assert result.exit_code == 0 and "x[/y]" in result.output.replace("\n", "")


def test_json_is_the_manifest(qa_bundle: Path) -> None:
    bundle = Bundle.open(qa_bundle)
    report = json.loads(inspect(qa_bundle, "--json").output)
    assert report["fingerprint"] == bundle.fingerprint
    assert report["manifest"] == json.loads(bundle.manifest.to_json())


def test_a_changed_byte_is_found_unless_told_not_to_look(classification_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(classification_bundle, copy)
    data = bytearray((copy / "model.onnx.data").read_bytes())
    data[0] ^= 1
    (copy / "model.onnx.data").write_bytes(bytes(data))
    result = inspect(copy)
    assert isinstance(result.exception, CorruptBundle)
    assert "model.onnx.data" in str(result.exception)
    assert inspect(copy, "--no-verify").exit_code == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"parity": None}, "NOT VALIDATED"), ({"fused_attention": True}, "one operator")],
    ids=["unvalidated", "fused"],
)
def test_what_is_special_about_a_bundle_is_said(
    classification_bundle: Path, tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(classification_bundle, copy)
    assert said not in inspect(copy).output
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, **changed}))
    assert said in inspect(copy).output


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_what_is_no_bundle_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    assert "longserve export" in str(inspect(tmp_path / name).exception)
