"""Freed memory that stays with the process while PyTorch computes.

An eager model allocates and frees every intermediate value. From 32 MB on at the latest, glibc takes each
from the kernel and gives it back, and the kernel has to clear each page anew: the stock model of the base
size touches 13 GB of new pages for 4,096 tokens. In a virtual machine that took a third of the time
(docs/performance.md).
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

__all__ = ["can_keep_memory", "keep_freed_memory", "kept_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h
_KEPT = {_MMAP_THRESHOLD: 1 << 30, _TRIM_THRESHOLD: 1 << 30}
_USUAL = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
"""What glibc's own thresholds come to in a process that frees large blocks."""


def can_keep_memory() -> bool:
    """Return whether the C library is glibc, which can be told to keep freed memory."""
    return _glibc() is not None


def keep_freed_memory() -> bool:
    """Let the C library keep freed blocks of up to 1 GB for the rest of the process.

    Returns:
        Whether it does; False where it is not glibc.
    """
    library = _glibc()
    return library is not None and _set(library, _KEPT)


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Let the C library keep freed blocks meanwhile, and give back afterwards what is free then.

    The thresholds are the process's, for all of its threads; afterwards they are the usual ones, because
    glibc does not tell what they were. Without glibc nothing changes.
    """
    library = _glibc()
    if library is None or not _set(library, _KEPT):
        yield
        return
    try:
        yield
    finally:
        _set(library, _USUAL)
        library.malloc_trim(ctypes.c_size_t(0))


def _set(library: ctypes.CDLL, thresholds: dict[int, int]) -> bool:
    return all(library.mallopt(name, value) == 1 for name, value in thresholds.items())


def _glibc() -> ctypes.CDLL | None:
    """Return the C library of this process, None if it is another one."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such handle
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None
