"""The error of making pages.

ServingError
└── PageError      a page cannot be made here: a library of the extra [report] is missing
"""

from __future__ import annotations

from ..runtime.errors import ServingError

__all__ = ["PageError"]


class PageError(ServingError):
    """A page cannot be made here: a library of the extra [report] is missing."""
