"""The parent's end of an engine's process, stopped between its turns."""

from __future__ import annotations

import json

from longserve.serving.measurement.stopped_process import StoppedProcess

from .errors import EngineFailed
from .matrix import EngineSpec

__all__ = ["EngineProcess"]


class EngineProcess(StoppedProcess):
    """A process that holds one engine; its first reply is `runs_on`, `load_seconds` and `memory`."""

    failure = EngineFailed

    def __init__(self, spec: EngineSpec, *, timeout: float) -> None:
        """Start the process and wait until the engine is loaded.

        Args:
            spec: the engine.
            timeout: seconds that the loading and each later request may take.

        Raises:
            EngineFailed: the engine cannot be loaded.
        """
        super().__init__(
            "longserve.export.bench.worker",
            [json.dumps(spec.to_dict())],
            timeout=timeout,
            environment={"OMP_NUM_THREADS": str(spec.threads)},
        )
