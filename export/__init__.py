"""longserve.export: torch → ONNX → validated bundle."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import (
        CheckpointError,
        CheckpointNotFound,
        ExportError,
        GraphError,
        OutputError,
        ParityFailed,
        TaskMismatch,
        UnsupportedModel,
    )
    from .exporter import ExportResult, ValidationResult, export_bundle, validate_bundle
    from .parity import TOLERANCES, CaseResult, ParityReport, Tolerance
    from .settings import ExportSettings

_MODULES = {
    "errors": (
        "CheckpointError",
        "CheckpointNotFound",
        "ExportError",
        "GraphError",
        "OutputError",
        "ParityFailed",
        "TaskMismatch",
        "UnsupportedModel",
    ),
    "exporter": ("ExportResult", "ValidationResult", "export_bundle", "validate_bundle"),
    "parity": ("TOLERANCES", "CaseResult", "ParityReport", "Tolerance"),
    "settings": ("ExportSettings",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CaseResult",
    "CheckpointError",
    "CheckpointNotFound",
    "ExportError",
    "ExportResult",
    "ExportSettings",
    "GraphError",
    "OutputError",
    "ParityFailed",
    "ParityReport",
    "TOLERANCES",
    "TaskMismatch",
    "Tolerance",
    "UnsupportedModel",
    "ValidationResult",
    "export_bundle",
    "validate_bundle",
]


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first used: torch and transformers load slowly."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
