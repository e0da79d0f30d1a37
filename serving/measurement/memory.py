"""Resident memory of this process, from /proc (proc(5))."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import MeasurementError

__all__ = ["ProcessMemory", "read_memory", "reset_peak"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMemory:
    """Resident memory in bytes.

    Attributes:
        resident: now (`VmRSS`), mapped files included.
        private: the part that belongs to no file (`RssAnon`): what a mapped weight file does not cost.
        peak: the most since the process began, or since `reset_peak` (`VmHWM`).
    """

    resident: int
    private: int
    peak: int


def read_memory(process: int | str = "self") -> ProcessMemory:
    """Read a process's resident memory.

    Args:
        process: its id, or `self`.

    Raises:
        MeasurementError: /proc is not there (no Linux), or the process is gone.
    """
    source = Path(f"/proc/{process}/status")
    try:
        lines = source.read_text(encoding="ascii", errors="replace").splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        resident, private, peak = (
            int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon", "VmHWM")
        )
    except (OSError, KeyError) as error:
        raise MeasurementError(
            f"{source} tells no memory ({error}); memory is measured on Linux only"
        ) from error
    return ProcessMemory(resident=resident, private=private, peak=peak)


def reset_peak() -> None:
    """Let this process's peak begin anew at what is resident now.

    Raises:
        MeasurementError: the kernel does not allow it.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError as error:
        raise MeasurementError(
            f"/proc/self/clear_refs cannot be written ({error}): memory is measured on Linux, "
            "in a process that may write its own /proc"
        ) from error
