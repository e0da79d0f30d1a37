"""Optimization profiles: the batches and lengths that TensorRT prepares a graph for.

An engine takes no shape outside its profiles, so they are checked here, before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .errors import EngineError, OutsideProfile
from .manifest import Layout, TensorSpec

__all__ = [
    "OptimizationProfile",
    "SizeRange",
    "choose_profile",
    "default_profiles",
    "parse_profile",
]

_SEQUENCES = "batch"
_TOKENS = {Layout.PADDED: "length", Layout.PACKED: "tokens"}
"""How the two parts of a profile are called where people write them."""
_AXES = {"batch": "sequences", "sequence": "tokens", "tokens": "tokens"}
"""A graph's axis to the part of a profile that bounds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRange:
    """Least, best and largest size of an axis. Kernels are chosen for the best one."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise EngineError(
                f"the range is {self}; give MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, or one number"
            )

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"

    def holds(self, size: int) -> bool:
        """Whether a size lies in the range."""
        return self.minimum <= size <= self.maximum


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizationProfile:
    """The shapes of one run.

    Attributes:
        sequences: rows of the padded layout, sequences of a packed run.
        tokens: tokens of a padded row, or of a whole packed run.
    """

    sequences: SizeRange
    tokens: SizeRange

    def described(self, layout: Layout) -> str:
        """Return it as `parse_profile` reads it."""
        return f"{_SEQUENCES}={self.sequences},{_TOKENS[layout]}={self.tokens}"

    def shapes(self, inputs: Iterable[TensorSpec]) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Return least, best and largest shape of every input.

        Raises:
            EngineError: an input has an axis that no profile bounds.
        """
        return {
            tensor.name: tuple(
                tuple(self._size(tensor, axis, bound) for axis in tensor.axes)
                for bound in ("minimum", "optimum", "maximum")
            )
            for tensor in inputs
        }

    def _size(self, tensor: TensorSpec, axis: str | int, bound: str) -> int:
        if isinstance(axis, int):
            return axis
        if axis not in _AXES:
            raise EngineError(
                f"the input {tensor.name} has the dynamic axis {axis!r}, for which a profile has no range; "
                f"it knows {', '.join(_AXES)}"
            )
        return int(getattr(getattr(self, _AXES[axis]), bound))


def choose_profile(
    profiles: Sequence[OptimizationProfile], layout: Layout, sequences: int, tokens: int
) -> int:
    """Return the index of the narrowest profile that holds a run.

    Args:
        profiles: what the engine was built with, in its order.
        layout: how the run lies in the inputs.
        sequences: rows, or sequences of a packed run.
        tokens: tokens of a row, or of the packed run.

    Raises:
        OutsideProfile: no profile holds it.
    """
    fitting = [
        (profile.tokens.maximum, profile.sequences.maximum, index)
        for index, profile in enumerate(profiles)
        if profile.sequences.holds(sequences) and profile.tokens.holds(tokens)
    ]
    if fitting:
        return min(fitting)[2]
    known = "; ".join(profile.described(layout) for profile in profiles)
    raise OutsideProfile(
        f"the run has {_SEQUENCES} {sequences} and {_TOKENS[layout]} {tokens}, which no profile of the "
        f"engine holds ({known}); send less at a time, or build the engine with another --profile"
    )


def default_profiles(
    layout: Layout, max_length: int, *, sequences: int = 8
) -> tuple[OptimizationProfile, ...]:
    """Return three profiles, each beginning where the one before it ends.

    Padded: rows of up to an eighth, up to half and up to all of the model's length. Packed: runs of up to an
    eighth of it, of up to one document of that length, and of as many as `sequences` of them.

    Args:
        layout: the graph's.
        max_length: longest sequence of the model, in tokens.
        sequences: most rows, or sequences of a run.
    """
    if layout is Layout.PADDED:
        bounds = (max(1, max_length // 8), max(1, max_length // 2), max_length)
    else:
        bounds = (max(1, max_length // 8), max_length, max_length * sequences)
    many = SizeRange(minimum=1, optimum=1, maximum=sequences)
    profiles, begin = [], 1
    for bound in sorted(set(bounds)):
        best = max(begin, bound // 2) if bound > max_length else bound
        tokens = SizeRange(minimum=begin, optimum=best, maximum=bound)
        profiles.append(OptimizationProfile(sequences=many, tokens=tokens))
        begin = bound + 1
    return tuple(profiles)


def parse_profile(text: str, layout: Layout) -> OptimizationProfile:
    """Read `batch=1:1:8,length=1:256:512` (padded) or `batch=1:4:8,tokens=1:512:4096` (packed).

    One number stands for all three of a range.

    Raises:
        EngineError: it is not of that form.
    """
    names = {_SEQUENCES: "sequences", _TOKENS[layout]: "tokens"}
    form = f"{_SEQUENCES}=MIN:OPT:MAX,{_TOKENS[layout]}=MIN:OPT:MAX"
    ranges: dict[str, SizeRange] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in names or names[name] in ranges:
            raise EngineError(
                f"the profile is {text!r}; for the {layout.value} layout give {form}, each once"
            )
        ranges[names[name]] = _parse_range(value, text)
    if len(ranges) != len(names):
        raise EngineError(f"the profile is {text!r}; for the {layout.value} layout give {form}")
    return OptimizationProfile(**ranges)


def _parse_range(value: str, text: str) -> SizeRange:
    sizes = value.split(":")
    if len(sizes) not in (1, 3) or not all(size.isascii() and size.isdecimal() for size in sizes):
        raise EngineError(f"the profile {text!r} has the range {value!r}; give MIN:OPT:MAX, or one number")
    minimum, optimum, maximum = (int(size) for size in (sizes * 3 if len(sizes) == 1 else sizes))
    return SizeRange(minimum=minimum, optimum=optimum, maximum=maximum)
