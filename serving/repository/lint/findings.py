"""What the linter says of a repository."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Severity"]


class Severity(str, Enum):
    """How bad a finding is."""

    ERROR = "error"
    """It does not load, answers wrongly, or can be brought down by its callers."""
    WARNING = "warning"
    """It serves, but slower or less safely than it could."""
    NOTE = "note"
    """It was not examined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        rule: short name of what was looked for, e.g. `no-queue-limit`.
        severity: how bad it is.
        where: the file or directory, relative to the repository; "" for the repository or this machine.
        found: what is wrong, with the value seen, and what comes of it.
        fix: what to do.
    """

    rule: str
    severity: Severity
    where: str
    found: str
    fix: str
