"""Engines: what runs a bundle's ONNX file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .errors import EngineError
from .manifest import Layout, Manifest
from .packing import EncoderOutput, EncoderSequence, pack, unpack

__all__ = [
    "CPU_PROVIDER",
    "Engine",
    "OnnxRuntimeEngine",
    "SessionSettings",
    "encode",
    "open_packed_engine",
]

CPU_PROVIDER = "CPUExecutionProvider"
_REMOTE_PROVIDER = "AzureExecutionProvider"
"""In every onnxruntime package; it calls web services and leaves a graph like ours to the CPU provider."""
Arrays = Mapping[str, npt.NDArray[np.generic]]


class Engine(Protocol):
    """Runs one graph of a bundle."""

    @property
    def runs_on(self) -> str:
        """What the graph really runs on, e.g. `onnxruntime CPUExecutionProvider`."""
        ...

    def run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Run the graph once. Keys and values are the tensors' names and arrays.

        Raises:
            EngineError: the run failed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """ONNX Runtime session settings.

    Attributes:
        provider: execution provider; it is used or an error is raised, never replaced.
        threads: intra-op threads; 0 lets ONNX Runtime take one per core.
        memory_arena: keep freed memory for the next run. It is off by default: with lengths that vary the
            arena grows to the largest request ever seen and stays there.
    """

    provider: str = CPU_PROVIDER
    threads: int = 0
    memory_arena: bool = False

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise EngineError(f"threads is {self.threads}; give 0 (one per core) or a positive number")


class OnnxRuntimeEngine:
    """A bundle's graph in an ONNX Runtime session."""

    def __init__(self, model: str | Path, settings: SessionSettings | None = None) -> None:
        """Load the ONNX file.

        Raises:
            EngineError: onnxruntime is not installed, lacks the provider, fell back to another one, or
                cannot load the file.
        """
        chosen = settings or SessionSettings()
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
            raise EngineError(f"onnxruntime cannot load {model}: {error}") from error
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


def encode(engine: Engine, sequences: Sequence[EncoderSequence], manifest: Manifest) -> list[EncoderOutput]:
    """Run sequences of mixed length in one packed run.

    Raises:
        InvalidInput: a sequence is unfit for the model.
        EngineError: the run failed.
    """
    outputs = engine.run(pack(sequences, manifest))
    return unpack(outputs, [s.input_ids.size for s in sequences], manifest.task)


def open_packed_engine(bundle: Bundle, settings: SessionSettings | None = None) -> OnnxRuntimeEngine:
    """Open the packed graph of a bundle in ONNX Runtime.

    Raises:
        EngineError: see `OnnxRuntimeEngine`.
    """
    return OnnxRuntimeEngine(bundle.model_path(Layout.PACKED), settings)


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
