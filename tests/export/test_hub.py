"""A bundle goes to a hub and comes back; the hub is a small server here that speaks its API."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub, hub_environment, running_hub

from longserve.serving import Bundle, LocalClient

LONGSERVE = Path(sys.executable).parent / "longserve"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as server:
        yield server


def longserve(hub: Hub, home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **hub_environment(hub, home)}
    return subprocess.run(
        [LONGSERVE, *map(str, arguments)], capture_output=True, text=True, timeout=120, env=environment
    )


def test_a_bundle_comes_back_as_it_went(hub: Hub, classification_bundle: Path, tmp_path: Path) -> None:
    pushed = longserve(hub, tmp_path / "home", "push", classification_bundle, "me/topics")
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.strip().endswith(COMMIT)
    fingerprint = Bundle.open(classification_bundle).fingerprint
    assert hub.messages == [f"longserve bundle {fingerprint[:12]}"]
    assert b"pipeline_tag: text-classification" in hub.repositories["me/topics"]["README.md"]
    hub.repositories["me/topics"]["evil.sh"] = b"rm -rf /"
    target = tmp_path / "pulled"
    pulled = longserve(hub, tmp_path / "home", "pull", "me/topics", "-o", target)
    assert pulled.returncode == 0, pulled.stderr
    assert fingerprint in pulled.stdout
    assert {p.name for p in target.iterdir()} == {p.name for p in classification_bundle.iterdir()}
    with LocalClient(classification_bundle) as first, LocalClient(target) as second:
        assert first.classify("the fox") == second.classify("the fox")
    again = longserve(hub, tmp_path / "home", "pull", "me/topics", "-o", target)
    assert again.returncode == 1 and "--overwrite" in again.stderr


def test_a_hub_that_does_not_answer(classification_bundle: Path, tmp_path: Path) -> None:
    with running_hub() as gone:
        pass
    for words in (["push", classification_bundle, "me/topics"], ["pull", "me/topics", "-o", tmp_path / "b"]):
        done = longserve(gone, tmp_path / "home", *words)
        last = done.stderr.splitlines()[-1]  # before it the hub's own client tells of its attempts
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert last.startswith(f"longserve: cannot {words[0]} ") and "the hub cannot be reached" in last


def test_what_is_damaged_or_missing_leaves_nothing(
    hub: Hub, classification_bundle: Path, tmp_path: Path
) -> None:
    longserve(hub, tmp_path / "home", "push", classification_bundle, "me/topics")
    files = hub.repositories["me/topics"]
    files["model.onnx"] = files["model.onnx"][:-1] + b"x"
    damaged = longserve(hub, tmp_path / "home", "pull", "me/topics", "-o", tmp_path / "pulled")
    assert damaged.returncode == 1 and "model.onnx has SHA-256" in damaged.stderr
    absent = longserve(hub, tmp_path / "home", "pull", "me/nothing", "-o", tmp_path / "pulled")
    assert absent.returncode == 1 and "no such repository" in absent.stderr
    hub.repositories["me/other"] = {"config.json": b"{}"}
    other = longserve(hub, tmp_path / "home", "pull", "me/other", "-o", tmp_path / "pulled")
    assert other.returncode == 1 and other.stderr.count("\n") == 1
    assert not (tmp_path / "pulled").exists() and {p.name for p in tmp_path.iterdir()} <= {"home"}
