"""The processes of a group, as the machine sees them."""

from __future__ import annotations

import subprocess

__all__ = ["group_of"]


def group_of(leader: int) -> list[str]:
    """Process id and name of each process of a group that still runs."""
    result = subprocess.run(["ps", "-eo", "pgid=,stat=,pid=,comm="], capture_output=True, text=True)
    lines = [line.split(maxsplit=3) for line in result.stdout.splitlines()]
    return [f"{pid} {name}" for group, state, pid, name in lines if group == str(leader) and state[0] != "Z"]
