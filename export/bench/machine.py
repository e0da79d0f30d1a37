"""What a figure was measured on, and whether there is memory for one engine more."""

from __future__ import annotations

from pathlib import Path

from longserve.serving.measurement.machine import Machine, describe_machine, library_versions, read_fields

from .errors import EngineFailed

__all__ = ["Machine", "check_free_memory", "describe_machine", "library_versions"]

_RESERVE = 2_000_000_000


def check_free_memory() -> None:
    """Check that an engine more can be started: all that are measured together keep their memory.

    Mapped files, weights above all, do not count as free: the kernel would drop them, and the engines read
    them from disk again in their turns.

    Raises:
        EngineFailed: less than a tenth of the memory is free, or less than 2 GB of a large one.
    """
    fields = read_fields(Path("/proc/meminfo"))
    if not {"MemTotal", "MemAvailable", "Mapped"} <= set(fields):
        return
    total, available, mapped = (
        int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable", "Mapped")
    )
    free = max(0, available - mapped)
    if free < min(_RESERVE, total // 10):
        raise EngineFailed(
            f"only {free / 1e6:.0f} MB of memory are free beside the engines that are loaded; load fewer "
            "at a time with --at-once"
        )
