"""ONNX Runtime as the engine of a bundle's graph."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .engine_settings import CPU_PROVIDER, Arrays, EngineName, EngineSettings
from .errors import EngineError

__all__ = ["OnnxRuntimeEngine"]

_REMOTE_PROVIDER = "AzureExecutionProvider"
"""In every onnxruntime package; it calls web services and leaves a graph like ours to the CPU provider."""

_NO_KERNEL = "Could not find an implementation"
"""Begin of ONNX Runtime's message where a provider does not compute an operator in a type."""


class OnnxRuntimeEngine:
    """A bundle's graph in an ONNX Runtime session."""

    def __init__(self, model: str | Path, settings: EngineSettings | None = None) -> None:
        """Load the ONNX file.

        Raises:
            EngineError: onnxruntime is not installed, lacks the provider, fell back to another one, or
                cannot load the file.
        """
        chosen = settings or EngineSettings()
        if chosen.engine is not EngineName.ONNXRUNTIME:
            raise EngineError(f"the settings are for {chosen.engine.value}; give settings for onnxruntime")
        runtime = _import_onnxruntime()
        available = [name for name in runtime.get_available_providers() if name != _REMOTE_PROVIDER]
        if chosen.provider not in available:
            raise EngineError(
                f"onnxruntime {runtime.__version__} has no {chosen.provider}, only {', '.join(available)}; "
                "install the extra that brings it, or choose another provider"
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = chosen.threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = chosen.memory_arena
        options.enable_mem_pattern = chosen.memory_arena
        options.log_severity_level = 3
        providers = [chosen.provider] if chosen.provider == CPU_PROVIDER else [chosen.provider, CPU_PROVIDER]
        try:
            self._session = runtime.InferenceSession(os.fspath(model), options, providers=providers)
        except _onnxruntime_errors() as error:
            raise EngineError(f"onnxruntime cannot load {model}: {error}{_remedy(error)}") from error
        actual = self._session.get_providers()
        if actual[0] != chosen.provider:
            raise EngineError(
                f"onnxruntime was told to use {chosen.provider} for {model} but runs on {actual[0]}; "
                "see its log for why, or choose that provider explicitly"
            )
        self._outputs = [output.name for output in self._session.get_outputs()]

    @property
    def runs_on(self) -> str:
        """What the graph really runs on."""
        return f"onnxruntime {self._session.get_providers()[0]}"

    def run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Run the graph once.

        Raises:
            EngineError: the run failed.
        """
        try:
            values = self._session.run(None, dict(feeds))
        except _onnxruntime_errors() as error:
            raise EngineError(f"onnxruntime failed: {error}") from error
        return dict(zip(self._outputs, values, strict=True))


def _remedy(error: Exception) -> str:
    if _NO_KERNEL not in str(error):
        return ""
    return (
        "; the provider has no kernel for the graph's precision: the CPU provider has none for bf16, which "
        "needs a GPU or the engine openvino"
    )


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"onnxruntime cannot be imported ({error}); install 'longserve[cpu]' or 'longserve[gpu]'"
        ) from error
    return onnxruntime


def _onnxruntime_errors() -> tuple[type[Exception], ...]:
    """The exceptions that onnxruntime's binding raises; its own share no base class but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError, MemoryError)
