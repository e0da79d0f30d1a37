"""Evening out the features of a layer's input before it is quantized.

The method is SmoothQuant (Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for
Large Language Models", 2022, https://arxiv.org/abs/2211.10438): a few features of a trained encoder are far
larger than the others in every token, so that one scale for all leaves the others few steps. Each feature is
divided by a factor, and its weights are multiplied with it: the layer's results stay what they were.
"""

from __future__ import annotations

import numpy as np

from .rounding import FloatArray

__all__ = ["smoothing_factors"]

_LEAST = 1e-2
"""Least part of the mean that a feature counts with: one that drawn ids leave near 0 may be large in text."""


def smoothing_factors(weight: FloatArray, largest: FloatArray) -> FloatArray:
    """Return what to divide each feature by, so that input and weight bear the same part of the differences.

    Args:
        weight: `[in, out]`, of all layers that read the input, side by side.
        largest: `[in]`, the largest absolute value of each feature.

    Returns:
        `[in]`, positive, with a geometric mean of 1.
    """
    factors = np.sqrt(_bounded(largest) / _bounded(np.abs(weight).max(axis=1)))
    smoothing: FloatArray = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    return smoothing


def _bounded(magnitudes: FloatArray) -> FloatArray:
    mean = float(magnitudes.mean())
    bounded: FloatArray = np.maximum(magnitudes, _LEAST * mean if mean > 0 else 1)
    return bounded
