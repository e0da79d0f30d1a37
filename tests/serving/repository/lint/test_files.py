"""Files of a repository that are damaged, missing, changed or of another bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from longserve.serving import Task
from longserve.serving.repository import build_repository
from longserve.serving.repository.lint import Severity

from .conftest import ENCODER, NAME, Repository

Build = Callable[..., Repository]
CLASSIFY = Task.TEXT_CLASSIFICATION


@pytest.mark.parametrize(
    ("model", "file"),
    [(ENCODER, "model.onnx.data"), (ENCODER, "model.packed.onnx"), (NAME, "tokenizer.json")],
)
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_files(build: Build, model: str, file: str, damage: str) -> None:
    repository = build()
    path = repository.path / model / "1" / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[::-1])
    finding = repository.the_only("damaged-bundle")
    assert ("SHA-256" if damage == "changed" else "lacks the file") in finding.found
    assert file in finding.found and finding.where == f"{model}/1"


def test_a_manifest_that_is_none(build: Build) -> None:
    repository = build()
    (repository.path / ENCODER / "1" / "manifest.json").write_text("{}")
    assert "manifest.json" in repository.the_only("damaged-bundle").found


def test_an_unvalidated_bundle(build: Build) -> None:
    findings = build(parity=None).lint()
    assert [(f.rule, f.severity) for f in findings] == [("not-validated", Severity.WARNING)] * 2


def test_models_of_two_bundles(build: Build, make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    repository = build(portable=True)
    other = make_bundle("other", CLASSIFY, model_id="another")
    build_repository(other, NAME, tmp_path / "elsewhere")
    encoder = repository.path / ENCODER
    shutil.rmtree(encoder)
    shutil.copytree(tmp_path / "elsewhere" / ENCODER, encoder)
    finding = repository.the_only("two-bundles")
    assert finding.where == ENCODER and NAME in finding.found


@pytest.mark.parametrize("model", [ENCODER, NAME])
def test_code_that_is_missing_or_changed(build: Build, model: str) -> None:
    repository = build()
    version = repository.path / model / "1"
    with (version / "longserve_runtime" / "pipeline.py").open("a") as module:
        module.write("# mine\n")
    finding = repository.the_only("other-code")
    assert "pipeline.py" in finding.found and finding.severity is Severity.WARNING
    (version / "model.py").unlink()
    finding = repository.the_only("code-missing")
    assert "model.py" in finding.found and finding.severity is Severity.ERROR


def test_versions(build: Build) -> None:
    repository = build()
    (repository.path / NAME / "2").mkdir()
    assert "version 2" in repository.the_only("other-versions").found
    (repository.path / NAME / "2").rmdir()
    shutil.rmtree(repository.path / NAME / "1")
    rules = {finding.rule for finding in repository.lint()}
    assert {"no-version", "damaged-bundle", "code-missing"} == rules


@pytest.mark.parametrize("content", [b'name: "a" oops', b"\xff\xfe", None])
def test_configurations_that_cannot_be_read(build: Build, content: bytes | None) -> None:
    repository = build()
    directory = repository.path / "broken"
    directory.mkdir()
    if content is not None:
        (directory / "config.pbtxt").write_bytes(content)
    finding = repository.the_only("unreadable-config")
    assert finding.where == "broken/config.pbtxt"
