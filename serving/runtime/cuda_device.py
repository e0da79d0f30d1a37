"""The little of CUDA that running an engine needs: one GPU, its memory and one stream.

The functions are those of the CUDA runtime (`cuda.bindings.runtime`, extra `[tensorrt]` or `[tensorrt-rtx]`),
each of which returns its status first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import EngineError
from .tensorrt_record import Gpu

__all__ = ["CudaDevice", "find_gpu"]

_NO_DRIVER = frozenset({"cudaErrorInsufficientDriver", "cudaErrorNoDevice", "cudaErrorStubLibrary"})
"""Statuses that say that there is no GPU, as opposed to one that does not work."""


def find_gpu(device: int = 0, *, bindings: Any = None) -> Gpu | None:
    """Return the GPU of that number, or None if this machine has none.

    Args:
        device: its number.
        bindings: the module to ask instead of `cuda.bindings.runtime`.

    Raises:
        EngineError: CUDA's bindings are not installed, there are fewer GPUs, or CUDA does not work.
    """
    runtime = bindings or _import_bindings()
    status, count = runtime.cudaGetDeviceCount()
    if getattr(status, "name", "") in _NO_DRIVER or (_succeeded(status) and count == 0):
        return None
    _check(status, "cannot count the GPUs")
    if device >= count:
        raise EngineError(f"the GPU is number {device}, but CUDA sees {count}; give 0 to {count - 1}")
    status, properties = runtime.cudaGetDeviceProperties(device)
    _check(status, f"cannot ask GPU {device}")
    name = properties.name
    return Gpu(
        name=name.split(b"\0", 1)[0].decode() if isinstance(name, bytes) else str(name),
        compute_capability=f"{properties.major}.{properties.minor}",
    )


class CudaDevice:
    """Memory and a stream of one GPU. Buffers are kept and grow, so that repeated runs allocate nothing."""

    def __init__(self, device: int = 0, *, bindings: Any = None) -> None:
        """Choose the GPU of that number for this thread and make a stream on it.

        Raises:
            EngineError: there is none, or CUDA does not work.
        """
        self._runtime = bindings or _import_bindings()
        found = find_gpu(device, bindings=self._runtime)
        if found is None:
            raise EngineError("this machine has no GPU that CUDA can use; see `nvidia-smi`")
        self.gpu = found
        self._device = device
        self._buffers: dict[str, tuple[int, int]] = {}
        self.activate()
        self.stream = int(self._call("cudaStreamCreate", "make a stream"))

    def activate(self) -> None:
        """Make the GPU the calling thread's: CUDA keeps one per thread."""
        self._call("cudaSetDevice", "choose the GPU", self._device)

    def buffer(self, name: str, size: int) -> int:
        """Return the address of the buffer of that name, of at least `size` bytes."""
        address, capacity = self._buffers.get(name, (0, 0))
        if size > capacity:
            if address:
                self._call("cudaFree", "free memory", address)
                del self._buffers[name]
            address = int(self._call("cudaMalloc", f"allocate {size} bytes for {name}", size))
            self._buffers[name] = (address, size)
        return address

    def copy_in(self, address: int, array: npt.NDArray[np.generic]) -> None:
        """Copy a contiguous array to the GPU, in the order of the stream."""
        self._copy(address, array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice")

    def copy_out(self, array: npt.NDArray[np.generic], address: int) -> None:
        """Copy from the GPU into a contiguous array; it is there after `synchronize`."""
        self._copy(array.ctypes.data, address, array.nbytes, "cudaMemcpyDeviceToHost")

    def synchronize(self) -> None:
        """Wait until all that was put into the stream is done.

        Raises:
            EngineError: something in the stream failed.
        """
        self._call("cudaStreamSynchronize", "finish the run", self.stream)

    def close(self) -> None:
        """Give back memory and stream."""
        for address, _ in self._buffers.values():
            self._call("cudaFree", "free memory", address)
        self._buffers.clear()
        if self.stream:
            self._call("cudaStreamDestroy", "give the stream back", self.stream)
            self.stream = 0

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        direction = getattr(self._runtime.cudaMemcpyKind, kind)
        self._call("cudaMemcpyAsync", "copy a tensor", target, source, size, direction, self.stream)

    def _call(self, function: str, purpose: str, *arguments: Any) -> Any:
        status, *results = getattr(self._runtime, function)(*arguments)
        _check(status, f"cannot {purpose}")
        return results[0] if results else None


def _succeeded(status: Any) -> bool:
    return int(status) == 0


def _check(status: Any, problem: str) -> None:
    if not _succeeded(status):
        raise EngineError(f"CUDA {problem}: {getattr(status, 'name', status)}")


def _import_bindings() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineError(
            f"CUDA's bindings cannot be imported ({error}); install 'longserve[tensorrt]' or "
            "'longserve[tensorrt-rtx]'"
        ) from error
    return runtime
