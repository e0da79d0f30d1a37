"""The inputs on which an exported model is compared with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from longserve.serving.runtime.manifest import Manifest
from longserve.serving.runtime.packing import EncoderSequence

__all__ = [
    "GlobalPattern",
    "ParityCase",
    "default_lengths",
    "make_cases",
    "make_sequences",
    "sequences_of",
]

_LONG = 300
"""Beyond this length a case costs seconds on a real model, so that a length meets fewer patterns."""


class GlobalPattern(str, Enum):
    """Which tokens of a row are global."""

    NONE = "none"
    FIRST = "first"
    TASK = "task"
    """The first token and a question's worth after it, as in question answering."""
    SCATTERED = "scattered"
    ALL = "all"
    """Every token, of a short row; a scattered quarter of a long one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityCase:
    """One batch. Rows are right-padded to the longest in the padded layout.

    Attributes:
        lengths: tokens of each row.
        patterns: global pattern of each row.
        seed: of the random ids and positions.
    """

    lengths: tuple[int, ...]
    patterns: tuple[GlobalPattern, ...]
    seed: int

    @property
    def name(self) -> str:
        """Readable identity, e.g. `63+31[first,none]`."""
        lengths = "+".join(str(length) for length in self.lengths)
        return f"{lengths}[{','.join(pattern.value for pattern in self.patterns)}]"


def default_lengths(attention_window: Sequence[int], block_size: int, max_length: int) -> tuple[int, ...]:
    """Return the lengths to test, ascending.

    1 and 2; around the block, each one-sided window, each window and twice it; some odd ones; the maximum.
    """
    wanted = {1, 2, 3, 37, 101, 1000, max_length - 1, max_length}
    for edge in (block_size, *(w // 2 for w in attention_window), *attention_window):
        wanted.update((edge - 1, edge, edge + 1))
    for window in attention_window:
        wanted.update((2 * window - 1, 2 * window, 2 * window + 1))
    return tuple(sorted(length for length in wanted if 1 <= length <= max_length))


def make_cases(
    lengths: Sequence[int],
    *,
    patterns: Sequence[GlobalPattern] = tuple(GlobalPattern),
    seed: int = 0,
    every_pattern: bool = False,
) -> list[ParityCase]:
    """Make the grid: for each length single rows and a batch of rows of different lengths and patterns.

    Args:
        lengths: tokens of the longest row of each case.
        patterns: the global patterns that occur.
        seed: of the first case; each further one has the next.
        every_pattern: let long lengths meet every pattern alone too, as short ones always do; otherwise
            they take turns.
    """
    cases: list[ParityCase] = []
    for turn, length in enumerate(lengths):
        alone = patterns if length <= _LONG or every_pattern else [patterns[turn % len(patterns)]]
        for pattern in alone:
            cases.append(ParityCase(lengths=(length,), patterns=(pattern,), seed=seed + len(cases)))
        rows: tuple[int, ...] = (length, max(1, length // 2), max(1, length - 3))
        mixed = tuple(patterns[(turn + offset) % len(patterns)] for offset in range(3))
        if length > _LONG and not every_pattern:
            rows, mixed = rows[:2], mixed[:2]
        cases.append(ParityCase(lengths=rows, patterns=mixed, seed=seed + len(cases)))
    return cases


def sequences_of(case: ParityCase, manifest: Manifest, *, separated: bool) -> list[EncoderSequence]:
    """Draw the rows of a case for the model that `manifest` describes; see `make_sequences`.

    Args:
        case: the rows' lengths and patterns.
        manifest: what its ids and tokens are.
        separated: whether a separator stands after a question's worth of tokens.
    """
    return make_sequences(
        case,
        vocab_size=manifest.vocab_size,
        pad_token_id=manifest.special_tokens["pad"],
        type_vocab_size=manifest.type_vocab_size,
        max_global_tokens=manifest.max_global_tokens,
        takes_global_attention=manifest.takes_global_attention,
        separator=manifest.special_tokens["sep"] if separated else None,
    )


def make_sequences(
    case: ParityCase,
    *,
    vocab_size: int,
    pad_token_id: int,
    type_vocab_size: int,
    max_global_tokens: int | None = None,
    takes_global_attention: bool = True,
    separator: int | None = None,
) -> list[EncoderSequence]:
    """Draw the rows of a case.

    Ids are any but padding's; at most `max_global_tokens` tokens are global. A row of more than two tokens
    has `separator` after a question's worth of tokens.
    """
    random = np.random.default_rng(case.seed)
    legal = np.delete(np.arange(vocab_size, dtype=np.int64), pad_token_id)
    rows = []
    for length, pattern in zip(case.lengths, case.patterns, strict=True):
        mask = _global_mask(random, length, pattern) if takes_global_attention else None
        if mask is not None and max_global_tokens is not None:
            mask[np.flatnonzero(mask)[max_global_tokens:]] = 0
        types = random.integers(0, type_vocab_size, length) if type_vocab_size > 1 else None
        ids = random.choice(legal, length)
        if separator is not None and length > 2:
            ids[min(16, length // 2)] = separator
        rows.append(EncoderSequence(input_ids=ids, global_attention_mask=mask, token_type_ids=types))
    return rows


def _global_mask(random: np.random.Generator, length: int, pattern: GlobalPattern) -> npt.NDArray[np.int64]:
    mask = np.zeros(length, dtype=np.int64)
    if pattern is GlobalPattern.FIRST:
        mask[0] = 1
    elif pattern is GlobalPattern.TASK:
        mask[: max(1, min(16, length // 2))] = 1
    elif pattern is GlobalPattern.SCATTERED:
        mask[random.choice(length, max(1, length // 50), replace=False)] = 1
    elif pattern is GlobalPattern.ALL:
        if length <= 128:
            mask[:] = 1
        else:
            mask[random.choice(length, min(length // 4, 128), replace=False)] = 1
    return mask
