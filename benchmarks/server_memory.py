"""Resident memory of the processes of a running server: Triton itself and one for each Python instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from longserve.serving.measurement import MeasurementError, read_memory

__all__ = ["process_family", "server_memory"]

_TRITON, _STUB = "tritonserver", "triton_python_backend_stub"


def server_memory(server: int) -> list[dict[str, Any]]:
    """Read the memory of the processes of the Triton whose process id is `server`, in bytes.

    Returns:
        For each process its `model` (None for Triton itself, which holds the batcher and the sockets), the
        most that was ever resident (`peak_bytes`), and what of the present belongs to no file
        (`private_bytes`).
    """
    found = []
    for process, program, model in process_family(server):
        if program not in (_TRITON, _STUB):
            continue
        try:
            memory = read_memory(process)
        except MeasurementError:  # it ended meanwhile
            continue
        found.append({"model": model, "peak_bytes": memory.peak, "private_bytes": memory.private})
    return sorted(found, key=lambda entry: entry["model"] or "")


def process_family(eldest: int) -> list[tuple[int, str, str | None]]:
    """Return a process and every process below it: id, program, and the model if it runs one for Triton."""
    parents, commands = {}, {}
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal():
            continue
        try:
            stat = (directory / "stat").read_text(encoding="utf-8", errors="replace")
            words = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        process = int(directory.name)
        parents[process] = int(stat.rsplit(")", 1)[1].split()[1])
        commands[process] = words
    family, generation = [], {eldest} & set(commands)
    while generation:
        family += [(process, *_program_and_model(commands[process])) for process in sorted(generation)]
        generation = {process for process, above in parents.items() if above in generation}
    return family


def _program_and_model(words: list[str]) -> tuple[str, str | None]:
    program = Path(words[0]).name
    # a stub's first argument is .../repository/MODEL/1/model.py
    return program, Path(words[1]).parent.parent.name if program == _STUB else None
