"""One engine in a process of its own: `python -m longserve.export.bench.worker FD SPEC`.

Commands come and replies go as JSON, one object a line, over the socket FD; `EngineProcess` is the other end.
What the libraries print goes to standard error. A failure ends the process after a reply that names it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """Open the engine, then answer until the other end closes."""
    channel = socket.socket(fileno=int(arguments[0]))
    stream = channel.makefile("rw", encoding="utf-8", newline="\n")
    os.dup2(2, 1)

    def tell(reply: Mapping[str, Any]) -> None:
        stream.write(json.dumps(reply) + "\n")
        stream.flush()

    def fail(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        tell({"error": f"{kind.__name__}: {error}"})
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = fail
    began = time.perf_counter()
    # not earlier: what an import raises is to be told too
    from .commands import EngineCommands
    from .engines import open_bench_engine
    from .matrix import EngineSpec
    from .process_memory import read_memory

    engine = open_bench_engine(EngineSpec.from_dict(json.loads(arguments[1])))
    tell(
        {
            "runs_on": engine.runs_on,
            "load_seconds": time.perf_counter() - began,
            "memory": asdict(read_memory()),
        }
    )
    commands = EngineCommands(engine)
    for line in stream:
        tell(commands.answer(json.loads(line)))


if __name__ == "__main__":
    main(sys.argv[1:])
