"""TensorRT as the engine of a bundle's graph, from a plan that `longserve tensorrt` built."""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .cuda_device import CudaDevice
from .engine_settings import Arrays, EngineName, EngineSettings
from .errors import EngineError, IncompatibleEngine
from .tensorrt_record import EngineRecord, TensorRtLibrary

__all__ = ["TensorRtEngine", "import_tensorrt"]

_INSTALL = {
    TensorRtLibrary.TENSORRT: "install 'longserve[tensorrt]'",
    TensorRtLibrary.TENSORRT_RTX: "install 'longserve[tensorrt-rtx]'",
}


def import_tensorrt(library: TensorRtLibrary) -> Any:
    """Return the library's module.

    Raises:
        EngineError: it is not installed, or its own libraries are not found.
    """
    try:
        return importlib.import_module(library.value)
    except (ImportError, OSError) as error:
        raise EngineError(
            f"{library.value} cannot be imported ({error}); {_INSTALL[library]}, or choose the other library"
        ) from error


class TensorRtEngine:
    """An engine in TensorRT or TensorRT-RTX. Runs from several threads wait for each other."""

    def __init__(
        self,
        directory: str | Path,
        settings: EngineSettings | None = None,
        *,
        library: Any = None,
        device: CudaDevice | None = None,
        record: EngineRecord | None = None,
    ) -> None:
        """Load the plan in a directory that `longserve tensorrt` wrote.

        Args:
            directory: it holds `engine.json` and the plan.
            settings: their GPU's number counts.
            library: the module to use instead of the one that the record names.
            device: the GPU to use instead of the one that the settings name.
            record: what the plan is, instead of `engine.json`.

        Raises:
            IncompatibleEngine: the engine is damaged, or another version's or GPU's.
            EngineError: the library or CUDA is not there, or the plan cannot be loaded.
        """
        chosen = settings or EngineSettings(engine=EngineName.TENSORRT)
        if chosen.engine is not EngineName.TENSORRT:
            raise EngineError(f"the settings are for {chosen.engine.value}; give settings for tensorrt")
        self.record = record or EngineRecord.read(directory)
        plan = self.record.check_plan(directory)
        module = library or import_tensorrt(self.record.library)
        self._device = device or CudaDevice(chosen.gpu.device)
        self.record.check_here(self.record.library, str(module.__version__), self._device.gpu)
        self._logger = module.Logger(module.Logger.ERROR)
        self._runtime = module.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise IncompatibleEngine(
                f"{self.record.library.value} {self.record.version} cannot load {plan} on "
                f"{self._device.gpu}; see its log, and build the engine again with `longserve tensorrt` on "
                "this machine"
            )
        self._check_tensors()
        self._cache = _RuntimeCache(self.record, chosen.gpu.cache)
        self._context = self._cache.make_context(self._engine)
        if self._context is None:
            raise EngineError(
                f"{self.record.library.value} cannot make an execution context for {plan}: too little memory "
                f"on {self._device.gpu}? Build the engine with smaller profiles"
            )
        self._profile = 0
        self._lock = threading.Lock()

    @property
    def runs_on(self) -> str:
        """What the graph really runs on, e.g. `tensorrt 10.9.0 NVIDIA H200`."""
        return f"{self.record.library.value} {self.record.version} {self._device.gpu.name}"

    def run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Run the graph once. The arrays that it returns are the caller's.

        Raises:
            OutsideProfile: the run does not fit the engine; nothing was run.
            EngineError: the run failed.
        """
        profile = self.record.check_run(feeds)
        sizes = self.record.axes(feeds)
        with self._lock:
            self._device.activate()
            self._select(profile)
            for tensor in self.record.inputs:
                self._put(tensor.name, np.ascontiguousarray(feeds[tensor.name]))
            outputs = {
                tensor.name: self._room(tensor.name, tuple(_size(axis, sizes) for axis in tensor.axes))
                for tensor in self.record.outputs
            }
            if not self._context.execute_async_v3(self._device.stream):
                raise EngineError(f"{self.runs_on} failed; see its log")
            for name, array in outputs.items():
                self._device.copy_out(array, self._device.buffer(name, array.nbytes))
            self._device.synchronize()
        return outputs

    def close(self) -> None:
        """Keep what the library compiled while it ran, if the settings name a place, and free the GPU.

        Raises:
            EngineError: that place cannot be written to; the GPU is free all the same.
        """
        with self._lock:
            self._device.activate()
            try:
                self._cache.save()
            except OSError as error:
                raise EngineError(
                    f"{error.filename or 'the cache'} cannot be written: {error.strerror or error}; "
                    "give another directory for what TensorRT-RTX compiles"
                ) from error
            finally:
                self._device.close()

    def _check_tensors(self) -> None:
        """Check that the plan holds the tensors that the record names."""
        held = {self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)}
        named = {tensor.name for tensor in (*self.record.inputs, *self.record.outputs)}
        if held != named:
            raise IncompatibleEngine(
                f"the plan holds the tensors {', '.join(sorted(held))}, its record names "
                f"{', '.join(sorted(named))}; build the engine again with `longserve tensorrt`"
            )

    def _select(self, profile: int) -> None:
        if profile == self._profile:
            return
        if not self._context.set_optimization_profile_async(profile, self._device.stream):
            raise EngineError(f"{self.runs_on} cannot change to its profile {profile}; see its log")
        self._device.synchronize()
        self._profile = profile

    def _put(self, name: str, array: npt.NDArray[np.generic]) -> None:
        address = self._device.buffer(name, array.nbytes)
        self._device.copy_in(address, array)
        placed = self._context.set_input_shape(name, array.shape)
        if not (placed and self._context.set_tensor_address(name, address)):
            raise EngineError(
                f"{self.runs_on} does not take {name} of shape {list(array.shape)}; see its log"
            )

    def _room(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
        """Give an output its place, and return the array that it will be copied to."""
        given = tuple(self._context.get_tensor_shape(name))
        if given != shape:
            raise EngineError(
                f"{self.runs_on} gives {name} of shape {list(given)} where {list(shape)} is due"
            )
        array = np.empty(shape, dtype=np.float32)
        if not self._context.set_tensor_address(name, self._device.buffer(name, array.nbytes)):
            raise EngineError(f"{self.runs_on} does not take the place of {name}; see its log")
        return array


class _RuntimeCache:
    """What TensorRT-RTX compiles when it first meets a shape, kept for the next process.

    TensorRT compiles everything when the engine is built and has no such cache.
    """

    def __init__(self, record: EngineRecord, directory: str | None) -> None:
        self._used = record.library is TensorRtLibrary.TENSORRT_RTX and directory is not None
        self._path = Path(directory or "") / f"{record.plan.sha256[:16]}.runtime-cache"
        self._cache: Any = None

    def make_context(self, engine: Any) -> Any:
        if not self._used:
            return engine.create_execution_context()
        config = engine.create_runtime_config()
        self._cache = config.create_runtime_cache()
        if self._path.is_file():
            # one of another driver or GPU is refused there, and then compiled anew
            self._cache.deserialize(self._path.read_bytes())
        config.set_runtime_cache(self._cache)
        return engine.create_execution_context(config)

    def save(self) -> None:
        if self._cache is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        stage = self._path.with_name(f"{self._path.name}.part")
        stage.write_bytes(bytes(self._cache.serialize()))
        stage.replace(self._path)


def _size(axis: str | int, sizes: dict[str, int]) -> int:
    return axis if isinstance(axis, int) else sizes[axis]
