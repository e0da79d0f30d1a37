"""The benchmarks that the pages name are there and take the options that they are given. What they measure
takes minutes to hours; `tests/benchmarks` runs each in small."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from doc_pages import ROOT, pages

for package in ("torch", "onnxruntime", "pyarrow"):
    pytest.importorskip(package, reason="the benchmarks measure it")

COMMAND = re.compile(r"python (benchmarks/\w+\.py[^`\n]*)")
COMMANDS = [
    pytest.param(words, id=f"{page.relative_to(ROOT)}: {' '.join(words[:2])}")
    for page in pages()
    for line in COMMAND.findall(page.read_text(encoding="utf-8"))
    if (words := shlex.split(line, comments=True))
]


class Parsed(Exception):
    """The script took its arguments."""


def test_the_pages_name_benchmarks() -> None:
    named = {parameter.values[0][0] for parameter in COMMANDS}  # type: ignore[index]
    runnable = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "benchmarks").glob("*.py")
        if "parse_args(" in path.read_text(encoding="utf-8")
    }
    assert named == runnable, "every benchmark has its command beside its figures, and no other is named"


@pytest.mark.parametrize("words", COMMANDS)
def test_a_benchmark_takes_the_options_it_is_given(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *given: Any) -> None:
        raise Parsed(parse(parser, *given))

    script = ROOT / words[0]
    for option, value in pairwise(words):
        if option == "--json":
            assert (ROOT / value).parent.is_dir()
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [str(script), *words[1:]])
    monkeypatch.setattr(sys, "path", [str(Path(script).parent), *sys.path])
    with pytest.raises(Parsed):
        runpy.run_path(str(script), run_name="__main__")
