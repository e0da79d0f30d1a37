"""longserve.serving: bundle → engine → Triton repository → client. No torch, no transformers.

The names below are the public ones. Each is imported when it is first used, so that a client does not pay
for the engine, nor a command for either.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import (
        AsyncClient,
        CallKeywords,
        ClassificationKeywords,
        ClassificationRequest,
        Client,
        LocalClient,
        ModelLimits,
        QuestionKeywords,
        QuestionRequest,
        RetryPolicy,
        ServedModel,
        Tls,
    )
    from .runtime.bundle import Bundle
    from .runtime.engine import (
        EngineName,
        EngineSettings,
        InferencePrecision,
        OnnxRuntimeEngine,
        OpenVinoEngine,
        encode,
        open_engine,
        open_packed_engine,
    )
    from .runtime.errors import (
        AccessDenied,
        BundleError,
        BundleNotFound,
        CorruptBundle,
        DeadlineExceeded,
        EngineError,
        IncompatibleBundle,
        InferenceFailed,
        InvalidInput,
        ModelNotFound,
        Overloaded,
        PortInUse,
        RepositoryError,
        RequestError,
        ServerError,
        ServerFailed,
        ServerUnavailable,
        ServingError,
        TritonNotFound,
        UnfitEnvironment,
    )
    from .runtime.limits import TextLimits
    from .runtime.manifest import GlobalAttention, Layout, Manifest, Precision, ProblemType, Task
    from .runtime.options import ClassificationOptions, QuestionAnsweringOptions
    from .runtime.packing import EncoderOutput, EncoderSequence
    from .runtime.results import (
        Answer,
        Classification,
        WindowAnswers,
        WindowClassification,
        WindowedAnswers,
        WindowedClassification,
    )

_MODULES = {
    ".client": (
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
    ),
    ".runtime.bundle": ("Bundle",),
    ".runtime.engine": (
        "EngineName",
        "EngineSettings",
        "InferencePrecision",
        "OnnxRuntimeEngine",
        "OpenVinoEngine",
        "encode",
        "open_engine",
        "open_packed_engine",
    ),
    ".runtime.errors": (
        "AccessDenied",
        "BundleError",
        "BundleNotFound",
        "CorruptBundle",
        "DeadlineExceeded",
        "EngineError",
        "IncompatibleBundle",
        "InferenceFailed",
        "InvalidInput",
        "ModelNotFound",
        "Overloaded",
        "PortInUse",
        "RepositoryError",
        "RequestError",
        "ServerError",
        "ServerFailed",
        "ServerUnavailable",
        "ServingError",
        "TritonNotFound",
        "UnfitEnvironment",
    ),
    ".runtime.limits": ("TextLimits",),
    ".runtime.manifest": ("GlobalAttention", "Layout", "Manifest", "Precision", "ProblemType", "Task"),
    ".runtime.options": ("ClassificationOptions", "QuestionAnsweringOptions"),
    ".runtime.packing": ("EncoderOutput", "EncoderSequence"),
    ".runtime.results": (
        "Answer",
        "Classification",
        "WindowAnswers",
        "WindowClassification",
        "WindowedAnswers",
        "WindowedClassification",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AccessDenied",
    "Answer",
    "AsyncClient",
    "Bundle",
    "BundleError",
    "BundleNotFound",
    "CallKeywords",
    "Classification",
    "ClassificationKeywords",
    "ClassificationOptions",
    "ClassificationRequest",
    "Client",
    "CorruptBundle",
    "DeadlineExceeded",
    "EncoderOutput",
    "EncoderSequence",
    "EngineError",
    "EngineName",
    "EngineSettings",
    "GlobalAttention",
    "IncompatibleBundle",
    "InferenceFailed",
    "InferencePrecision",
    "InvalidInput",
    "Layout",
    "LocalClient",
    "Manifest",
    "ModelLimits",
    "ModelNotFound",
    "OnnxRuntimeEngine",
    "OpenVinoEngine",
    "Overloaded",
    "PortInUse",
    "Precision",
    "ProblemType",
    "QuestionAnsweringOptions",
    "QuestionKeywords",
    "QuestionRequest",
    "RepositoryError",
    "RequestError",
    "RetryPolicy",
    "ServedModel",
    "ServerError",
    "ServerFailed",
    "ServerUnavailable",
    "ServingError",
    "Task",
    "TextLimits",
    "Tls",
    "TritonNotFound",
    "UnfitEnvironment",
    "WindowAnswers",
    "WindowClassification",
    "WindowedAnswers",
    "WindowedClassification",
    "encode",
    "open_engine",
    "open_packed_engine",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
