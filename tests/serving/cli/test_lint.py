"""`longserve lint` as a user runs it; what it finds is tested in tests/serving/repository/lint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from longserve.serving.repository import Backend, RepositoryOptions, build_repository

LONGSERVE = Path(sys.executable).parent / "longserve"


def lint(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LONGSERVE, "lint", *arguments], capture_output=True, text=True, timeout=120)


@pytest.fixture
def repository(classification_bundle: Path, tmp_path: Path) -> Path:
    build_repository(classification_bundle, "letters", tmp_path / "repository")
    return tmp_path / "repository"


def test_a_good_repository(repository: Path) -> None:
    result = lint(repository)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == f"{repository}: nothing found\n"
    assert json.loads(lint(repository, "--json").stdout) == {"findings": []}


def test_findings_name_the_place_and_the_fix(repository: Path) -> None:
    config = repository / "letters" / "config.pbtxt"
    config.write_text(config.read_text().replace('string_value: "128"', 'string_value: "0"'))
    result = lint(repository)
    assert result.returncode == 1
    finding, fix = result.stdout.splitlines()
    assert finding.startswith("error: letters/config.pbtxt: the parameter max_queue_size is '0'")
    assert finding.endswith("[no-queue-limit]") and fix.startswith("  fix: set it to a positive number")
    assert result.stderr == f"{repository}: 1 error\n"
    (document,) = json.loads(lint(repository, "--json").stdout)["findings"]
    assert set(document) == {"rule", "severity", "where", "found", "fix"}


def test_warnings_fail_only_if_asked(repository: Path) -> None:
    (repository / "letters" / "7").mkdir()
    for options, status in (((), 0), (("--strict",), 1)):
        result = lint(repository, *options)
        assert result.returncode == status
        assert result.stdout.startswith("warning: letters: the version 7 is there")
        assert "1 warning" in result.stderr


def test_the_server_decides_which_backends_there_are(classification_bundle: Path, tmp_path: Path) -> None:
    options = RepositoryOptions(backend=Backend.ONNXRUNTIME)
    build_repository(classification_bundle, "letters", tmp_path, options)
    result = lint(tmp_path)
    assert result.returncode == 1 and "[backend-missing]" in result.stdout
    assert lint(tmp_path, "--server", "container").returncode == 0


def test_no_repository(tmp_path: Path) -> None:
    result = lint(tmp_path / "nowhere")
    assert result.returncode == 1
    assert "nowhere is no directory" in result.stdout
