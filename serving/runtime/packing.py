"""Sequences of mixed length as the inputs of either layout, and its outputs as results of sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import CorruptBundle, EngineError, InvalidInput
from .manifest import Manifest, Task

__all__ = [
    "EncoderOutput",
    "EncoderSequence",
    "check_sequence",
    "pack",
    "pad",
    "tensors_of",
    "unpack",
    "unpad",
]

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSequence:
    """One sequence for the encoder: all arrays int64 `[tokens]`.

    Attributes:
        input_ids: token ids.
        global_attention_mask: 1 on tokens with global attention, else 0; None for a model without such
            attention.
        token_type_ids: only for a checkpoint with `type_vocab_size > 1`; None there means zeros.
    """

    input_ids: Int64Array
    global_attention_mask: Int64Array | None = None
    token_type_ids: Int64Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOutput:
    """The encoder's result for one sequence, float32: `logits` `[labels]` for classification, or
    `start_logits` and `end_logits` `[tokens]` for question answering."""

    logits: Float32Array | None = None
    start_logits: Float32Array | None = None
    end_logits: Float32Array | None = None

    def vectors(self) -> list[Float32Array]:
        """Return the vectors of logits that are there, in the order above."""
        return [v for v in (self.logits, self.start_logits, self.end_logits) if v is not None]


def check_sequence(sequence: EncoderSequence, manifest: Manifest) -> None:
    """Check one sequence against the model.

    Raises:
        InvalidInput: not one-dimensional, empty, longer than the model, an id outside its table, a mask
            value other than 0 and 1, lengths that differ, more global tokens than the graph takes, a mask for
            a model without global attention, or none for one with it.
    """
    ids = sequence.input_ids
    for name, array in _named(sequence):
        if array.dtype != np.int64:
            raise InvalidInput(f"{name} has element type {array.dtype}; give int64")
        if array.ndim != 1:
            raise InvalidInput(f"{name} has shape {list(array.shape)}; give one sequence as [tokens]")
        if array.shape != ids.shape:
            raise InvalidInput(
                f"{name} has {array.size} elements but input_ids has {ids.size}; make them equal"
            )
    if ids.size == 0:
        raise InvalidInput("input_ids is empty; give at least one token")
    if ids.size > manifest.max_length:
        raise InvalidInput(
            f"input_ids has {ids.size} tokens but the model takes at most {manifest.max_length}; "
            "split the document into windows"
        )
    _check_range("input_ids", ids, manifest.vocab_size)
    _check_global_tokens(sequence.global_attention_mask, manifest)
    if sequence.token_type_ids is not None:
        if manifest.type_vocab_size < 2:
            raise InvalidInput("this model has one token type and takes no token_type_ids; leave them out")
        _check_range("token_type_ids", sequence.token_type_ids, manifest.type_vocab_size)


def _check_global_tokens(mask: Int64Array | None, manifest: Manifest) -> None:
    if not manifest.takes_global_attention:
        if mask is not None:
            raise InvalidInput(
                f"this model ({manifest.architecture}) has no global attention and takes no "
                "global_attention_mask; leave it out"
            )
        return
    if mask is None:
        raise InvalidInput(
            f"there is no global_attention_mask, which this model ({manifest.architecture}) needs; give 1 "
            "for tokens with global attention and 0 for the others"
        )
    _check_range("global_attention_mask", mask, 2)
    capacity = manifest.max_global_tokens
    if capacity is not None and int(mask.sum()) > capacity:
        raise InvalidInput(
            f"global_attention_mask marks {int(mask.sum())} tokens but this bundle was exported for at most "
            f"{capacity} per sequence; mark fewer, or export with a larger --max-global-tokens"
        )


def tensors_of(sequence: EncoderSequence, manifest: Manifest) -> dict[str, Int64Array]:
    """Return the tensors of one sequence that the encoder takes, int64 `[tokens]`, by name."""
    tensors = dict(_named(sequence))
    if manifest.type_vocab_size > 1:
        tensors.setdefault("token_type_ids", np.zeros_like(sequence.input_ids))
    return tensors


def pack(sequences: Sequence[EncoderSequence], manifest: Manifest) -> dict[str, npt.NDArray[np.generic]]:
    """Lay sequences end to end as the inputs of the packed graph.

    Returns:
        `input_ids`, `global_attention_mask` and `token_type_ids` where the model takes them, int64
        `[tokens]`, and `sequence_ends`, int32 `[batch]`, the accumulated lengths.

    Raises:
        InvalidInput: there is no sequence, or one is unfit (`check_sequence`), named by its index.
    """
    _check_sequences(sequences, manifest)
    lengths = [sequence.input_ids.size for sequence in sequences]
    feeds: dict[str, npt.NDArray[np.generic]] = {
        "input_ids": np.concatenate([s.input_ids for s in sequences]),
        "sequence_ends": np.cumsum(lengths, dtype=np.int32),
    }
    masks = [s.global_attention_mask for s in sequences if s.global_attention_mask is not None]
    if masks:
        feeds["global_attention_mask"] = np.concatenate(masks)
    if manifest.type_vocab_size > 1:
        types = [tensors_of(sequence, manifest)["token_type_ids"] for sequence in sequences]
        feeds["token_type_ids"] = np.concatenate(types)
    return feeds


def unpack(
    outputs: Mapping[str, npt.NDArray[np.generic]], lengths: Sequence[int], task: Task
) -> list[EncoderOutput]:
    """Split the packed graph's outputs into one result per sequence (inverse of `pack`).

    Args:
        outputs: the graph's outputs by name.
        lengths: number of tokens of each sequence.
        task: what the outputs mean.

    Raises:
        EngineError: an output has another shape than the sequences ask for.
    """
    if task is Task.TEXT_CLASSIFICATION:
        return _rows_of_logits(outputs, len(lengths))
    bounds, total = np.cumsum(lengths)[:-1], (sum(lengths),)
    starts = np.split(_output(outputs, "start_logits", total), bounds)
    ends = np.split(_output(outputs, "end_logits", total), bounds)
    return [EncoderOutput(start_logits=s, end_logits=e) for s, e in zip(starts, ends, strict=True)]


def pad(sequences: Sequence[EncoderSequence], manifest: Manifest) -> dict[str, npt.NDArray[np.generic]]:
    """Lay sequences in rows as the inputs of the padded graph, shorter ones padded on the right.

    Returns:
        `input_ids`, `attention_mask`, `global_attention_mask` and `token_type_ids` where the model takes
        them, int64 `[batch, sequence]`.

    Raises:
        InvalidInput: there is no sequence, or one is unfit (`check_sequence`), named by its index.
        CorruptBundle: the manifest names no padding token.
    """
    _check_sequences(sequences, manifest)
    if "pad" not in manifest.special_tokens:
        raise CorruptBundle("the manifest names no pad token, which padding needs; export the bundle again")
    shape = (len(sequences), max(sequence.input_ids.size for sequence in sequences))
    feeds: dict[str, npt.NDArray[np.generic]] = {
        "input_ids": np.full(shape, manifest.special_tokens["pad"], dtype=np.int64),
        "attention_mask": np.zeros(shape, dtype=np.int64),
    }
    if manifest.takes_global_attention:
        feeds["global_attention_mask"] = np.zeros(shape, dtype=np.int64)
    if manifest.type_vocab_size > 1:
        feeds["token_type_ids"] = np.zeros(shape, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        length = sequence.input_ids.size
        feeds["attention_mask"][row, :length] = 1
        for name, array in _named(sequence):
            feeds[name][row, :length] = array
    return feeds


def unpad(
    outputs: Mapping[str, npt.NDArray[np.generic]], lengths: Sequence[int], task: Task
) -> list[EncoderOutput]:
    """Split the padded graph's outputs into one result per sequence (inverse of `pad`).

    Args:
        outputs: the graph's outputs by name.
        lengths: number of tokens of each sequence.
        task: what the outputs mean.

    Raises:
        EngineError: an output has another shape than the sequences ask for.
    """
    if task is Task.TEXT_CLASSIFICATION:
        return _rows_of_logits(outputs, len(lengths))
    shape = (len(lengths), max(lengths))
    starts = _output(outputs, "start_logits", shape)
    ends = _output(outputs, "end_logits", shape)
    return [
        EncoderOutput(start_logits=start[:length], end_logits=end[:length])
        for start, end, length in zip(starts, ends, lengths, strict=True)
    ]


def _rows_of_logits(outputs: Mapping[str, npt.NDArray[np.generic]], rows: int) -> list[EncoderOutput]:
    return [EncoderOutput(logits=row) for row in _output(outputs, "logits", (rows, None))]


def _output(
    outputs: Mapping[str, npt.NDArray[np.generic]], name: str, shape: tuple[int | None, ...]
) -> Float32Array:
    """Return an output as float32; None in `shape` stands for any size."""
    if name not in outputs:
        raise EngineError(f"the graph gave {', '.join(outputs)} but no {name}; export the bundle again")
    array = np.asarray(outputs[name], dtype=np.float32)
    fits = array.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("labels" if size is None else str(size) for size in shape)
        raise EngineError(
            f"the graph gave {name} of shape {list(array.shape)} where [{wanted}] is due; "
            "export the bundle again"
        )
    return array


def _check_sequences(sequences: Sequence[EncoderSequence], manifest: Manifest) -> None:
    if not sequences:
        raise InvalidInput("there is no sequence to run; give at least one")
    for index, sequence in enumerate(sequences):
        try:
            check_sequence(sequence, manifest)
        except InvalidInput as error:
            if len(sequences) == 1:
                raise
            raise InvalidInput(f"sequence {index}: {error}", reason=error.reason) from None


def _named(sequence: EncoderSequence) -> list[tuple[str, Int64Array]]:
    given = {
        "input_ids": sequence.input_ids,
        "global_attention_mask": sequence.global_attention_mask,
        "token_type_ids": sequence.token_type_ids,
    }
    return [(name, array) for name, array in given.items() if array is not None]


def _check_range(name: str, array: Int64Array, limit: int) -> None:
    outside = (array < 0) | (array >= limit)
    if outside.any():
        position = int(outside.argmax())
        raise InvalidInput(
            f"{name} has the value {int(array[position])} at position {position}; "
            f"legal values are 0 to {limit - 1}"
        )
