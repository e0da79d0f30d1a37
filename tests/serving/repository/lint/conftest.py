"""Repositories that `longserve repo` built, to be spoiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from longserve.serving import Task
from longserve.serving.repository import Backend, RepositoryOptions, build_repository
from longserve.serving.repository.config import parse_config, render_config
from longserve.serving.repository.lint import Finding, Severity, Target, lint_repository

from ..conftest import make_bundle as make_bundle

NAME = "letters"
ENCODER = f"{NAME}_encoder"


@dataclass(frozen=True)
class Repository:
    """A repository on disk."""

    path: Path

    def edit(self, model: str, change: Callable[[Any], Any]) -> None:
        """Change a model's configuration as a message."""
        file = self.path / model / "config.pbtxt"
        config = parse_config(file.read_text(encoding="utf-8"), str(file))
        change(config)
        file.write_text(render_config(config), encoding="utf-8")

    def lint(self, server: Target = Target.CONTAINER, cores: int = 4) -> list[Finding]:
        """What the linter finds; this machine's Triton and cores play no part by default."""
        return lint_repository(self.path, server=server, cores=cores)

    def the_only(self, rule: str, **choices: Any) -> Finding:
        """The one finding there is, which must be of that rule."""
        findings = self.lint(**choices)
        assert [finding.rule for finding in findings] == [rule], findings
        finding = findings[0]
        assert finding.found and finding.fix and finding.severity in Severity
        return finding


@pytest.fixture
def build(make_bundle: Callable[..., Path], tmp_path: Path) -> Callable[..., Repository]:
    """Return a function that builds the models of a task for a backend."""

    def make(
        task: Task = Task.TEXT_CLASSIFICATION, backend: Backend = Backend.PYTHON, **options: Any
    ) -> Repository:
        changes = {
            key: options.pop(key) for key in ("parity", "precision", "type_vocab_size") if key in options
        }
        name = options.pop("name", NAME)
        bundle = make_bundle(f"bundle-{name}", task, **changes)
        build_repository(bundle, name, tmp_path / "repository", RepositoryOptions(backend=backend, **options))
        return Repository(tmp_path / "repository")

    return make


def parameter(name: str, value: str | None) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        if value is None:
            del config.parameters[name]
        else:
            config.parameters[name].string_value = value

    return change


def put(path: str, value: Any) -> Callable[[Any], None]:
    """Set the field that a dotted path names."""

    def change(config: Any) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            config = getattr(config, parent)
        setattr(config, last, value)

    return change


def drop(field: str) -> Callable[[Any], None]:
    return lambda config: config.ClearField(field)


def of(sample: int, tensor: str, change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda config: change(config.model_warmup[sample].inputs[tensor])
