"""The files under `deploy/`, and the facts of the code that they must agree with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from longserve.serving.cli.ready import ready_command
from longserve.serving.cli.server import serve_command

__all__ = [
    "DEPLOY",
    "DOCKERFILE",
    "ROOT",
    "adapter_rules",
    "documents",
    "instructions",
    "parse_ready",
    "parse_serve",
    "seconds_to_stop",
]

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
_KILL = 5
"""Seconds from the end of --grace until the server kills what is left (serving/server/process.py)."""


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file, of whose mappings none may name a key twice."""
    return [document for document in yaml.load_all(path.read_text(encoding="utf-8"), _Strict) if document]


class _Strict(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value if key.tag[-5:] != "merge"]
        assert len(keys) == len(set(keys)), f"a key is there twice at line {node.start_mark.line + 1}"
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def adapter_rules() -> list[dict[str, Any]]:
    """The rules of prometheus-adapter."""
    (adapter,) = documents(DEPLOY / "kubernetes" / "prometheus-adapter.yaml")
    rules: list[dict[str, Any]] = yaml.safe_load(adapter["data"]["config.yaml"])["rules"]
    return rules


def instructions() -> dict[str, list[str]]:
    """The arguments of each instruction of the Dockerfile, in order."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(rest.strip())
    return found


def _parse(command: click.Command, arguments: Sequence[str]) -> dict[str, Any]:
    """The values that a command would get; an option that it has not is a UsageError."""
    return command.make_context(command.name, list(arguments)).params


def parse_serve(arguments: Sequence[str]) -> dict[str, Any]:
    """The values of `longserve serve ARGUMENTS`."""
    return _parse(serve_command, arguments)


def parse_ready(command: Sequence[str]) -> dict[str, Any]:
    """The values of a probe's whole command."""
    assert command[:2] == ["longserve", "ready"]
    return _parse(ready_command, command[2:])


def seconds_to_stop(serve: dict[str, Any]) -> float:
    """Seconds that a server may take from SIGTERM to its end."""
    return float(serve["grace"]) + _KILL
