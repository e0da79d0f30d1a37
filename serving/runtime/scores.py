"""Logits of a classifier to scores of labels, over one or several windows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .manifest import ProblemType

__all__ = ["apply_function", "combine_windows", "default_function"]

Float64Array = npt.NDArray[np.float64]


def default_function(problem_type: ProblemType | None, labels: int) -> str:
    """Return what Hugging Face's text-classification pipeline would apply to the logits.

    Source: `TextClassificationPipeline.postprocess` in `transformers/pipelines/text_classification.py`:
    `none` for regression, `sigmoid` for multi-label problems and for a single label, else `softmax`.
    """
    if problem_type is ProblemType.REGRESSION:
        return "none"
    if problem_type is ProblemType.MULTI_LABEL or labels == 1:
        return "sigmoid"
    return "softmax"


def apply_function(logits: npt.ArrayLike, function: str) -> Float64Array:
    """Apply `sigmoid`, `softmax` (over the last axis) or `none` to logits `[…, labels]`, in float64."""
    values = np.asarray(logits, dtype=np.float64)
    if function == "sigmoid":
        # exp of a negative number only, so that nothing overflows
        small = np.exp(-np.abs(values))
        return np.asarray(np.where(values >= 0, 1.0, small) / (1.0 + small))
    if function == "softmax":
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
    return values


def combine_windows(logits: npt.ArrayLike, function: str, combination: str) -> Float64Array:
    """Combine the windows of one document into one score per label.

    The function is applied to each window first, then the windows' scores are combined: `mean` weighs all
    windows alike (they are of equal size); `max` takes each label's best window, and with `softmax` scales
    the result to a sum of 1 again. (`sigmoid` scores are independent of each other and stay as they are.)

    Args:
        logits: `[windows, labels]`.
        function: `sigmoid`, `softmax` or `none`.
        combination: `mean` or `max`.

    Returns:
        Scores, float64 `[labels]`.
    """
    scores = apply_function(logits, function)
    if combination == "mean":
        return np.asarray(scores.mean(axis=0))
    best = np.asarray(scores.max(axis=0))
    if function == "softmax" and len(scores) > 1:
        best = best / best.sum()
    return best
