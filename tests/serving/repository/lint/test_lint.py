"""Repositories as a whole: built right, empty, or beside what is not ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from longserve.serving import Task
from longserve.serving.repository import Backend
from longserve.serving.repository.lint import Severity, Target, lint_repository
from longserve.serving.runtime.engine_settings import EngineName

from .conftest import ENCODER, NAME, Repository, drop

Build = Callable[..., Repository]
CLASSIFY = Task.TEXT_CLASSIFICATION
ASK = Task.QUESTION_ANSWERING


@pytest.mark.parametrize("portable", [False, True], ids=["", "portable"])
@pytest.mark.parametrize("token_types", [1, 2])
@pytest.mark.parametrize("engine", [EngineName.ONNXRUNTIME, EngineName.OPENVINO])
@pytest.mark.parametrize("backend", [Backend.PYTHON, Backend.ONNXRUNTIME])
@pytest.mark.parametrize("task", list(Task))
def test_what_was_just_built_is_clean(
    build: Build, task: Task, backend: Backend, engine: EngineName, token_types: int, portable: bool
) -> None:
    repository = build(task, backend, engine=engine, type_vocab_size=token_types, portable=portable)
    assert repository.lint(cores=1) == []


def test_both_demo_models_together_are_clean(build: Build) -> None:
    build(ASK, name="questions")
    repository = build(CLASSIFY)
    assert len(list(repository.path.iterdir())) == 4
    assert repository.lint() == []


def test_what_is_not_ours_is_left_alone(build: Build) -> None:
    repository = build()
    (repository.path / "theirs").mkdir()
    (repository.path / "theirs" / "config.pbtxt").write_text('name: "theirs" backend: "dali"')
    assert repository.the_only("not-ours").severity is Severity.NOTE
    (repository.path / ".longserve-x1").mkdir()
    found = [(finding.rule, finding.severity) for finding in repository.lint()]
    assert found == [("left-over", Severity.ERROR), ("not-ours", Severity.NOTE)]


def test_repositories_that_hold_nothing(tmp_path: Path) -> None:
    for path, rule in ((tmp_path, "no-models"), (tmp_path / "nowhere", "no-repository")):
        (finding,) = lint_repository(path, server=Target.CONTAINER)
        assert finding.rule == rule and str(path) in finding.found


def test_a_bundle_is_not_taken_for_a_repository(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schema_version": "1.4"}', encoding="utf-8")
    (finding,) = lint_repository(tmp_path, server=Target.CONTAINER)
    assert "is a bundle" in finding.found
    assert f"`longserve repo {tmp_path} --name NAME -o model_repository`" in finding.fix


def test_errors_come_first(build: Build) -> None:
    repository = build()
    repository.edit(ENCODER, drop("model_warmup"))
    repository.edit(NAME, drop("dynamic_batching"))
    assert [finding.severity for finding in repository.lint()] == [Severity.ERROR, Severity.WARNING]
