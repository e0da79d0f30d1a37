"""The encoder's outputs are kept for the very same sequence, and only good ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from longserve.serving.runtime.encoder_cache import EncoderCache
from longserve.serving.runtime.errors import EngineError
from longserve.serving.runtime.packing import EncoderOutput

LOGITS = 1 << 10


class Encoder:
    """Gives 1,024 float32 of the ids' sum, 4,096 bytes, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.fails = False

    def __call__(self, inputs: Mapping[str, Any]) -> EncoderOutput:
        self.calls += 1
        if self.fails:
            raise EngineError("out of memory")
        return EncoderOutput(logits=np.full(LOGITS, inputs["input_ids"].sum(), np.float32))


def sequence(*ids: int, mask: int = 1) -> dict[str, Any]:
    marks = np.zeros(len(ids), np.int64)
    marks[0] = mask
    return {"input_ids": np.array(ids, np.int64), "global_attention_mask": marks}


def test_a_sequence_is_encoded_once_and_another_gets_its_own() -> None:
    encoder, cache = Encoder(), EncoderCache(1 << 20)
    others = [sequence(5, 6), sequence(5, 6, mask=0), sequence(5), sequence(6, 5), sequence(5, 6, 0)]
    for round_ in range(2):
        for inputs in others:
            output = cache.output_of(inputs, encoder)
            assert output.logits is not None
            assert output.logits[0] == inputs["input_ids"].sum()
        assert encoder.calls == len(others), f"round {round_}"


def test_what_lies_across_two_tensors_is_not_the_same() -> None:
    encoder, cache = Encoder(), EncoderCache(1 << 20)
    for first, second in (((1, 2), (3,)), ((1,), (2, 3))):
        cache.output_of({"input_ids": np.array(first), "token_type_ids": np.array(second)}, encoder)
    assert encoder.calls == 2


def test_the_least_recently_used_make_room() -> None:
    encoder, cache = Encoder(), EncoderCache(10_000)  # two of them
    for ids in ((1,), (2,), (1,), (3,)):
        cache.output_of(sequence(*ids), encoder)
    assert encoder.calls == 3
    cache.output_of(sequence(1), encoder)
    assert encoder.calls == 3, "used last but one"
    cache.output_of(sequence(2), encoder)
    assert encoder.calls == 4, "used longest ago"


@pytest.mark.parametrize("max_bytes", [0, 4_000])
def test_without_room_nothing_is_kept(max_bytes: int) -> None:
    encoder, cache = Encoder(), EncoderCache(max_bytes)
    for _ in range(2):
        cache.output_of(sequence(1), encoder)
    assert encoder.calls == 2


def test_a_failure_is_not_kept() -> None:
    encoder, cache = Encoder(), EncoderCache(1 << 20)
    encoder.fails = True
    with pytest.raises(EngineError):
        cache.output_of(sequence(1), encoder)
    encoder.fails = False
    assert cache.output_of(sequence(1), encoder).logits is not None
