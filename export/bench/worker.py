"""One engine in a process of its own: `python -m longserve.export.bench.worker FD SPEC`.

It answers the requests that come over the socket FD; `EngineProcess` is the other end.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from longserve.serving.measurement.worker import answer_requests

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """Open the engine, then answer until the other end closes."""

    def start() -> tuple[Mapping[str, Any], Callable[[dict[str, Any]], Mapping[str, Any]]]:
        began = time.perf_counter()
        from longserve.serving.measurement.memory import read_memory
        from longserve.serving.server.cpu import cpu_flags

        from .commands import EngineCommands
        from .engines import check_instructions, open_bench_engine
        from .matrix import EngineSpec

        spec = EngineSpec.from_dict(json.loads(arguments[1]))
        check_instructions(spec, cpu_flags())
        engine = open_bench_engine(spec)
        ready = {
            "runs_on": engine.runs_on,
            "load_seconds": time.perf_counter() - began,
            "memory": asdict(read_memory()),
        }
        return ready, EngineCommands(engine).answer

    answer_requests(int(arguments[0]), start)


if __name__ == "__main__":
    main(sys.argv[1:])
