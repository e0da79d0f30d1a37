"""A headless Chromium, and an accessibility check of what it shows. Debian's package `chromium` is enough."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

__all__ = ["WIDTHS", "browser", "save_screenshot", "serious_findings"]

WIDTHS = (360, 768, 1280)
"""A phone, a tablet, a desk: CSS pixels."""
_SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser; each test opens its own page.

    Not for the session: while playwright is open, the main thread counts as inside an event loop, in which no
    other test could run one.
    """
    executable = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if executable is None:
        pytest.skip("needs Chromium: install Debian's package chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()


def serious_findings(page: Any) -> list[str]:
    """What axe finds on a page that is serious or critical, each with its first place."""
    pytest.importorskip("axe_playwright_python", reason="brings axe-core")
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("() => axe.run(document)")
    assert found["passes"], "axe checked nothing"
    return [
        f"{violation['id']}: {violation['help']} at {violation['nodes'][0]['target']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
    ]


def save_screenshot(page: Any, name: str) -> None:
    """Keep a picture of the page for people to look at, where `make clean` finds it."""
    _SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=_SCREENSHOTS / f"{name}.png", full_page=True)
