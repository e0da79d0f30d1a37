"""Clients: `Client` and `AsyncClient` ask a Triton server, `LocalClient` runs a bundle in this process.

The first two need what the extra `client` brings; `LocalClient` needs tokenizers and onnxruntime. Each is
imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .async_client import AsyncClient
    from .client import Client
    from .connection import Tls
    from .inquiries import ModelLimits, ServedModel
    from .keywords import (
        CallKeywords,
        ClassificationKeywords,
        ClassificationRequest,
        QuestionKeywords,
        QuestionRequest,
    )
    from .local import LocalClient
    from .retry import RetryPolicy

_MODULES = {
    ".async_client": ("AsyncClient",),
    ".client": ("Client",),
    ".connection": ("Tls",),
    ".inquiries": ("ModelLimits", "ServedModel"),
    ".keywords": (
        "CallKeywords",
        "ClassificationKeywords",
        "ClassificationRequest",
        "QuestionKeywords",
        "QuestionRequest",
    ),
    ".local": ("LocalClient",),
    ".retry": ("RetryPolicy",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AsyncClient",
    "CallKeywords",
    "ClassificationKeywords",
    "ClassificationRequest",
    "Client",
    "LocalClient",
    "ModelLimits",
    "QuestionKeywords",
    "QuestionRequest",
    "RetryPolicy",
    "ServedModel",
    "Tls",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name], __name__), name)
