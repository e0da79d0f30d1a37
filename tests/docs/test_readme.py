"""The README's commands and Python run in order, as a new user gives them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from doc_pages import ROOT, blocks
from triton_fixture import CLASSIFIER, QA, RunningServer

README = ROOT / "README.md"
PRELUDE = """
longserve() {
  case "$1" in
    export) "$LONGSERVE" export --help > /dev/null && cp -r "$BUNDLE" "${@: -1}" ;;
    serve | validate | bench) "$LONGSERVE" "$1" --help > /dev/null ;;
    repo) case "$*" in *auto*) "$LONGSERVE" "$1" --help > /dev/null ;; *) "$LONGSERVE" "$@" ;; esac ;;
    ask) case "$*" in
      *--bundle*) "$LONGSERVE" "$@" ;;
      *) "$LONGSERVE" "${@/trivia/$MODEL}" --url "$URL" ;;
    esac ;;
    *) "$LONGSERVE" "$@" ;;
  esac
}
make() { command make -n "$@" -C "$ROOT" > /dev/null; }
curl() { command curl --noproxy '*' --fail "${@//localhost:8000/${HTTP#http://}}"; }
"""
"""What has tests of its own is not done again: exporting, measuring, comparing, and starting a server."""

pytestmark = pytest.mark.timeout(300)


def test_the_readme_runs(
    triton_server: RunningServer, qa_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tool in ("curl", "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"the README's commands use {tool}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundles").mkdir()
    (tmp_path / "contract.txt").write_text("the quick brown fox counted seven lanterns", encoding="utf-8")
    environment = {
        **os.environ,
        "LONGSERVE": str(Path(sys.executable).parent / "longserve"),
        "BUNDLE": str(qa_bundle),
        "MODEL": QA,
        "URL": triton_server.urls.grpc,
        "HTTP": triton_server.urls.http,
        "ROOT": str(ROOT),
    }
    text = "the fox"
    names: dict[str, Any] = {
        "text": text,
        "other": text,
        "third": text,
        "texts": [text],
        "__name__": "__main__",
    }
    names.update(question="who jumps", context="the quick brown fox jumps")
    printed = ""
    for block in blocks(README):
        if block.language == "python":
            code = block.code.replace("grpc://localhost:8001", triton_server.urls.grpc)
            exec(compile("\n" * (block.line - 1) + code, str(README), "exec"), names)
        elif block.language == "sh":
            script = f"set -euo pipefail{PRELUDE}{block.code}"
            done = subprocess.run(
                ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, f"README.md:{block.line}\n{done.stdout}{done.stderr}"
            printed += done.stdout + "\n"
    assert names["result"].label
    assert CLASSIFIER in printed and '"LABEL"' in printed
    answers = [line.split("\t") for line in printed.splitlines() if line.count("\t") == 5]
    assert len(answers) == 2  # by the server, and in process on another engine
    assert (answers[0][0], answers[0][2:]) == (answers[1][0], answers[1][2:])
    assert (tmp_path / "model_repository" / "trivia_encoder" / "config.pbtxt").is_file()
