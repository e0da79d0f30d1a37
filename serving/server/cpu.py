"""What the processor can multiply fast: it decides which precision and which engine are worth trying."""

from __future__ import annotations

from pathlib import Path

__all__ = ["INSTRUCTIONS", "cpu_flags", "cpu_name", "describe_cpu"]

_CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = {
    "AVX-512": ("avx512f",),
    "bf16": ("avx512_bf16", "amx_bf16"),
    "int8 (VNNI)": ("avx512_vnni", "avx_vnni"),
    "AMX": ("amx_tile", "amx_int8"),
}
"""Instruction sets by use, with the kernel's names of them (arch/x86/include/asm/cpufeatures.h)."""


def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """Return the kernel's names of the processor's instruction sets; empty where it lists none."""
    return frozenset(_field(cpuinfo, "flags").split())


def cpu_name(cpuinfo: Path = _CPUINFO) -> str:
    """Return the processor's model name, or `unknown processor`."""
    return _field(cpuinfo, "model name") or "unknown processor"


def describe_cpu(cpuinfo: Path = _CPUINFO) -> tuple[str, str]:
    """Return what the processor has, and what follows from what it lacks (empty: nothing does)."""
    flags = cpu_flags(cpuinfo)
    if not flags:
        return f"{cpu_name(cpuinfo)}; its instruction sets are not listed", ""
    there: list[str] = []
    missing: list[str] = []
    for group, names in INSTRUCTIONS.items():
        found = [name for name in names if name in flags]
        (there if found else missing).append(f"{group}: {', '.join(found)}" if found else group)
    described = f"{cpu_name(cpuinfo)}; {'; '.join(there) or 'none of the fast ones'}"
    if missing:
        described += f"; no {', no '.join(missing)}"
    advice = []
    if "bf16" in missing:
        advice.append("bf16 inference is refused here")
    if "int8 (VNNI)" in missing:
        advice.append("int8 gains little here, measure before choosing it")
    return described, "; ".join(advice)


def _field(cpuinfo: Path, name: str) -> str:
    """Return a field of the first processor."""
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
