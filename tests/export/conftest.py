"""Runs commands of `longserve` in this process, and makes checkpoints with something wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import TINY, make_checkpoint

from longserve.serving.command import main
from longserve.serving.runtime.manifest import Task

Ended = tuple[object, str, str]


@pytest.fixture
def longserve(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a command; return its exit status and what it printed to stdout and stderr.

    What the command does not expect is no exit status but the exception itself.
    """

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["longserve", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[Task, Path]:
    root = tmp_path_factory.mktemp("originals")
    return {
        Task.TEXT_CLASSIFICATION: make_checkpoint(
            root / "classifier", Task.TEXT_CLASSIFICATION.value, **TINY
        ),
        Task.QUESTION_ANSWERING: make_checkpoint(root / "asker", Task.QUESTION_ANSWERING.value, **TINY),
    }


@pytest.fixture
def variant(originals: dict[Task, Path], tmp_path: Path) -> Callable[..., Path]:
    """Copy a good checkpoint, with fields of its configuration replaced (`...` removes one)."""

    def make(task: Task = Task.TEXT_CLASSIFICATION, **fields: Any) -> Path:
        directory = tmp_path / "variant"
        shutil.copytree(originals[task], directory)
        path = directory / "config.json"
        config = {**json.loads(path.read_text()), **fields}
        path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
        return directory

    return make
