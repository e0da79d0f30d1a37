"""The padded baseline of `server_throughput.py`: `model.py` of an encoder that pads what Triton batches.

It is the served encoder itself (beside it as `packed_encoder.py`) with four of its functions replaced: the
sequences of one execution become one batch of the padded graph, each padded to the longest of them. Engine,
threads, checks, batcher and queue are the same. A batch that would have more than `max_tokens_per_run`
tokens, padding included, is cut in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import packed_encoder
from longserve_runtime.bundle import Bundle
from longserve_runtime.engine import Engine, EngineSettings, open_engine
from longserve_runtime.manifest import Layout, Manifest
from longserve_runtime.packing import EncoderOutput, EncoderSequence, pad, unpad

TritonPythonModel = packed_encoder.TritonPythonModel


def graph_files(directory: Path) -> set[str]:
    """The files that the padded graph consists of."""
    manifest = Bundle.open(directory, only=()).manifest
    data = {record.name for record in manifest.files if record.name.endswith(".data")}
    return {manifest.graph(Layout.PADDED).file} | data


def open_padded_engine(bundle: Bundle, settings: EngineSettings | None = None) -> Engine:
    """Open the padded graph instead of the packed one."""
    return open_engine(bundle.model_path(Layout.PADDED), settings)


def encode_padded(
    engine: Engine, sequences: Sequence[EncoderSequence], manifest: Manifest, *unused: Any
) -> list[EncoderOutput]:
    """Run sequences as one padded batch; further arguments (metrics) have no part in it."""
    lengths = [sequence.input_ids.size for sequence in sequences]
    return unpad(engine.run(pad(sequences, manifest)), lengths, manifest.task)


def plan_padded_runs(lengths: Sequence[int], max_tokens: int) -> list[range]:
    """Cut a list of sequences into batches of at most `max_tokens` tokens with their padding."""
    runs: list[range] = []
    start = 0
    for index in range(len(lengths)):
        if index > start and max(lengths[start : index + 1]) * (index + 1 - start) > max_tokens:
            runs.append(range(start, index))
            start = index
    if start < len(lengths):
        runs.append(range(start, len(lengths)))
    return runs


for _name, _replacement in {
    "_graph_files": graph_files,
    "open_packed_engine": open_padded_engine,
    "encode": encode_padded,
    "plan_runs": plan_padded_runs,
}.items():
    getattr(packed_encoder, _name)  # an encoder that has no such function would still pack
    setattr(packed_encoder, _name, _replacement)
