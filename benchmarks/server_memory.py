"""Resident memory of the processes of a running server: Triton itself and one for each Python instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from longserve.export.bench import BenchError
from longserve.export.bench.process_memory import read_memory

_STUB = "triton_python_backend_stub"


def server_memory(server: int) -> list[dict[str, Any]]:
    """Read the memory of the processes of the Triton whose process id is `server`, in bytes.

    Returns:
        For each process its `model` (None for Triton itself, which holds the batcher and the sockets), the
        most that was ever resident (`peak_bytes`), and what of the present belongs to no file
        (`private_bytes`).
    """
    found = []
    for process, words in _family(server):
        program = Path(words[0]).name
        if program not in ("tritonserver", _STUB):
            continue
        try:
            memory = read_memory(process)
        except BenchError:  # it ended meanwhile
            continue
        model = None
        if program == _STUB:
            # .../repository/MODEL/1/model.py is the first argument
            model = Path(words[1]).parent.parent.name
        found.append({"model": model, "peak_bytes": memory.peak, "private_bytes": memory.private})
    return sorted(found, key=lambda entry: entry["model"] or "")


def _family(eldest: int) -> list[tuple[int, list[str]]]:
    """Return a process and every process below it with the words of its command line."""
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
        family += [(process, commands[process]) for process in sorted(generation)]
        generation = {process for process, above in parents.items() if above in generation}
    return family
