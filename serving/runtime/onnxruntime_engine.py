"""ONNX Runtime as the engine of a bundle's graph."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .cores import engine_threads
from .cuda_libraries import load_cuda_libraries
from .engine_settings import CPU_PROVIDER, Arrays, EngineName, EngineSettings
from .errors import EngineError
from .gpu_providers import GPU_PROVIDERS, provider_chain
from .manifest import TensorSpec

__all__ = ["BoundRun", "OnnxRuntimeEngine"]

_REMOTE_PROVIDER = "AzureExecutionProvider"
"""In every onnxruntime package; it calls web services and leaves a graph like ours to the CPU provider."""

_NO_KERNEL = "Could not find an implementation"
"""Begin of ONNX Runtime's message where a provider does not compute an operator in a type."""


class OnnxRuntimeEngine:
    """A bundle's graph in an ONNX Runtime session."""

    def __init__(
        self,
        model: str | Path,
        settings: EngineSettings | None = None,
        *,
        inputs: Sequence[TensorSpec] = (),
        runtime: Any = None,
    ) -> None:
        """Load the ONNX file.

        Args:
            model: the file.
            settings: see `EngineSettings`.
            inputs: the graph's, where the settings hold profiles for the TensorRT provider.
            runtime: the module to use instead of `onnxruntime`.

        Raises:
            EngineError: onnxruntime is not installed, lacks the provider, fell back to another one, or
                cannot load the file.
        """
        chosen = settings or EngineSettings()
        if chosen.engine is not EngineName.ONNXRUNTIME:
            raise EngineError(f"the settings are for {chosen.engine.value}; give settings for onnxruntime")
        module = runtime or _import_onnxruntime()
        provider = _available(module, chosen)
        options = module.SessionOptions()
        options.intra_op_num_threads = engine_threads(chosen.threads)
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = chosen.memory_arena
        options.enable_mem_pattern = chosen.memory_arena
        options.log_severity_level = 3
        if not chosen.spin_between_runs:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        providers: list[Any] = [provider]
        missing = ""
        if provider in GPU_PROVIDERS:
            missing = load_cuda_libraries(module)
            providers = [*provider_chain(provider, chosen.gpu, inputs), CPU_PROVIDER]
        elif provider != CPU_PROVIDER:
            providers.append(CPU_PROVIDER)
        try:
            # without enable_fallback=0 the Python package replaces providers that fail, now or in a run
            self._session = module.InferenceSession(
                os.fspath(model), options, providers=providers, enable_fallback=0
            )
        except _onnxruntime_errors() as error:
            hints = f"{_remedy(error)}; {missing}" if missing else _remedy(error)
            raise EngineError(f"onnxruntime cannot load {model}: {error}{hints}") from error
        actual = self._session.get_providers()
        if actual[0] != provider and not chosen.gpu.allow_cpu:
            raise EngineError(
                f"onnxruntime was told to use {provider} for {model} but runs on {actual[0]}; "
                f"{missing or 'see its log for why'}; mend that, or choose that provider explicitly"
            )
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._module = module
        self._place = ("cuda", chosen.gpu.device) if actual[0] in GPU_PROVIDERS else ("cpu", 0)

    @property
    def runs_on(self) -> str:
        """What the graph really runs on."""
        return f"onnxruntime {self._session.get_providers()[0]}"

    def run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Run the graph once.

        Raises:
            EngineError: the run failed.
        """
        if self._place[0] != "cpu":
            bound = self.bind(feeds)
            bound.run()
            return bound.outputs()
        try:
            values = self._session.run(None, dict(feeds))
        except _onnxruntime_errors() as error:
            raise EngineError(f"onnxruntime failed: {error}") from error
        return dict(zip(self._outputs, values, strict=True))

    def bind(self, feeds: Arrays) -> BoundRun:
        """Put the inputs where the graph runs, for one run or for many with the same inputs.

        Raises:
            EngineError: an input is unknown, or there is no room for it.
        """
        try:
            binding = self._session.io_binding()
            held = []
            for name, array in feeds.items():
                value = self._module.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), *self._place)
                binding.bind_ortvalue_input(name, value)
                held.append(value)
            for name in self._outputs:
                binding.bind_output(name, *self._place)
        except _onnxruntime_errors() as error:
            raise EngineError(f"onnxruntime failed: {error}") from error
        return BoundRun(self._session, binding, tuple(self._outputs), held)


class BoundRun:
    """Inputs that lie where the graph runs, and outputs that stay there until they are asked for."""

    def __init__(self, session: Any, binding: Any, outputs: tuple[str, ...], held: list[Any]) -> None:
        self._session, self._binding, self._outputs = session, binding, outputs
        self._held = held  # the binding does not keep its inputs alive

    def run(self) -> None:
        """Run the graph once; on a GPU it has ended when this returns.

        Raises:
            EngineError: the run failed.
        """
        try:
            self._session.run_with_iobinding(self._binding)
        except _onnxruntime_errors() as error:
            raise EngineError(f"onnxruntime failed: {error}") from error

    def outputs(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the last run's outputs, copied from where they lie.

        Raises:
            EngineError: they cannot be copied.
        """
        try:
            values = self._binding.copy_outputs_to_cpu()
        except _onnxruntime_errors() as error:
            raise EngineError(f"onnxruntime failed: {error}") from error
        return dict(zip(self._outputs, values, strict=True))


def _available(module: Any, settings: EngineSettings) -> str:
    """Return the provider to use: the one asked for, or the CPU's where the settings allow that."""
    available = [name for name in module.get_available_providers() if name != _REMOTE_PROVIDER]
    if settings.provider in available:
        return settings.provider
    if settings.gpu.allow_cpu and CPU_PROVIDER in available:
        return CPU_PROVIDER
    raise EngineError(
        f"onnxruntime {module.__version__} has no {settings.provider}, only {', '.join(available)}; "
        "install the extra that brings it, or choose another provider"
    )


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
