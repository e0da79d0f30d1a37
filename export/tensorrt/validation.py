"""Comparing an engine with the bundle that it was built from, on the GPU that it was built on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import Engine, EngineName, EngineSettings, open_engine
from longserve.serving.runtime.manifest import Layout, Manifest, Precision
from longserve.serving.runtime.packing import EncoderSequence, pack, pad, unpack, unpad
from longserve.serving.runtime.profiles import OptimizationProfile
from longserve.serving.runtime.tensorrt_engine import TensorRtEngine
from longserve.serving.runtime.tensorrt_record import EngineRecord, EngineValidation

from ..errors import ParityFailed
from ..parity import TOLERANCES

__all__ = ["compare_engine", "sample_runs", "validator"]

_LONGEST = 4
"""A run of the comparison has at most so many times the model's length in tokens."""


def compare_engine(
    engine: Engine, bundle: Bundle, record: EngineRecord, reference: Engine | None = None
) -> EngineValidation:
    """Compare an engine with the bundle's graph on the CPU, at the edges of every profile.

    The bundle itself was compared with PyTorch when it was exported, so its tolerance applies.

    Args:
        engine: the engine.
        bundle: what it was built from.
        record: what it takes.
        reference: what computes the expected logits; None: ONNX Runtime, and for bf16 OpenVINO, because ONNX
            Runtime has no kernels for it on CPUs.

    Raises:
        ParityFailed: a logit differs by more than the tolerance, or is not finite.
        EngineError: an engine is missing or fails.
    """
    expected = reference or _reference(bundle, record.layout)
    tolerance = TOLERANCES[record.precision].max_relative
    worst, cases = 0.0, 0
    for name, rows in sample_runs(bundle.manifest, record):
        wanted = _logits(expected, rows, bundle.manifest, record.layout)
        difference = _difference(wanted, _logits(engine, rows, bundle.manifest, record.layout))
        if not difference <= tolerance:
            raise ParityFailed(
                f"the engine differs from the bundle in {expected.runs_on} by {difference:.3g} of the "
                f"largest logit at {name} (allowed {tolerance:.3g}); it is not kept"
            )
        worst, cases = max(worst, difference), cases + 1
    return EngineValidation(reference=expected.runs_on, cases=cases, max_relative=worst, tolerance=tolerance)


def validator(engine: TensorRtEngine, bundle: Bundle) -> EngineValidation:
    """Compare an engine with its bundle; what `build_engine` calls."""
    return compare_engine(engine, bundle, engine.record)


def sample_runs(
    manifest: Manifest, record: EngineRecord, *, seed: int = 0
) -> Iterator[tuple[str, list[EncoderSequence]]]:
    """Yield a name and the sequences of runs at the edges of every profile, with few and many global tokens.

    Args:
        manifest: the bundle's.
        record: the engine's.
        seed: of the random ids and masks.
    """
    random = np.random.default_rng(seed)
    for index, profile in enumerate(record.profiles):
        for sequences, tokens in _edges(profile, manifest, record.layout):
            most = record.global_capacity or 0
            each = most if record.layout is Layout.PADDED else most // sequences
            for count in sorted({0, min(1, each), each}):
                rows = _rows(random, manifest, record.layout, sequences, tokens, count)
                yield f"profile {index}, {sequences} x {tokens} tokens, {count} global", rows


def _edges(profile: OptimizationProfile, manifest: Manifest, layout: Layout) -> list[tuple[int, int]]:
    """Return (sequences, tokens of the row or run) at the ends of a profile, as far as a run can be so."""
    found = set()
    for sequences in (profile.sequences.minimum, profile.sequences.maximum):
        for tokens in (profile.tokens.minimum, profile.tokens.optimum, profile.tokens.maximum):
            if layout is Layout.PADDED:
                found.add((sequences, min(tokens, manifest.max_length)))
                continue
            bounded = min(tokens, sequences * manifest.max_length, _LONGEST * manifest.max_length)
            if bounded >= max(sequences, profile.tokens.minimum):
                found.add((sequences, bounded))
    return sorted(found)


def _rows(
    random: np.random.Generator, manifest: Manifest, layout: Layout, sequences: int, tokens: int, most: int
) -> list[EncoderSequence]:
    if layout is Layout.PADDED:
        lengths = [tokens] + [max(1, tokens - 3 * row) for row in range(1, sequences)]
    else:
        lengths = [tokens // sequences + (row < tokens % sequences) for row in range(sequences)]
    legal = np.setdiff1d(np.arange(manifest.vocab_size), list(manifest.special_tokens.values()))
    rows = []
    for length in lengths:
        mask = np.zeros(length, dtype=np.int64)
        mask[random.permutation(length)[: min(most, length)]] = 1
        ids = random.choice(legal, length).astype(np.int64)
        named = {tensor.name for tensor in manifest.graph(layout).inputs}
        rows.append(
            EncoderSequence(
                input_ids=ids, global_attention_mask=mask if "global_attention_mask" in named else None
            )
        )
    return rows


def _logits(
    engine: Engine, rows: Sequence[EncoderSequence], manifest: Manifest, layout: Layout
) -> npt.NDArray[np.float64]:
    """Return all logits of a run, one after the other; what stands at padding is nobody's and left out."""
    lengths = [row.input_ids.size for row in rows]
    if layout is Layout.PADDED:
        outputs = unpad(engine.run(pad(rows, manifest)), lengths, manifest.task)
    else:
        outputs = unpack(engine.run(pack(rows, manifest)), lengths, manifest.task)
    vectors = [vector for output in outputs for vector in output.vectors()]
    return np.concatenate(vectors).astype(np.float64)


def _difference(expected: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> float:
    """Return the largest difference over max(1, largest expected logit); infinite if one is not finite."""
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(expected - found).max()) / max(1.0, float(np.abs(expected).max()))


def _reference(bundle: Bundle, layout: Layout) -> Engine:
    name = EngineName.OPENVINO if bundle.manifest.precision is Precision.BF16 else EngineName.ONNXRUNTIME
    return open_engine(bundle.model_path(layout), EngineSettings(engine=name))
