"""Freed memory that stays with the process while PyTorch computes.

An eager model allocates and frees every intermediate value. From 32 MB on at the latest, glibc takes each
from the kernel and gives it back, and the kernel has to clear each page anew: the stock model of the base
size touches 13 GB of new pages for 4,096 tokens. In a virtual machine that took a third of the time
(docs/performance.md).
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator

__all__ = ["can_keep_memory", "keep_freed_memory", "kept_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h
_KEPT = 1 << 30
_USUAL = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
"""What glibc's own thresholds come to in a process that frees large blocks."""


def can_keep_memory() -> bool:
    """Return whether the C library is glibc, which can be told to keep freed memory."""
    return _function("mallopt") is not None


def keep_freed_memory() -> bool:
    """Let the C library keep freed blocks of up to 1 GB for the rest of the process.

    Returns:
        Whether it does; False where it is not glibc.
    """
    return _set({_MMAP_THRESHOLD: _KEPT, _TRIM_THRESHOLD: _KEPT})


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Let the C library keep freed blocks meanwhile, and give back afterwards what is free then.

    The thresholds are the process's, for all of its threads. Without glibc nothing changes.
    """
    if not keep_freed_memory():
        yield
        return
    try:
        yield
    finally:
        _set(_USUAL)
        trim = _function("malloc_trim")
        if trim is not None:
            trim(ctypes.c_size_t(0))


def _set(thresholds: dict[int, int]) -> bool:
    option = _function("mallopt")
    return option is not None and all(option(name, value) == 1 for name, value in thresholds.items())


def _function(name: str) -> Callable[..., int] | None:
    """Return a function of glibc; None where the C library is another."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such handle
        return None
    if not hasattr(library, "gnu_get_libc_version"):
        return None
    found: Callable[..., int] = getattr(library, name)
    return found
