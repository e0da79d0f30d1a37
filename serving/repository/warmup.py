"""Samples that an encoder runs before it counts as ready.

They hold legal ids and masks: a sample that the model refuses keeps it from loading, and Triton 2.51 crashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..runtime.manifest import GlobalAttention, Layout, Manifest
from ..runtime.profiles import OptimizationProfile

__all__ = ["INPUT_IDS", "WarmupSample", "profile_samples", "warmup_samples"]

INPUT_IDS = "input_ids"
_QUESTION_TOKENS = 8
_LENGTHS = {"short": 64, "long": 512}


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupSample:
    """One warm-up run.

    Attributes:
        name: the sample's name.
        requests: how many requests with these tensors go into the run.
        tensors: name to int64 `[tokens]`.
    """

    name: str
    requests: int
    tensors: Mapping[str, npt.NDArray[np.int64]]

    def file_name(self, tensor: str) -> str:
        """Name of a tensor's file in the model's directory `warmup`."""
        return f"{self.name}.{tensor}"

    def write(self, directory: Path) -> None:
        """Write each tensor's elements, little-endian, into its file."""
        for tensor, array in self.tensors.items():
            (directory / self.file_name(tensor)).write_bytes(array.astype("<i8").tobytes())


def warmup_samples(manifest: Manifest) -> tuple[WarmupSample, ...]:
    """Return the samples for a model: a short batch and a long sequence, as far as its length allows."""
    return tuple(
        WarmupSample(
            name=name,
            requests=2 if name == "short" else 1,
            tensors=_tensors(manifest, min(length, manifest.max_length)),
        )
        for name, length in _LENGTHS.items()
    )


def profile_samples(
    manifest: Manifest,
    profiles: Sequence[OptimizationProfile],
    max_batch_size: int,
    max_tokens: int | None = None,
) -> tuple[WarmupSample, ...]:
    """Return a sample for each profile of packed runs that a batch can reach: a run of about its best size.

    Args:
        manifest: the bundle's.
        profiles: TensorRT's.
        max_batch_size: most requests of a run.
        max_tokens: most tokens of a run; None: of a batch of the longest sequences.
    """
    samples = []
    most = max_tokens or max_batch_size * manifest.max_length
    for index, profile in enumerate(profiles):
        run = _run_in(profile, manifest.max_length, max_batch_size, most)
        if run is not None:
            requests, length = run
            samples.append(
                WarmupSample(name=f"profile{index}", requests=requests, tensors=_tensors(manifest, length))
            )
    return tuple(samples)


def _run_in(
    profile: OptimizationProfile, max_length: int, max_batch_size: int, most: int
) -> tuple[int, int] | None:
    """Requests and the tokens of each, all alike, of a run in a profile; None: there is no such run."""
    best = min(profile.tokens.optimum, most)
    fewest = max(profile.sequences.minimum, -(-best // max_length))
    for requests in range(fewest, min(max_batch_size, profile.sequences.maximum) + 1):
        # a run below the profile's least would warm another one
        length = max(best // requests, -(-profile.tokens.minimum // requests))
        tokens = requests * length
        if length <= max_length and tokens <= most and profile.tokens.holds(tokens):
            return requests, length
    return None


def _tensors(manifest: Manifest, length: int) -> dict[str, npt.NDArray[np.int64]]:
    special = manifest.special_tokens
    ordinary = np.setdiff1d(np.arange(manifest.vocab_size), list(special.values()))
    ids = np.resize(ordinary, length).astype(np.int64)
    for position, role in ((0, "cls"), (-1, "sep")):
        if role in special:
            ids[position] = special[role]
    mask = np.zeros(length, dtype=np.int64)
    mask[: 1 if manifest.global_attention is GlobalAttention.FIRST_TOKEN else _QUESTION_TOKENS] = 1
    capacity = manifest.max_global_tokens
    if capacity is not None:
        mask[capacity:] = 0
    tensors = {INPUT_IDS: ids, "global_attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    named = {tensor.name for tensor in manifest.graph(Layout.PACKED).inputs}
    return {name: array for name, array in tensors.items() if name in named}
