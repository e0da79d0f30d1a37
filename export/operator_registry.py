"""Tracing with one table of the operators' translations for all graphs.

`torch.onnx.export` reads the source of some five hundred translations anew for every graph, which takes a
seventh of the trace of a small one. The table depends on the opset alone.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from .patching import patched_here

__all__ = ["with_kept_registry"]

_MODULE = "torch.onnx._internal.exporter._registration"
_NAME = "from_torchlib"
_kept: dict[tuple[Any, ...], Any] = {}


def with_kept_registry() -> AbstractContextManager[None]:
    """Let `torch.onnx.export`, in this thread, have a copy of the registry that it made before.

    The registry is no public part of PyTorch: where it is not found as expected, each graph has its own.
    """
    try:
        registry: Any = importlib.import_module(_MODULE).ONNXRegistry
        getattr(registry, _NAME), registry().functions.items
    except (ImportError, AttributeError, TypeError):
        return contextlib.nullcontext()

    def made_once(make: Callable[..., Any]) -> Callable[..., Any]:
        def replace(*arguments: Any, **options: Any) -> Any:
            key = (*arguments, *sorted(options.items()))
            if key not in _kept:
                _kept[key] = make(*arguments, **options)
            mine = copy.copy(_kept[key])
            mine.functions = {name: list(translations) for name, translations in mine.functions.items()}
            return mine

        return replace

    return patched_here(registry, _NAME, made_once)
