"""The windows of a tokenized text as sequences for the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .errors import InvalidInput, Refusal
from .limits import TextLimits
from .manifest import GlobalAttention, Manifest
from .packing import EncoderSequence, check_sequence
from .tokenization import Tokenizer
from .windows import Window, count_windows, plan_windows

__all__ = ["extents", "plan", "sequences_of", "token_ids"]

Int64Array = npt.NDArray[np.int64]


def extents(windows: Sequence[Window], offsets: Int64Array) -> list[tuple[int, int, int]]:
    """First character, one after the last, and number of tokens of each window."""
    return [(int(offsets[w.start, 0]), int(offsets[w.end - 1, 1]), w.size) for w in windows]


def plan(
    name: str,
    ids: Int64Array,
    capacity: int,
    stride: int,
    limits: TextLimits,
    question: Int64Array | None = None,
) -> tuple[Window, ...]:
    """Plan the windows of a text, with the caller's words in the error."""
    if ids.size > capacity and capacity <= stride:
        because = "" if question is None else f" beside a question of {question.size} tokens"
        remedy = "a smaller stride" if question is None else "a shorter question or a smaller stride"
        raise InvalidInput(
            f"the {name} has {ids.size} tokens, of which one window has room for {max(capacity, 0)}"
            f"{because}, but neighbouring windows share {stride} (stride); give {remedy}",
            reason=Refusal.OPTION if question is None else Refusal.QUESTION_TOO_LONG,
        )
    limits.check_windows(count_windows(ids.size, capacity, stride), name)
    return plan_windows(ids.size, capacity, stride)


def sequences_of(
    head: Int64Array,
    text: Int64Array,
    tail: Int64Array,
    windows: Sequence[Window],
    tokenizer: Tokenizer,
    manifest: Manifest,
) -> tuple[EncoderSequence, ...]:
    """Frame each window of a text by `head` and `tail`; all but `head` is of the context's token type."""
    token_type = manifest.context_token_type
    made = []
    for window in windows:
        ids = np.concatenate([head, text[window.start : window.end], tail])
        mask = _global_attention_mask(ids, manifest.global_attention, tokenizer.sep_id)
        types = None
        if token_type:
            types = np.full_like(ids, token_type)
            types[: head.size] = 0
        sequence = EncoderSequence(input_ids=ids, global_attention_mask=mask, token_type_ids=types)
        check_sequence(sequence, manifest)
        made.append(sequence)
    return tuple(made)


def _global_attention_mask(ids: Int64Array, convention: GlobalAttention, sep_id: int) -> Int64Array | None:
    """Mark the global tokens of one sequence, as `_compute_global_attention_mask` and the classifier do in
    `transformers/models/longformer/modeling_longformer.py`."""
    if convention is GlobalAttention.NONE:
        return None
    mask = np.zeros_like(ids)
    if convention is GlobalAttention.QUESTION:
        mask[: int((ids == sep_id).argmax())] = 1
    else:
        mask[0] = 1
    return mask


def token_ids(*values: int) -> Int64Array:
    return np.array(values, dtype=np.int64)
