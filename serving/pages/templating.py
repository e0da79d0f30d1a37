"""Templates with the filters that pages share."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from .errors import PageError

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["page_environment"]


@cache
def page_environment(package: str) -> Environment:
    """Return the templates of a package's folder `templates`, and beside them the `style.css` of all pages.

    Filters: `bytes` (a size), `figures` (two significant ones), `percent`, `cell` (of a Markdown table).

    Raises:
        PageError: jinja2 is not installed.
    """
    try:
        from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
    except ImportError as error:
        raise PageError(f"the page needs jinja2 ({error}); install 'longserve[report]'") from error
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(__package__ or "")]),
        autoescape=select_autoescape(["html", "html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["bytes"] = _size
    environment.filters["figures"] = lambda value: f"{value:.2g}"
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    environment.filters["cell"] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    return environment


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
