"""Processes that are measured start whatever else the parent does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PARENT = """
import os
from longserve.serving.measurement import StoppedProcess
os.register_at_fork(after_in_child=os.abort)
with StoppedProcess("echoing", [], timeout=30) as process:
    assert process.ask("echo", value=5) == {"value": 5}
print("done")
"""
WORKER = """
import sys
from longserve.serving.measurement import answer_requests
answer_requests(int(sys.argv[1]), lambda: ({}, lambda message: message["with"]))
"""


def test_the_parents_fork_handlers_are_not_run_in_it(tmp_path: Path) -> None:
    """Those of gRPC ended the child of a process that had a server."""
    (tmp_path / "echoing.py").write_text(WORKER, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PARENT], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "done\n", done.stderr
