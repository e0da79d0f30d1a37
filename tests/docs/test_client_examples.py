"""The examples in the documentation run as they stand, against a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from triton_fixture import RunningServer

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("client.md", "long-documents.md")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.timeout(300)


def blocks(page: str) -> list[tuple[int, str]]:
    """The page's Python blocks, each with the line that it begins in."""
    content = (DOCS / page).read_text(encoding="utf-8")
    return [(content.count("\n", 0, m.start()) + 2, m.group(1)) for m in BLOCK.finditer(content)]


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run(page: str, triton_server: RunningServer) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    found = blocks(page)
    assert found
    for line, code in found:
        here = code.replace("grpc://localhost:8001", triton_server.urls.grpc)
        here = here.replace("http://localhost:8000", triton_server.urls.http)
        # Empty lines in front make a traceback name the page's own line
        exec(compile("\n" * (line - 1) + here, str(DOCS / page), "exec"), names)


def test_the_examples_type_check(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="needs the extra [dev]")
    for page in PAGES:
        text = ""
        for line, code in blocks(page):
            text += "\n" * (line - 1 - text.count("\n")) + code
        (tmp_path / page.replace("-", "_")).with_suffix(".py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", *sorted(map(str, tmp_path.glob("*.py")))]
    done = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, timeout=280)
    found = [line for line in done.stdout.splitlines() if ": error: " in line and "[no-untyped-" not in line]
    assert done.returncode in (0, 1) and found == [], done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    content = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", content):
        assert (DOCS / target).exists(), target
    for path in re.findall(r"`(tests/[\w/.]+)`", content):
        assert (DOCS.parent / path).exists(), path
