"""Finding what people get wrong in a Triton model repository, with the fix."""

from .findings import Finding, Severity
from .linter import lint_repository
from .machine import Target

__all__ = ["Finding", "Severity", "Target", "lint_repository"]
