"""Pages hold: their code runs, their commands exist with the options they are given, their links resolve."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
from doc_pages import DOCS, ROOT, Block, blocks, pages
from hub_server import Hub, hub_environment, running_hub
from triton_fixture import RunningServer

from longserve.serving import Task
from longserve.serving.command import cli

RUN = ("elsewhere.md", "how-to/*.md", "report.md")
"""Pages whose blocks run in one directory, in order. The others have tests of their own in this folder."""
PRELUDE = """
set -euo pipefail
longserve() {
  local words=() word
  for word; do
    case "$word" in
      MODEL) word=$CLASSIFIER ;;
      allenai/*) word=$READER ;;
    esac
    words+=("$word")
  done
  if [ "$1" = bench ]; then
    words+=(--layouts packed --lengths 64 --rounds 1 --engines)
    [[ " $* " == *" --reference "* ]] && words+=(torch,onnxruntime) || words+=(onnxruntime)
  fi
  command longserve "${words[@]}"
}
"""
"""The tests' checkpoints in place of those from the hub; a short measurement."""
NEEDS = {
    "--engine ray": "ray",
    "longserve batch": "pyarrow",
    "longserve report": "jinja2",
    "longserve compare": "matplotlib",
}

pytestmark = pytest.mark.timeout(300)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def room(
    quick_checkpoints: dict[str, Path], qa_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A directory with the bundles and texts that the pages speak of."""
    room = tmp_path_factory.mktemp("room")
    (room / "bundles").mkdir()
    from longserve.export import export_bundle

    topics = room / "bundles" / "topics"
    export_bundle(str(quick_checkpoints["text-classification"]), Task.TEXT_CLASSIFICATION, topics)
    (room / "bundles" / "qa").symlink_to(qa_bundle)
    text = "the quick brown fox counted seven lanterns and two bridges"
    for name in ("letter.txt", "contract.txt"):
        (room / name).write_text(text, encoding="utf-8")
    rows = [{"id": index, "text": f"{text} {index}"} for index in range(5)]
    for name in ("letters.jsonl", "contracts.jsonl"):
        (room / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (room / "bundles" / "topics-short").symlink_to(topics)
    (room / "yours.jsonl").write_text(json.dumps({"text": text}), encoding="utf-8")
    asked = {"question": "what did the fox count", "context": text}
    (room / "questions.jsonl").write_text(json.dumps(asked), encoding="utf-8")
    labelled = [{"text": text, "label": label, "evidence": [[4, 9]]} for label in ("alpha", "beta") * 3]
    (room / "labelled.jsonl").write_text("\n".join(map(json.dumps, labelled)), encoding="utf-8")
    return room


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as server:
        yield server


@pytest.mark.parametrize("page", [p for pattern in RUN for p in sorted(DOCS.glob(pattern))], ids=named)
def test_the_code_runs(
    page: Path,
    room: Path,
    hub: Hub,
    triton_server: RunningServer,
    quick_checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(room)
    for name, value in hub_environment(hub, room / "hub").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CLASSIFIER", str(quick_checkpoints["text-classification"]))
    monkeypatch.setenv("READER", str(quick_checkpoints["question-answering"]))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        missing = [module for text, module in NEEDS.items() if text in block.code and not find_spec(module)]
        if block.why or missing or block.language not in ("sh", "python"):
            continue
        code = addressed(block.code, triton_server)
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + code, str(page), "exec"), names)
            continue
        done = subprocess.run(["bash", "-c", PRELUDE + code], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, f"{named(page)}:{block.line}\n{done.stdout}{done.stderr}"


def addressed(code: str, server: RunningServer) -> str:
    """The block with the test server's addresses in place of the defaults."""
    for default, url in (
        ("grpc://localhost:8001", server.urls.grpc),
        ("http://localhost:8000", server.urls.http),
        ('"localhost:8001"', f'"{server.urls.grpc.removeprefix("grpc://")}"'),
    ):
        code = code.replace(default, url)
    return code


@cache
def command(name: str) -> click.Command:
    loaded = cli.get_command(click.Context(cli), name)
    assert loaded is not None, name
    return loaded


def calls(block: Block) -> Iterator[list[str]]:
    """The words of each call of `longserve`."""
    for line in block.code.replace("\\\n", " ").splitlines():
        for part in re.split(r"[|;&]+", line.partition(" #")[0]):
            words = (
                shlex.split(part, comments=True)
                if part.count("'") % 2 == 0 and part.count('"') % 2 == 0
                else []
            )
            if words[:1] == ["longserve"] and len(words) > 1 and not words[1].startswith("-"):
                yield words[1:]


@pytest.mark.parametrize("page", pages(), ids=named)
def test_commands_take_the_options_they_are_given(page: Path) -> None:
    for block in blocks(page):
        if block.language != "sh":
            continue
        for name, *words in calls(block):
            legal = {option for parameter in command(name).params for option in parameter.opts}
            given = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
            assert set(given) <= legal | {"--help"}, f"{named(page)}:{block.line}: {name} {given}"


@pytest.mark.parametrize("page", pages(), ids=named)
def test_options_that_the_text_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name, option in re.findall(r"`longserve (\w+)[^`]*? (--[a-z][a-z-]+)", text):
        legal = {option for parameter in command(name).params for option in parameter.opts}
        assert option in legal, f"longserve {name} {option}"


@pytest.mark.parametrize("page", pages(), ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors_of(there), target


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_shell_completes_commands_and_options() -> None:
    for words, wanted in (
        ("longserve ba", "plain,batch"),
        ("longserve batch --task ques", "plain,question-answering"),
    ):
        environment = {
            **os.environ,
            "_LONGSERVE_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        done = subprocess.run(
            [Path(sys.executable).parent / "longserve"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert wanted in done.stdout.splitlines()


def test_the_exporter_can_be_run_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "longserve.export", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout.startswith("Usage: longserve export")


def test_every_message_that_is_explained_is_one_of_ours() -> None:
    sources = [path for half in ("export", "serving") for path in (ROOT / half).rglob("*.py")]
    texts = {text for path in sources for text in literals(path)}
    rows = re.findall(
        r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(rows) > 20
    for message in rows:
        assert any(message in text for text in texts), message


def literals(path: Path) -> Iterator[str]:
    """The strings of a module; of one with values in it the words, and a NUL for each value."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values)
