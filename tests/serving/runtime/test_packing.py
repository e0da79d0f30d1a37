"""Sequences to the inputs of either layout and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longserve.serving.runtime.errors import CorruptBundle, EngineError, InvalidInput
from longserve.serving.runtime.manifest import GlobalAttention, Manifest, Task
from longserve.serving.runtime.packing import (
    EncoderOutput,
    EncoderSequence,
    check_sequence,
    pack,
    pad,
    tensors_of,
    unpack,
    unpad,
)

CLASSIFY, ASK = Task.TEXT_CLASSIFICATION, Task.QUESTION_ANSWERING
LONGEST, VOCABULARY, PAD = 64, 420, 1
MakeManifest = Callable[..., Manifest]


def ints(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def sequence(length: int = 3, **fields: Any) -> EncoderSequence:
    arrays = {"input_ids": np.arange(length), "global_attention_mask": np.zeros(length, dtype=np.int64)}
    return EncoderSequence(**{**arrays, **fields})


@st.composite
def sequences(draw: st.DrawFn, *, types: int = 1, length: int = LONGEST) -> EncoderSequence:
    size = draw(st.integers(1, length))

    def array(limit: int) -> npt.NDArray[np.int64]:
        values = draw(st.lists(st.integers(0, limit - 1), min_size=size, max_size=size))
        return np.array(values, dtype=np.int64)

    kinds = array(types) if types > 1 and draw(st.booleans()) else None
    return EncoderSequence(input_ids=array(VOCABULARY), global_attention_mask=array(2), token_type_ids=kinds)


def batches(types: int = 1) -> st.SearchStrategy[list[EncoderSequence]]:
    return st.lists(sequences(types=types, length=12), min_size=1, max_size=5)


def lengths(batch: Sequence[EncoderSequence]) -> list[int]:
    return [one.input_ids.size for one in batch]


def given_types(one: EncoderSequence) -> npt.NDArray[np.int64]:
    return np.zeros_like(one.input_ids) if one.token_type_ids is None else one.token_type_ids


@settings(deadline=None)
@given(batch=st.integers(1, 3).flatmap(lambda types: st.tuples(st.just(types), batches(types))))
def test_packed_sequences_lie_end_to_end(
    make_manifest: MakeManifest, batch: tuple[int, list[EncoderSequence]]
) -> None:
    types, rows = batch
    feeds = pack(rows, make_manifest(type_vocab_size=types))
    assert set(feeds) == {"input_ids", "global_attention_mask", "sequence_ends"} | (
        {"token_type_ids"} if types > 1 else set()
    )
    assert feeds["sequence_ends"].dtype == np.int32
    assert {array.dtype for name, array in feeds.items() if name != "sequence_ends"} == {np.dtype(np.int64)}
    assert feeds["sequence_ends"][-1] == feeds["input_ids"].size
    start = 0
    for one, end in zip(rows, feeds["sequence_ends"].tolist(), strict=True):
        np.testing.assert_array_equal(feeds["input_ids"][start:end], one.input_ids)
        np.testing.assert_array_equal(feeds["global_attention_mask"][start:end], one.global_attention_mask)
        if types > 1:
            np.testing.assert_array_equal(feeds["token_type_ids"][start:end], given_types(one))
        start = end


@settings(deadline=None)
@given(batch=st.integers(1, 3).flatmap(lambda types: st.tuples(st.just(types), batches(types))))
def test_padded_sequences_lie_in_rows(
    make_manifest: MakeManifest, batch: tuple[int, list[EncoderSequence]]
) -> None:
    types, rows = batch
    feeds = pad(rows, make_manifest(type_vocab_size=types))
    assert {array.shape for array in feeds.values()} == {(len(rows), max(lengths(rows)))}
    assert {array.dtype for array in feeds.values()} == {np.dtype(np.int64)}
    for index, one in enumerate(rows):
        size = one.input_ids.size
        row = {name: array[index] for name, array in feeds.items()}
        np.testing.assert_array_equal(row["input_ids"][:size], one.input_ids)
        np.testing.assert_array_equal(row["global_attention_mask"][:size], one.global_attention_mask)
        assert (row["input_ids"][size:] == PAD).all()
        assert not row["global_attention_mask"][size:].any()
        np.testing.assert_array_equal(row["attention_mask"], np.arange(row["input_ids"].size) < size)
        if types > 1:
            np.testing.assert_array_equal(row["token_type_ids"][:size], given_types(one))
            assert not row["token_type_ids"][size:].any()


@settings(deadline=None)
@given(rows=batches())
def test_token_outputs_come_back_to_their_sequences(
    make_manifest: MakeManifest, rows: list[EncoderSequence]
) -> None:
    """A graph that gives back what it was given is undone by either inverse."""
    manifest = make_manifest(ASK)
    packed, padded = pack(rows, manifest), pad(rows, manifest)
    for feeds, undo in ((packed, unpack), (padded, unpad)):
        outputs = {"start_logits": feeds["input_ids"], "end_logits": feeds["global_attention_mask"]}
        found = undo(outputs, lengths(rows), ASK)
        for one, output in zip(rows, found, strict=True):
            start, end = output.vectors()
            assert start.dtype == end.dtype == np.float32
            np.testing.assert_array_equal(start, one.input_ids)
            np.testing.assert_array_equal(end, one.global_attention_mask)
            assert output.logits is None


@pytest.mark.parametrize("undo", [unpack, unpad])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_each_sequence_gets_its_row_of_logits(undo: Callable[..., list[EncoderOutput]], dtype: Any) -> None:
    logits = np.array([[1, 2, 3], [4, 5, 6]], dtype=dtype)
    first, second = undo({"logits": logits}, [7, 2], CLASSIFY)
    assert first.logits is not None and first.logits.dtype == np.float32
    assert [vector.tolist() for vector in first.vectors()] == [[1, 2, 3]]
    assert [vector.tolist() for vector in second.vectors()] == [[4, 5, 6]]


@pytest.mark.parametrize(
    ("undo", "task", "shape", "due"),
    [
        (unpack, CLASSIFY, (3, 5), "[2, labels]"),
        (unpack, CLASSIFY, (2,), "[2, labels]"),
        (unpad, CLASSIFY, (1, 5), "[2, labels]"),
        (unpack, ASK, (10,), "[9]"),
        (unpack, ASK, (8,), "[9]"),
        (unpack, ASK, (1, 9), "[9]"),
        (unpad, ASK, (2, 6), "[2, 7]"),
        (unpad, ASK, (3, 7), "[2, 7]"),
        (unpad, ASK, (9,), "[2, 7]"),
    ],
)
def test_outputs_of_another_shape_are_not_given_to_anybody(
    undo: Callable[..., list[EncoderOutput]], task: Task, shape: tuple[int, ...], due: str
) -> None:
    right = (9,) if undo is unpack else (2, 7)
    for wrong in ("logits",) if task is CLASSIFY else ("start_logits", "end_logits"):
        outputs = {name: np.zeros(right) for name in ("start_logits", "end_logits")}
        outputs[wrong] = np.zeros(shape)
        with pytest.raises(EngineError) as caught:
            undo(outputs, [7, 2], task)
        assert f"{wrong} of shape {list(shape)} where {due} is due" in str(caught.value)


@pytest.mark.parametrize("undo", [unpack, unpad])
def test_a_missing_output_is_named(undo: Callable[..., list[EncoderOutput]]) -> None:
    with pytest.raises(EngineError, match="gave logits but no start_logits"):
        undo({"logits": np.zeros((1, 2))}, [2], ASK)


def test_packing_keeps_no_tie_to_its_input(make_manifest: MakeManifest) -> None:
    one = sequence(4)
    for lay in (pack, pad):
        feeds = lay([one], make_manifest())
        feeds["input_ids"][...] = 0
        assert one.input_ids.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("length", [1, LONGEST])
def test_the_shortest_and_the_longest_pass(make_manifest: MakeManifest, length: int) -> None:
    check_sequence(sequence(length), make_manifest())


@pytest.mark.parametrize(
    ("fields", "manifest", "message"),
    [
        (
            {"input_ids": ints()},
            {},
            "global_attention_mask has 3 elements but input_ids has 0; make them equal",
        ),
        (
            {"input_ids": ints(), "global_attention_mask": ints()},
            {},
            "input_ids is empty; give at least one token",
        ),
        (
            {"input_ids": np.zeros(65, np.int64), "global_attention_mask": np.zeros(65, np.int64)},
            {},
            "input_ids has 65 tokens but the model takes at most 64; split the document into windows",
        ),
        (
            {"input_ids": np.zeros((1, 3), np.int64)},
            {},
            "input_ids has shape [1, 3]; give one sequence as [tokens]",
        ),
        ({"input_ids": np.array(7)}, {}, "input_ids has shape []; give one sequence as [tokens]"),
        (
            {"global_attention_mask": np.zeros((3, 1), np.int64)},
            {},
            "global_attention_mask has shape [3, 1]; give one sequence as [tokens]",
        ),
        ({"input_ids": np.zeros(3, np.int32)}, {}, "input_ids has element type int32; give int64"),
        ({"input_ids": np.zeros(3)}, {}, "input_ids has element type float64; give int64"),
        (
            {"global_attention_mask": np.zeros(3, bool)},
            {},
            "global_attention_mask has element type bool; give int64",
        ),
        (
            {"global_attention_mask": ints(0, 1)},
            {},
            "global_attention_mask has 2 elements but input_ids has 3; make them equal",
        ),
        (
            {"input_ids": ints(0, 420, 999)},
            {},
            "input_ids has the value 420 at position 1; legal values are 0 to 419",
        ),
        (
            {"input_ids": ints(0, 5, -1)},
            {},
            "input_ids has the value -1 at position 2; legal values are 0 to 419",
        ),
        (
            {"input_ids": ints(0, 5, -(2**63))},
            {},
            "input_ids has the value -9223372036854775808 at position 2; legal values are 0 to 419",
        ),
        (
            {"global_attention_mask": ints(1, 0, 2)},
            {},
            "global_attention_mask has the value 2 at position 2; legal values are 0 to 1",
        ),
        (
            {"token_type_ids": ints(0, 0, 0)},
            {},
            "this model has one token type and takes no token_type_ids; leave them out",
        ),
        (
            {"token_type_ids": ints(0, 1, 2)},
            {"type_vocab_size": 2},
            "token_type_ids has the value 2 at position 2; legal values are 0 to 1",
        ),
        (
            {"token_type_ids": ints(0, 1)},
            {"type_vocab_size": 2},
            "token_type_ids has 2 elements but input_ids has 3; make them equal",
        ),
        (
            {"token_type_ids": np.zeros(3, np.uint8)},
            {"type_vocab_size": 2},
            "token_type_ids has element type uint8; give int64",
        ),
        (
            {"global_attention_mask": ints(1, 1, 1)},
            {"max_global_tokens": 2},
            "global_attention_mask marks 3 tokens but this bundle was exported for at most 2 per sequence; "
            "mark fewer, or export with a larger --max-global-tokens",
        ),
    ],
)
@pytest.mark.parametrize("lay", [pack, pad])
def test_unfit_sequences_are_refused(
    make_manifest: MakeManifest,
    lay: Callable[..., Any],
    fields: dict[str, Any],
    manifest: dict[str, Any],
    message: str,
) -> None:
    model, bad = make_manifest(**manifest), sequence(**fields)
    with pytest.raises(InvalidInput) as caught:
        lay([bad], model)
    assert str(caught.value) == message
    with pytest.raises(InvalidInput) as caught:
        lay([sequence(), sequence(1), bad, bad], model)
    assert str(caught.value) == f"sequence 2: {message}"


def test_as_many_global_tokens_as_the_bundle_takes_pass(make_manifest: MakeManifest) -> None:
    check_sequence(sequence(global_attention_mask=ints(1, 0, 1)), make_manifest(max_global_tokens=2))
    check_sequence(sequence(global_attention_mask=ints(1, 1, 1)), make_manifest(max_global_tokens=None))


def test_a_model_without_global_attention_takes_no_mask_and_gets_none(make_manifest: MakeManifest) -> None:
    model = make_manifest(global_attention=GlobalAttention.NONE, attention_window=(), type_vocab_size=2)
    plain = EncoderSequence(input_ids=ints(5, 6), token_type_ids=ints(0, 1))
    rows = [plain, EncoderSequence(input_ids=ints(7))]
    assert pack(rows, model).keys() == {"input_ids", "sequence_ends", "token_type_ids"}
    assert pad(rows, model).keys() == {"input_ids", "attention_mask", "token_type_ids"}
    assert pad(rows, model)["token_type_ids"].tolist() == [[0, 1], [0, 0]]
    assert {name: array.tolist() for name, array in tensors_of(rows[1], model).items()} == {
        "input_ids": [7],
        "token_type_ids": [0],
    }
    with pytest.raises(InvalidInput, match=r"\(longformer\) has no global attention .* leave it out"):
        pack([sequence()], model)


def test_a_model_with_global_attention_needs_a_mask(make_manifest: MakeManifest) -> None:
    with pytest.raises(InvalidInput, match="there is no global_attention_mask, which this model"):
        pack([EncoderSequence(input_ids=ints(5, 6))], make_manifest())


@pytest.mark.parametrize("lay", [pack, pad])
def test_no_sequence_is_refused(make_manifest: MakeManifest, lay: Callable[..., Any]) -> None:
    with pytest.raises(InvalidInput, match="there is no sequence to run; give at least one"):
        lay([], make_manifest())


def test_only_padding_needs_a_padding_token(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(special_tokens={"cls": 0, "sep": 2})
    assert pack([sequence()], manifest)["sequence_ends"].tolist() == [3]
    with pytest.raises(CorruptBundle, match="names no pad token"):
        pad([sequence()], manifest)
