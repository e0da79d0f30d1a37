"""The try-it page: a document, a question, the answer at its place. Static files behind the gateway.

The page asks the server's own text models over the v2 protocol, from the reader's browser, like any client.
It fetches nothing from elsewhere, and its content security policy forbids it to: whatever a document or an
answer looks like, it is text (`textContent`), and no script but the page's own file runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

__all__ = ["PAGE_PATH", "Resource", "TryItPage", "model_names"]

PAGE_PATH = "/ui/"
_FOLDER = "try_it_page"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}


@dataclass(frozen=True, slots=True)
class Resource:
    """What is sent for a path."""

    content: bytes
    headers: dict[str, str]


class TryItPage:
    """The page's files, and the names of the models that it may ask."""

    def __init__(self, models: Sequence[str]) -> None:
        """Read the files.

        Args:
            models: the server's models; the page finds out itself which of them take text.
        """
        folder = files(__package__ or "") / _FOLDER
        self._resources = {
            PAGE_PATH + path: Resource(folder.joinpath(name).read_bytes(), {**_HEADERS, "Content-Type": kind})
            for path, (name, kind) in _FILES.items()
        }
        listed = json.dumps({"models": list(models)}).encode("utf-8")
        self._resources[PAGE_PATH + "models.json"] = Resource(
            listed, {**_HEADERS, "Content-Type": "application/json"}
        )
        self._resources["/"] = self._resources[PAGE_PATH.rstrip("/")] = self._resources[PAGE_PATH]

    def find(self, method: str, path: str) -> Resource | None:
        """Return what is sent for a request; None if it is not the page's to answer."""
        return self._resources.get(path) if method in ("GET", "HEAD") else None


def model_names(repository: Path) -> list[str]:
    """Return the names of a repository's models, sorted."""
    return sorted(path.parent.name for path in repository.glob("*/config.pbtxt"))
