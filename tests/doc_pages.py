"""The code blocks of a page of the documentation, and the room that its commands run in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

__all__ = ["DOCS", "ROOT", "Block", "blocks", "pages"]

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_BLOCK = re.compile(
    r"^(?: *<!-- not run here: (?P<why>[^\n]+) -->\n)? *```(?P<language>\w*)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text, the line it begins in, and why it is not run (or "")."""

    language: str
    code: str
    line: int
    why: str


def blocks(page: Path) -> list[Block]:
    """All code blocks of a page, in order."""
    content = page.read_text(encoding="utf-8")
    return [
        Block(m["language"], dedent(m["code"]), content.count("\n", 0, m.start("code")) + 1, m["why"] or "")
        for m in _BLOCK.finditer(content)
    ]


def pages() -> list[Path]:
    """README, changelog and every page of the documentation."""
    return [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "examples" / "README.md",
        *sorted(DOCS.rglob("*.md")),
    ]
