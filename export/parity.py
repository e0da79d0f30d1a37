"""Comparing an exported model with the stock PyTorch model, case by case, in both layouts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from longserve.serving.runtime.engine import Engine, InferencePrecision
from longserve.serving.runtime.manifest import Layout, Manifest, ParitySummary, Precision, Quantization, Task
from longserve.serving.runtime.packing import EncoderOutput, EncoderSequence, pack, pad, unpack, unpad

from .architectures import architecture_of
from .errors import ParityFailed
from .kept_memory import kept_memory
from .parity_cases import ParityCase, make_cases, sequences_of
from .progress import Progress

__all__ = [
    "BF16_INFERENCE",
    "CaseResult",
    "INT8_WEIGHTS",
    "ParityReport",
    "TOLERANCES",
    "Tolerance",
    "check_parity",
    "reference_outputs",
]

FloatArray = npt.NDArray[np.float32]

_MASKED = -1e5
"""Logits below it stand for positions that the model itself takes out of the competition (BigBird's question,
1e6 lower). Where both sides do so they are no part of a case's scale and figures; a position that only one
side takes out differs by all that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """What a case may differ by.

    Attributes:
        max_relative: bound on `max_abs / max(1, largest reference logit of the case)`.
        min_cosine: bound on the cosine similarity of a case's logits.
    """

    max_relative: float
    min_cosine: float


TOLERANCES: Mapping[Precision, Tolerance] = {
    Precision.FP32: Tolerance(max_relative=1e-5, min_cosine=0.999999),
    Precision.FP16: Tolerance(max_relative=0.02, min_cosine=0.9998),
    Precision.BF16: Tolerance(max_relative=0.1, min_cosine=0.99),
    Precision.INT8: Tolerance(max_relative=0.25, min_cosine=0.95),
}
"""The tolerance of each precision, always against PyTorch in float32.

The rows of fp16 and bf16 are about twice the worst that benchmarks/half_precision.py found, with outliers in
the weights and without (docs/gpu.md).

int8's row (dynamic quantization) is wide because the grid's random ids are harder than text and its bound is
on the worst logit of all: about twice the worst that benchmarks/real_weights_parity.py and the demo's
checkpoints found (0.11; the least cosine, 0.979, is of a random model). It catches a wrong graph; what int8
does to a user's predictions is measured with `longserve validate --texts`.
"""

INT8_WEIGHTS = Tolerance(max_relative=0.25, min_cosine=0.97)
"""The tolerance of `Quantization.WEIGHTS`, about twice the worst measured on the same weights, where OpenVINO
multiplied integers, before their inputs were smoothed."""

BF16_INFERENCE = Tolerance(max_relative=0.1, min_cosine=0.995)
"""What an engine that computes a bundle's float operators in bf16 may differ by, unless the bundle's own
precision allows more.

Measured with OpenVINO 2026.4.1 over the grid, in both layouts, on the tests' random checkpoints (six seeds)
and the demo's trained ones: the median case differs by 0.6 to 1.0 % of the largest logit, nine of ten by less
than 1.7 %, the worst (two tokens of a random model) by 4.5 %; the least cosine is 0.9981 (the two logits of a
single token). The bound is about twice the worst. bf16 keeps eight bits of a number, so that one rounding is
up to 0.4 %.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One case in one layout.

    Attributes:
        case: the case's name.
        layout: `padded` or `packed`.
        scale: largest absolute reference logit.
        max_abs: largest absolute difference.
        max_relative: `max_abs / max(1, scale)`.
        cosine: cosine similarity of all logits of the case.
        predictions: number of predictions (labels; start and end positions).
        agreeing: how many of them are equal.
        finite: whether every result is a finite number.
    """

    case: str
    layout: str
    scale: float
    max_abs: float
    max_relative: float
    cosine: float
    predictions: int
    agreeing: int
    finite: bool

    def passes(self, tolerance: Tolerance) -> bool:
        """Whether the case is within the tolerance."""
        return (
            self.finite
            and self.max_relative <= tolerance.max_relative
            and self.cosine >= tolerance.min_cosine
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """All cases of one comparison."""

    runs_on: str
    precision: Precision
    inference_precision: InferencePrecision
    tolerance: Tolerance
    results: tuple[CaseResult, ...]

    @property
    def worst(self) -> CaseResult:
        """The case with the largest relative difference; one that is not finite is worse than any other."""
        return max(self.results, key=lambda r: (not r.finite, r.max_relative))

    @property
    def failures(self) -> tuple[CaseResult, ...]:
        """The cases outside the tolerance."""
        return tuple(result for result in self.results if not result.passes(self.tolerance))

    def joined(self, other: ParityReport) -> ParityReport:
        """Return a report of the cases of both, for two engines that must both pass."""
        return dataclasses.replace(
            self, runs_on=f"{self.runs_on} and {other.runs_on}", results=self.results + other.results
        )

    def summary(self) -> ParitySummary:
        """Return the figures that the manifest keeps."""
        predictions = sum(result.predictions for result in self.results)
        return ParitySummary(
            provider=self.runs_on,
            cases=len(self.results),
            worst_case=f"{self.worst.layout} {self.worst.case}",
            max_abs=max(result.max_abs for result in self.results),
            max_relative=self.worst.max_relative,
            min_cosine=min(result.cosine for result in self.results),
            argmax_agreement=sum(result.agreeing for result in self.results) / predictions,
            tolerance=self.tolerance.max_relative,
        )

    def to_json(self) -> str:
        """Return the report as indented JSON, ending in a newline."""
        data = {
            "runs_on": self.runs_on,
            "precision": self.precision.value,
            "inference_precision": self.inference_precision.value,
            "tolerance": dataclasses.asdict(self.tolerance),
            "summary": dataclasses.asdict(self.summary()),
            "failures": [dataclasses.asdict(result) for result in self.failures],
            "results": [dataclasses.asdict(result) for result in self.results],
        }
        return json.dumps(data, indent=1, sort_keys=True) + "\n"

    def raise_if_failed(self) -> None:
        """Raise `ParityFailed`, naming the worst case, if any case is outside the tolerance."""
        if not self.failures:
            return
        worst = max(self.failures, key=lambda r: (not r.finite, r.max_relative))
        detail = (
            f"largest difference {worst.max_abs:.3g} of logits up to {worst.scale:.3g} (relative "
            f"{worst.max_relative:.3g}, allowed {self.tolerance.max_relative:.3g}), "
            f"cosine {worst.cosine:.6f} (at least {self.tolerance.min_cosine:.6g})"
            if worst.finite
            else "a result is not finite"
        )
        raise ParityFailed(
            f"{len(self.failures)} of {len(self.results)} cases differ from PyTorch in "
            f"{self.precision.value} on {self.runs_on}; the worst is {worst.case} in the "
            f"{worst.layout} layout: {detail}"
        )


@kept_memory()
def check_parity(
    model: PreTrainedModel,
    engines: Mapping[Layout, Engine],
    manifest: Manifest,
    *,
    lengths: Sequence[int] | None = None,
    seed: int = 0,
    every_pattern: bool = False,
    inference_precision: InferencePrecision = InferencePrecision.FP32,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare engines with the stock model.

    Args:
        model: the stock transformers model, float32, in evaluation mode.
        engines: an engine for each layout to be compared.
        manifest: what the bundle says of itself.
        lengths: lengths to test instead of the architecture's own.
        seed: of the random inputs.
        every_pattern: see `make_cases`.
        inference_precision: arithmetic of the engines' float operators; bf16 has a tolerance of its own.
        progress: is told of every case.

    Returns:
        The report. It does not raise for differences; see `ParityReport.raise_if_failed`.
    """
    architecture = architecture_of(model.config.model_type)
    chosen = lengths or architecture.parity_lengths(manifest)
    patterns = architecture.parity_patterns
    cases = make_cases(chosen, patterns=patterns, seed=seed, every_pattern=every_pattern)
    results = []
    if progress is not None:
        progress.stage("compare with PyTorch", len(cases))
    for case in cases:
        rows = sequences_of(case, manifest, separated=architecture.reads_separators)
        together = [output.vectors() for output in reference_outputs(model, rows, manifest)]
        for layout, engine in engines.items():
            reference = together
            if layout is Layout.PACKED and architecture.depends_on_batch and len(rows) > 1:
                reference = [reference_outputs(model, [row], manifest)[0].vectors() for row in rows]
            actual = _engine_logits(engine, layout, rows, manifest)
            results.append(_compare(case, layout, reference, actual))
        if progress is not None:
            progress.advance()
    return ParityReport(
        runs_on=next(iter(engines.values())).runs_on,
        precision=manifest.precision,
        inference_precision=inference_precision,
        tolerance=_tolerance(manifest, inference_precision),
        results=tuple(results),
    )


def _tolerance(manifest: Manifest, inference_precision: InferencePrecision) -> Tolerance:
    own = INT8_WEIGHTS if manifest.quantization is Quantization.WEIGHTS else TOLERANCES[manifest.precision]
    if inference_precision is InferencePrecision.FP32:
        return own
    return Tolerance(
        max_relative=max(own.max_relative, BF16_INFERENCE.max_relative),
        min_cosine=min(own.min_cosine, BF16_INFERENCE.min_cosine),
    )


def reference_outputs(
    model: PreTrainedModel, rows: Sequence[EncoderSequence], manifest: Manifest
) -> list[EncoderOutput]:
    """Run the stock model on one padded batch and return its logits at unpadded positions."""
    feeds = {name: torch.from_numpy(array) for name, array in pad(rows, manifest).items()}
    names = ("logits",) if manifest.task is Task.TEXT_CLASSIFICATION else ("start_logits", "end_logits")
    outputs = architecture_of(model.config.model_type).run_reference(model, feeds, names)
    arrays = {name: value.numpy() for name, value in outputs.items()}
    return unpad(arrays, [row.input_ids.size for row in rows], manifest.task)


def _engine_logits(
    engine: Engine, layout: Layout, rows: Sequence[EncoderSequence], manifest: Manifest
) -> list[list[FloatArray]]:
    lengths = [row.input_ids.size for row in rows]
    if layout is Layout.PADDED:
        outputs = unpad(engine.run(pad(rows, manifest)), lengths, manifest.task)
    else:
        outputs = unpack(engine.run(pack(rows, manifest)), lengths, manifest.task)
    return [output.vectors() for output in outputs]


def _compare(
    case: ParityCase, layout: Layout, reference: list[list[FloatArray]], actual: list[list[FloatArray]]
) -> CaseResult:
    expected = np.concatenate([vector.ravel() for row in reference for vector in row])
    found = np.concatenate([vector.ravel() for row in actual for vector in row])
    if expected.shape != found.shape:
        raise ParityFailed(
            f"case {case.name} in the {layout.value} layout gives {found.size} logits, not {expected.size}"
        )
    finite = bool(np.isfinite(found).all())
    compared = (expected >= _MASKED) | ~(found < _MASKED)
    expected, found = expected[compared], found[compared]
    scale = float(np.abs(expected).max())
    max_abs = float(np.abs(expected - found).max()) if finite else float("inf")
    pairs = [(e, a) for r, f in zip(reference, actual, strict=True) for e, a in zip(r, f, strict=True)]
    return CaseResult(
        case=case.name,
        layout=layout.value,
        scale=scale,
        max_abs=max_abs,
        max_relative=max_abs / max(1.0, scale),
        cosine=_cosine(expected, found) if finite else -1.0,
        predictions=len(pairs),
        agreeing=sum(int(e.argmax() == a.argmax()) for e, a in pairs),
        finite=finite,
    )


def _cosine(expected: FloatArray, found: FloatArray) -> float:
    """Cosine similarity in double precision; 1 for a single logit, which has no direction."""
    if expected.size < 2:
        return 1.0
    first, second = expected.astype(np.float64), found.astype(np.float64)
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm > 0 else 1.0
