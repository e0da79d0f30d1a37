"""The documentation as a site: it builds without a warning, fetches nothing, and anybody can read it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from browser import WIDTHS, serious_findings
from browser import browser as browser
from doc_pages import DOCS, ROOT

SHOWN = ("index.html", "how-to/precision/index.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built."""
    pytest.importorskip("mkdocs", reason="needs the extra [docs]")
    pytest.importorskip("mkdocstrings", reason="needs the extra [docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return folder


def test_it_is_whole_and_fetches_nothing(site: Path) -> None:
    built = list(site.rglob("*.html"))
    assert len(built) > len(list(DOCS.rglob("*.md")))
    for page in built:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="https?://(?!localhost)', text), (
            page
        )
    reference = (site / "reference" / "client" / "index.html").read_text(encoding="utf-8")
    assert "longserve.serving.client.client.Client.classify" in reference
    assert "Answer any number of" in reference


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_accessible_and_fits(browser: Any, site: Path, width: int) -> None:
    for page in SHOWN:
        with browser.new_page(viewport={"width": width, "height": 900}) as tab:
            tab.goto((site / page).as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, page
            assert serious_findings(tab) == [], page
