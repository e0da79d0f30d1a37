"""The commands and Python of the README, the quickstart and the try-it page run as a new user gives them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from doc_pages import DOCS, ROOT, blocks
from openvino_support import has_bf16
from triton_fixture import CLASSIFIER, RunningServer

from longserve.serving import Bundle
from longserve.serving.repository import build_repository

README = ROOT / "README.md"
QUICKSTART = DOCS / "index.md"
TRY_IT = DOCS / "try-it.md"
PRELUDE = """
set -euo pipefail
longserve() {
  case "$1" in
    export) shift 2; "$LONGSERVE" export "$CHECKPOINT" "$@" ;;
    validate) set -- "${@/MODEL/$CHECKPOINT}"; "$LONGSERVE" "${@/#bf16/$BF16}" ;;
    serve)
      "$LONGSERVE" "$@" --http-port 0 --grpc-port 0 --metrics-port 0 --json > urls.json 2> serve.log &
      echo $! > serve.pid
      until [ -s urls.json ]; do sleep 0.05; kill -0 $! || { cat serve.log; exit 1; }; done ;;
    ask | classify) case "$*" in
      *--bundle*) "$LONGSERVE" "$@" ;;
      *) "$LONGSERVE" "$@" --url "$(sed 's/.*"grpc": "\\([^"]*\\)".*/\\1/' urls.json)" ;;
    esac ;;
    *) "$LONGSERVE" "$@" ;;
  esac
}
make() { command make -n "$@" -C "$ROOT" > /dev/null; }
curl() { command curl --noproxy '*' --fail "${@//localhost:8000/${HTTP#http://}}"; }
"""
"""A checkpoint of the test's in place of one from the hub, free ports, and `make` only as far as its targets
exist: `.ci/run` runs them. On a CPU without bf16, where it is refused, fp32 stands for it."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory that the commands run in; a server that they start is stopped at the end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundles").mkdir()
    for name in ("contract.txt", "letter.txt"):
        (tmp_path / name).write_text("the quick brown fox counted seven lanterns", encoding="utf-8")
    yield tmp_path
    with suppress(FileNotFoundError, ProcessLookupError):
        server = int((tmp_path / "serve.pid").read_text())
        os.kill(server, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while Path(f"/proc/{server}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)


def run_page(page: Path, checkpoint: Path, server: RunningServer | None, names: dict[str, Any]) -> str:
    """Run a page's blocks in the current directory; return what the commands print.

    Its Python asks `server`, or where there is none the one that the page's commands started.
    """
    for tool in ("curl", "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"the page's commands use {tool}")
    environment = {
        **os.environ,
        "LONGSERVE": str(Path(sys.executable).parent / "longserve"),
        "CHECKPOINT": str(checkpoint),
        "HTTP": server.urls.http if server else "",
        "ROOT": str(ROOT),
        "BF16": "bf16" if has_bf16() else "fp32",
    }
    printed = ""
    for block in blocks(page):
        if block.language == "python":
            url = server.urls.grpc if server else json.loads(Path("urls.json").read_text())["grpc"]
            code = block.code.replace("grpc://localhost:8001", url)
            exec(compile("\n" * (block.line - 1) + code, str(page), "exec"), names)
        elif block.language == "sh":
            done = subprocess.run(
                ["bash", "-c", f"{PRELUDE}{block.code}"],
                env=environment,
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert done.returncode == 0, f"{page.name}:{block.line}\n{done.stdout}{done.stderr}"
            printed += done.stdout + "\n"
    return printed


def test_the_readme_runs(
    triton_server: RunningServer, quick_checkpoints: dict[str, Path], room: Path
) -> None:
    text = "the fox"
    names: dict[str, Any] = {
        "text": text,
        "other": text,
        "third": text,
        "texts": [text],
        "__name__": "__main__",
    }
    names.update(question="who jumps", context="the quick brown fox jumps")
    printed = run_page(README, quick_checkpoints["question-answering"], triton_server, names)
    assert names["result"].label
    assert CLASSIFIER in printed and '"LABEL"' in printed
    answers = [line.split("\t") for line in printed.splitlines() if line.count("\t") == 5]
    assert len(answers) == 2  # by the server, and in process on another engine
    assert (answers[0][0], answers[0][2:]) == (answers[1][0], answers[1][2:])
    assert Bundle.open(room / "bundles" / "trivia").manifest.validated
    config = (room / "model_repository" / "trivia_encoder" / "config.pbtxt").read_text(encoding="utf-8")
    assert "speedup" in config, "the engines are measured for --engine auto"


def test_the_quickstart_runs(quick_checkpoints: dict[str, Path], room: Path) -> None:
    names: dict[str, Any] = {}
    printed = run_page(QUICKSTART, quick_checkpoints["text-classification"], None, names)
    (row,) = [line.split("\t") for line in printed.splitlines() if line.startswith("letter.txt\t")]
    assert row[1] == names["result"].label


def test_the_try_it_page_runs(classification_bundle: Path, room: Path) -> None:
    build_repository(classification_bundle, "topics", room / "model_repository")
    run_page(TRY_IT, classification_bundle, None, {})
    address = json.loads((room / "urls.json").read_text())["page"]
    with urlopen(address, timeout=30) as answer:
        assert answer.status == 200 and b"<html" in answer.read()
