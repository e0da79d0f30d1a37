"""Rounding a weight so that the layer's results change least, not the weight itself.

The method is GPTQ (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2022, https://arxiv.org/abs/2210.17323): inputs of a layer are correlated, so what the rounding
of one feature's weights does to the results can mostly be taken back by those of the features that come
after it. It needs the second moments of the layer's inputs, which are measured here on drawn ids.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from longserve.serving.runtime.engine import OnnxRuntimeEngine
from longserve.serving.runtime.manifest import Manifest
from longserve.serving.runtime.packing import pack

from .errors import GraphError
from .parity_cases import GlobalPattern, ParityCase, sequences_of

__all__ = [
    "Calibration",
    "FloatArray",
    "LayerInputs",
    "Rounded",
    "compensated_rounding",
    "drawn_calibration",
    "layer_inputs",
    "nearest_rounding",
]

FloatArray = npt.NDArray[np.float32]
Rounded = tuple[npt.NDArray[np.int8], FloatArray]
"""Integers `[in, out]`, and their scale `[out]`: the weight is their product."""

_DAMPING = 0.01
"""Part of the mean second moment that is added to each, for features that hardly vary."""

_LENGTHS = (64, 128, 256, 512, 1024, 1024)
"""Tokens of the drawn sequences; a model that takes fewer gets its longest instead."""
_BLOCK = 128
"""Features that are rounded before what they leave is taken over to all that come after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Inputs on which the layers' inputs are measured.

    Attributes:
        file: the graph that takes them, one of those to be quantized.
        feeds: the graph's inputs by name, one run each.
    """

    file: str
    feeds: Sequence[Mapping[str, npt.NDArray[np.generic]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInputs:
    """What a layer reads, over all tokens of a calibration.

    Attributes:
        moments: `[features, features]`, the sum of the tokens' outer products.
        largest: `[features]`, the largest absolute value of each.
    """

    moments: FloatArray
    largest: FloatArray

    def divided_by(self, factors: FloatArray) -> LayerInputs:
        """Return what the layer would read if each feature were divided by its factor."""
        return LayerInputs(moments=self.moments / np.outer(factors, factors), largest=self.largest / factors)


def drawn_calibration(manifest: Manifest, file: str, *, seed: int = 0) -> Calibration:
    """Return runs of the packed graph in `file` over random ids between the model's special tokens.

    A trained encoder's large features are its own more than the text's, so that random ids find them.
    """
    special = manifest.special_tokens
    feeds = []
    for number, wanted in enumerate(_LENGTHS):
        case = ParityCase(
            lengths=(min(wanted, manifest.max_length),), patterns=(GlobalPattern.TASK,), seed=seed + number
        )
        (row,) = sequences_of(case, manifest, separated="sep" in special)
        for place, role in ((0, "cls"), (-1, "sep")):
            row.input_ids[place] = special.get(role, row.input_ids[place])
        feeds.append(pack([row], manifest))
    return Calibration(file=file, feeds=feeds)


def layer_inputs(
    model: ir.Model, values: Sequence[str], calibration: Calibration, directory: Path
) -> dict[str, LayerInputs]:
    """Run a float32 model and return what some of its values are.

    Args:
        model: as it was saved to `directory`; it is changed.
        values: names of float32 values `[..., features]` in it.
        calibration: what to run.
        directory: where the model's weights are, and where it is written once more.

    Raises:
        GraphError: a value is not finite on these inputs.
    """
    wanted = set(values)
    found = [output for node in model.graph for output in node.outputs if output.name in wanted]
    model.graph.outputs.extend(value for value in found if value not in model.graph.outputs)
    with tempfile.NamedTemporaryFile(dir=directory, suffix=".onnx") as file:
        ir.save(model, file.name)
        engine = OnnxRuntimeEngine(Path(file.name))
    moments: dict[str, FloatArray] = {}
    largest: dict[str, FloatArray] = {}
    for feeds in calibration.feeds:
        results = engine.run(feeds)
        for name in wanted:
            rows = results[name].reshape(-1, results[name].shape[-1]).astype(np.float32, copy=False)
            moments[name] = rows.T @ rows + moments.get(name, np.float32(0))
            largest[name] = np.maximum(np.abs(rows).max(axis=0), largest.get(name, np.float32(0)))
    for name, sums in moments.items():
        if not np.isfinite(sums).all():
            raise GraphError(f"{name} is not finite on drawn ids: its layer cannot be quantized")
    return {name: LayerInputs(moments=moments[name], largest=largest[name]) for name in wanted}


def nearest_rounding(weight: FloatArray, levels: int) -> Rounded:
    """Round each number of a weight `[in, out]` to the nearest integer from -levels to levels."""
    scale = _scale(weight, levels)
    return np.rint(weight / scale).astype(np.int8), scale


def compensated_rounding(weight: FloatArray, moments: FloatArray, levels: int) -> Rounded:
    """Round a weight to integers, feature by feature, the later ones taking back what the earlier ones did.

    Args:
        weight: `[in, out]`.
        moments: `[in, in]`, the sum of the outer products of the layer's inputs.
        levels: the largest integer.
    """
    scale = _scale(weight, levels)
    first = np.argsort(-np.diag(moments), kind="stable")  # the strongest while most can still make up for it
    left = weight[first].astype(np.float64)
    factor = _inverse_factor(moments[np.ix_(first, first)].astype(np.float64))
    rounded = np.empty_like(left)
    for start in range(0, len(left), _BLOCK):
        stop = min(start + _BLOCK, len(left))
        errors = np.empty((stop - start, left.shape[1]))
        for feature in range(start, stop):
            rounded[feature] = np.clip(np.rint(left[feature] / scale), -levels, levels)
            errors[feature - start] = (left[feature] - rounded[feature] * scale) / factor[feature, feature]
            after = factor[feature, feature + 1 : stop]
            left[feature + 1 : stop] -= np.outer(after, errors[feature - start])
        left[stop:] -= factor[start:stop, stop:].T @ errors
    integers = np.empty(weight.shape, dtype=np.int8)
    integers[first] = rounded
    return integers, scale


def _scale(weight: FloatArray, levels: int) -> FloatArray:
    """The scale of each output, at which its largest weight is the largest integer."""
    scale: FloatArray = np.abs(weight).max(axis=0) / np.float32(levels)
    scale[scale == 0] = 1
    return scale


def _inverse_factor(moments: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the upper triangular U of which Uᵀ U is the inverse of the damped moments."""
    mean = float(np.trace(moments)) / len(moments)
    damped = moments + (_DAMPING * mean if mean > 0 else 1.0) * np.eye(len(moments))
    return np.linalg.cholesky(np.linalg.inv(damped)).T
