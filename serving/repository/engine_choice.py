"""Which engine runs a bundle fastest on this machine: measured, not guessed."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..runtime.bundle import Bundle
from ..runtime.engine import (
    Engine,
    EngineName,
    EngineSettings,
    InferencePrecision,
    encode,
    open_packed_engine,
)
from ..runtime.errors import EngineError
from ..runtime.manifest import GlobalAttention, Manifest, Precision
from ..runtime.packing import EncoderOutput, EncoderSequence

__all__ = ["Candidate", "EngineChoice", "candidates", "choose_engine", "measured_lengths"]

_LENGTHS = (128, 512, 2048)
_QUESTION_TOKENS = 20
_SEED = 0
_MIN_ROUNDS, _MAX_ROUNDS = 3, 15
_SECONDS_PER_LENGTH = 15.0
"""Rounds over all candidates go on for so long at one length, within the bounds above."""
_PAUSE = 0.01
"""Seconds between two runs, in which the last engine's threads stop spinning."""
_MARGIN = 1.05
"""How much faster a candidate must be than those before it: less is noise, and no reason to leave the default
engine or to round."""
_SAME_ARITHMETIC = 2e-5
"""Two engines that are each within 1e-5 of PyTorch, the tolerance of fp32."""
_FP16, _BF16, _INT8 = 0.02, 0.1, 0.25
"""What may differ where numbers are rounded: the tolerances of the comparison with PyTorch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One engine with one arithmetic, and what became of it.

    Attributes:
        engine: the library.
        inference_precision: arithmetic of the float operators.
        allowed: whether it may be chosen; the reference is measured even where it may not.
        seconds: median of one run by length; empty if it was not measured.
        speedup: geometric mean over the lengths of the reference's time divided by this one's.
        difference: largest difference from the reference's logits, relative to the larger of 1 and the
            largest logit.
        refused: why it cannot be chosen; empty if it can.
    """

    engine: EngineName
    inference_precision: InferencePrecision
    allowed: bool = True
    seconds: tuple[float, ...] = ()
    speedup: float = 0.0
    difference: float = 0.0
    refused: str = ""

    @property
    def name(self) -> str:
        """Engine and arithmetic, e.g. `openvino bf16`."""
        return f"{self.engine.value} {self.inference_precision.value}"

    def settings(self, threads: int) -> EngineSettings:
        """Return the settings that open it, as the server's encoder has them."""
        return EngineSettings(
            engine=self.engine,
            inference_precision=self.inference_precision,
            threads=threads,
            spin_between_runs=False,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """The fastest of the candidates, with the figures that it rests on.

    Attributes:
        chosen: the candidate that won.
        measured: all candidates, the reference first.
        lengths: tokens of the sequences that were run, one at a time.
        threads: threads of each engine.
    """

    chosen: Candidate
    measured: tuple[Candidate, ...]
    lengths: tuple[int, ...]
    threads: int

    def to_json(self) -> str:
        """Return the figures on one line of JSON, for the encoder's configuration."""
        data = {
            "reference": self.measured[0].name,
            "lengths": self.lengths,
            "threads": self.threads,
            "speedup": {c.name: round(c.speedup, 3) for c in self.measured if c.seconds},
            "milliseconds": {
                c.name: [round(1e3 * s, 2) for s in c.seconds] for c in self.measured if c.seconds
            },
            "refused": {c.name: c.refused for c in self.measured if c.refused},
        }
        return json.dumps(data, sort_keys=True)


def candidates(
    engine: EngineName | None, inference_precision: InferencePrecision | None
) -> tuple[Candidate, ...]:
    """Return what is to be measured, in the order of preference.

    ONNX Runtime in fp32 is the reference, so it comes first, allowed or not.

    Args:
        engine: the only engine to choose; None: any.
        inference_precision: the only arithmetic to choose; None: any, bf16 too.

    Raises:
        EngineError: the engine does not do that arithmetic.
    """
    if engine is not None and inference_precision is not None:
        EngineSettings(engine=engine, inference_precision=inference_precision)
    reference = (EngineName.ONNXRUNTIME, InferencePrecision.FP32)
    openvino = [(EngineName.OPENVINO, precision) for precision in InferencePrecision]
    found = []
    for name, precision in (reference, *openvino):
        allowed = engine in (None, name) and inference_precision in (None, precision)
        if allowed or (name, precision) == reference:
            found.append(Candidate(engine=name, inference_precision=precision, allowed=allowed))
    return tuple(found)


def measured_lengths(max_length: int) -> tuple[int, ...]:
    """Return the lengths to measure for a model of that length, in tokens."""
    return tuple(length for length in _LENGTHS if length <= max_length) or (max_length,)


def choose_engine(
    bundle: Bundle,
    *,
    engine: EngineName | None = None,
    inference_precision: InferencePrecision | None = InferencePrecision.FP32,
    threads: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> EngineChoice:
    """Run a bundle's packed graph on every engine in turn, over several lengths, and take the fastest.

    A candidate that cannot be opened, fails, or gives other logits than its arithmetic allows is not chosen;
    the reason is in the result.

    Args:
        bundle: the bundle.
        engine: see `candidates`.
        inference_precision: see `candidates`.
        threads: of each engine; 0: one per core.
        report: is told what is being measured.

    Raises:
        EngineError: no candidate can be used.
    """
    opened: list[tuple[Candidate, Engine]] = []
    measured: list[Candidate] = []
    for candidate in candidates(engine, inference_precision):
        report(f"loading {candidate.name}")
        try:
            opened.append((candidate, open_packed_engine(bundle, candidate.settings(threads))))
        except EngineError as error:
            measured.append(replace(candidate, refused=str(error)))
    lengths = measured_lengths(bundle.manifest.max_length)
    measured[:0] = _measure(opened, bundle.manifest, lengths, report)
    return EngineChoice(
        chosen=_fastest(measured, bundle), measured=tuple(measured), lengths=lengths, threads=threads
    )


def _fastest(measured: Sequence[Candidate], bundle: Bundle) -> Candidate:
    best: Candidate | None = None
    for candidate in measured:
        if candidate.allowed and not candidate.refused:
            best = candidate if best is None or candidate.speedup > _MARGIN * best.speedup else best
    if best is None:
        reasons = "; ".join(
            f"{candidate.name}: {candidate.refused or 'not allowed'}" for candidate in measured
        )
        raise EngineError(f"no engine can run {bundle.path} as asked: {reasons}")
    return best


def _measure(
    opened: Sequence[tuple[Candidate, Engine]],
    manifest: Manifest,
    lengths: Sequence[int],
    report: Callable[[str], None],
) -> list[Candidate]:
    """Return the candidates with their figures; the first that runs is the reference."""
    refused: dict[str, str] = {}
    outputs: dict[str, list[EncoderOutput]] = {}
    running = []
    sequences = [_sequence(manifest, length) for length in lengths]
    for candidate, engine in opened:
        try:  # the first runs are not timed: engines compile and allocate in them
            outputs[candidate.name] = [encode(engine, [sequence], manifest)[0] for sequence in sequences]
            running.append((candidate, engine))
        except EngineError as error:
            refused[candidate.name] = str(error)
    medians: dict[str, list[float]] = {name: [] for name in outputs}
    for sequence in sequences:
        report(f"measuring {sequence.input_ids.size} tokens")
        for name, seconds in _interleave(running, sequence, manifest).items():
            medians[name].append(statistics.median(seconds))
    return [
        replace(candidate, refused=refused[candidate.name])
        if candidate.name in refused
        else _judge(candidate, running[0][0], medians, outputs, manifest)
        for candidate, _ in opened
    ]


def _interleave(
    running: Sequence[tuple[Candidate, Engine]], sequence: EncoderSequence, manifest: Manifest
) -> dict[str, list[float]]:
    """Time runs of one sequence, every engine once a round, so that all meet the same disturbances."""
    seconds: dict[str, list[float]] = {candidate.name: [] for candidate, _ in running}
    started = time.perf_counter()
    for done in range(_MAX_ROUNDS):
        if done >= _MIN_ROUNDS and time.perf_counter() - started > _SECONDS_PER_LENGTH:
            break
        for candidate, engine in running:
            time.sleep(_PAUSE)
            begun = time.perf_counter()
            encode(engine, [sequence], manifest)
            seconds[candidate.name].append(time.perf_counter() - begun)
    return seconds


def _judge(
    candidate: Candidate,
    reference: Candidate,
    medians: Mapping[str, list[float]],
    outputs: Mapping[str, list[EncoderOutput]],
    manifest: Manifest,
) -> Candidate:
    own, other = medians[candidate.name], medians[reference.name]
    ratios = [theirs / mine for mine, theirs in zip(own, other, strict=True)]
    difference = max(map(_difference, outputs[reference.name], outputs[candidate.name]))
    limit = _limit(manifest.precision, candidate.inference_precision)
    return replace(
        candidate,
        seconds=tuple(own),
        speedup=math.prod(ratios) ** (1 / len(ratios)),
        difference=difference,
        refused=""
        if difference <= limit
        else f"its logits differ from those of {reference.name} by {difference:.2g}, more than {limit:g}",
    )


def _limit(precision: Precision, inference_precision: InferencePrecision) -> float:
    if precision is Precision.INT8:
        return _INT8
    if precision is Precision.FP16 and inference_precision is InferencePrecision.FP32:
        return _FP16
    if precision is Precision.BF16:
        return _BF16
    return _BF16 if inference_precision is InferencePrecision.BF16 else _SAME_ARITHMETIC


def _difference(expected: EncoderOutput, found: EncoderOutput) -> float:
    one, other = (np.concatenate(output.vectors()) for output in (expected, found))
    if not np.isfinite(other).all():
        return math.inf
    return float(np.abs(one - other).max()) / max(1.0, float(np.abs(one).max()))


def _sequence(manifest: Manifest, length: int) -> EncoderSequence:
    """Return random ids with the task's global attention, where there is one."""
    ordinary = np.setdiff1d(np.arange(manifest.vocab_size), list(manifest.special_tokens.values()))
    ids = np.random.default_rng(_SEED).choice(ordinary, length).astype(np.int64)
    if not manifest.takes_global_attention:
        return EncoderSequence(input_ids=ids)
    tokens = 1 if manifest.global_attention is GlobalAttention.FIRST_TOKEN else _QUESTION_TOKENS
    mask = np.zeros(length, dtype=np.int64)
    mask[: tokens if manifest.max_global_tokens is None else min(tokens, manifest.max_global_tokens)] = 1
    return EncoderSequence(input_ids=ids, global_attention_mask=mask)
