"""What a figure was measured on: processor, memory, versions."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path

from ..runtime.cores import available_cores

__all__ = ["Machine", "describe_machine", "library_versions", "read_fields"]

_FLAGS = (
    "avx2",
    "avx_vnni",
    "avx_vnni_int8",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
)
"""Flags of /proc/cpuinfo that decide which matrix instructions an engine can use."""
_LIBRARIES = (
    "longserve",
    "torch",
    "transformers",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "nncf",
    "numpy",
    "tritonclient",
    "nvidia-pytriton",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine.

    Attributes:
        cpu: the processor's model name.
        flags: those of its flags that decide which matrix instructions an engine can use.
        cores: cores that this process may use.
        memory_bytes: physical memory; None where /proc/meminfo is not there.
        system: kernel, C library and Python.
    """

    cpu: str
    flags: tuple[str, ...]
    cores: int
    memory_bytes: int | None
    system: str


def describe_machine() -> Machine:
    """Return what this machine is, from /proc where that is there."""
    info = read_fields(Path("/proc/cpuinfo"))
    flags = set(info.get("flags", "").split())
    memory = read_fields(Path("/proc/meminfo")).get("MemTotal")
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        flags=tuple(flag for flag in _FLAGS if flag in flags),
        cores=available_cores(),
        memory_bytes=None if memory is None else int(memory.split()[0]) * 1024,
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    )


def library_versions() -> dict[str, str]:
    """Return the installed versions of what takes part in a measurement."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def read_fields(path: Path) -> dict[str, str]:
    """Read the `name: value` lines of a file of /proc, the first of each name; none if it is not there."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields
