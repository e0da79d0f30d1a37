"""How many processor cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["available_cores", "engine_threads"]


def available_cores(cgroup: str | Path = "/sys/fs/cgroup") -> int:
    """Return the cores that the scheduler's affinity mask and the container's CPU quota leave, at least 1.

    `os.cpu_count()` counts the host's, so that a container limited to two of 64 cores would start 64 threads.

    Args:
        cgroup: where the control group is mounted. Version 2 has `cpu.max` (kernel documentation,
            admin-guide/cgroup-v2), version 1 `cpu/cpu.cfs_quota_us` and `cpu/cpu.cfs_period_us`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(Path(cgroup))
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def engine_threads(asked: int) -> int:
    """Return the threads to ask a library for that counts the machine's cores, not those it may use.

    ONNX Runtime starts a thread for each of the machine's cores, also on those that the process may not run
    on; each of them then waits for the others to have their turn.

    Args:
        asked: the user's choice; 0 for none.

    Returns:
        What was asked; else the available cores where they are fewer than the machine's; else 0, which leaves
        the number to the library.
    """
    if asked:
        return asked
    available = available_cores()
    return available if available < (os.cpu_count() or available) else 0


def _quota(cgroup: Path) -> float | None:
    words = _words(cgroup / "cpu.max")
    if not words:
        words = _words(cgroup / "cpu" / "cpu.cfs_quota_us") + _words(cgroup / "cpu" / "cpu.cfs_period_us")
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return None  # "max", -1 or no such file: no quota
    return int(words[0]) / int(words[1])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []
