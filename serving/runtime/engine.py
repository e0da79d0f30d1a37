"""Engines: what runs a bundle's ONNX file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .engine_settings import CPU_PROVIDER, Arrays, EngineName, EngineSettings, InferencePrecision
from .errors import IncompatibleEngine
from .manifest import Layout, Manifest
from .observation import UNOBSERVED, EncoderRun, RunObserver
from .onnxruntime_engine import OnnxRuntimeEngine
from .openvino_engine import OpenVinoEngine
from .packing import EncoderOutput, EncoderSequence, pack, unpack
from .tensorrt_engine import TensorRtEngine
from .tensorrt_record import EngineRecord

__all__ = [
    "CPU_PROVIDER",
    "Engine",
    "EngineName",
    "EngineSettings",
    "InferencePrecision",
    "OnnxRuntimeEngine",
    "OpenVinoEngine",
    "TensorRtEngine",
    "encode",
    "open_engine",
    "open_packed_engine",
]


class Engine(Protocol):
    """Runs one graph of a bundle."""

    @property
    def runs_on(self) -> str:
        """What the graph really runs on, e.g. `onnxruntime CPUExecutionProvider` or
        `openvino CPU bf16`."""
        ...

    def run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Run the graph once. Keys and values are the tensors' names and arrays.

        Raises:
            EngineError: the run failed.
        """
        ...


def encode(
    engine: Engine,
    sequences: Sequence[EncoderSequence],
    manifest: Manifest,
    observer: RunObserver = UNOBSERVED,
) -> list[EncoderOutput]:
    """Run sequences of mixed length in one packed run.

    Raises:
        InvalidInput: a sequence is unfit for the model.
        EngineError: the run failed.
    """
    feeds = pack(sequences, manifest)
    lengths = [sequence.input_ids.size for sequence in sequences]
    started = time.perf_counter()
    outputs = engine.run(feeds)
    seconds = time.perf_counter() - started
    results = unpack(outputs, lengths, manifest.task)
    observer.ran(
        EncoderRun(
            sequences=len(sequences),
            tokens=sum(lengths),
            positions=feeds["input_ids"].size,
            seconds=seconds,
        )
    )
    return results


def open_engine(model: str | Path, settings: EngineSettings | None = None) -> Engine:
    """Load an ONNX file in the engine that the settings name; by default ONNX Runtime on the CPU.

    For TensorRT `model` is a directory that `longserve tensorrt` wrote.

    Raises:
        EngineError: the engine is not installed, cannot do what the settings ask for, or cannot load the
            file.
    """
    chosen = settings or EngineSettings()
    if chosen.engine is EngineName.OPENVINO:
        return OpenVinoEngine(model, chosen)
    if chosen.engine is EngineName.TENSORRT:
        return TensorRtEngine(model, chosen)
    return OnnxRuntimeEngine(model, chosen)


def open_packed_engine(bundle: Bundle, settings: EngineSettings | None = None) -> Engine:
    """Open the packed graph of a bundle; for TensorRT, the engine that lies beside its files.

    Raises:
        EngineError: see `open_engine`; for TensorRT also, the engine is none of the packed graph, or none of
            this bundle.
    """
    if settings is not None and settings.engine is EngineName.TENSORRT:
        return _open_packed_plan(bundle, settings)
    if settings is None or settings.engine is EngineName.ONNXRUNTIME:
        inputs = bundle.manifest.graph(Layout.PACKED).inputs
        return OnnxRuntimeEngine(bundle.model_path(Layout.PACKED), settings, inputs=inputs)
    return open_engine(bundle.model_path(Layout.PACKED), settings)


def _open_packed_plan(bundle: Bundle, settings: EngineSettings) -> Engine:
    record = EngineRecord.read(bundle.path)
    record.check_bundle(bundle.fingerprint)
    if record.layout is not Layout.PACKED:
        raise IncompatibleEngine(
            f"the engine in {bundle.path} is of the {record.layout.value} graph; build one with "
            "`longserve tensorrt --layout packed`"
        )
    return TensorRtEngine(bundle.path, settings, record=record)
