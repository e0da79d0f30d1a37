"""The exportable modules against the stock model, in PyTorch."""

from __future__ import annotations

import functools
from itertools import accumulate
from typing import Any

import pytest
import torch
from checkpoints import make_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from longserve.export.model import PackedModel, PaddedModel, choose_block_size, longest_sequence

TASKS = ("text-classification", "question-answering")
WINDOWS = ([16, 32, 16], [4, 4, 4], [8, 24, 48], [64, 64, 64])
HEADS = (4, 6, 12, 1)
"""One group of heads that are computed together, two of three, three of four, and a single head."""


def _outputs(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, tuple):
        return list(result)
    return [result.logits] if hasattr(result, "logits") else [result.start_logits, result.end_logits]


def _difference(expected: Tensor, found: Tensor) -> float:
    assert expected.shape == found.shape
    return float((expected - found).abs().max() / max(1.0, float(expected.abs().max())))


@functools.cache
def stock_model(task: str, index: int) -> Any:
    """A stock model with the windows and heads of that index; those of odd index have two token types."""
    return make_model(
        task,
        seed=index,
        num_hidden_layers=len(WINDOWS[index]),
        attention_window=WINDOWS[index],
        num_attention_heads=HEADS[index],
        type_vocab_size=1 + index % 2,
        max_position_embeddings=302,
    )


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    length = draw(st.one_of(st.integers(1, 40), st.integers(41, 300)))
    rows = draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    ids = torch.randint(0, 320, (rows, length), generator=generator)
    attention = torch.ones_like(ids)
    for row in range(rows):
        kept = draw(st.integers(1, length))
        if draw(st.booleans()):
            attention[row, kept:] = 0  # right padding
        elif draw(st.booleans()):
            attention[row, : length - kept] = 0  # left padding
    density = draw(st.sampled_from([0.0, 0.02, 0.3, 1.0 if length <= 40 else 0.5]))
    globals_ = (torch.rand(rows, length, generator=generator) < density).long()
    if draw(st.booleans()):
        globals_[:, 0] = 1
    types = torch.randint(0, 2, (rows, length), generator=generator)
    return {"ids": ids, "attention": attention, "globals": globals_, "types": types}


@settings(max_examples=60, deadline=None)
@given(
    batch=batches(),
    task=st.sampled_from(TASKS),
    index=st.integers(0, len(WINDOWS) - 1),
    block_size=st.sampled_from([1, 7, 16, 64]),
)
def test_padded_layout_equals_the_stock_model_everywhere(
    batch: dict[str, Any], task: str, index: int, block_size: int
) -> None:
    """Any mask, also left padding and holes; compared on padding positions too, where both are defined."""
    types_count = 1 + index % 2
    stock = stock_model(task, index)
    ours = PaddedModel(stock, block_size=block_size)
    types = batch["types"] if types_count > 1 else None
    with torch.inference_mode():
        expected = _outputs(
            stock(
                batch["ids"],
                attention_mask=batch["attention"],
                global_attention_mask=batch["globals"],
                token_type_ids=types,
            )
        )
        found = _outputs(ours(batch["ids"], batch["attention"], batch["globals"], types))
    for wanted, got in zip(expected, found, strict=True):
        assert _difference(wanted, got) <= 1e-5


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 20), st.integers(1, 200)), min_size=1, max_size=6),
    seed=st.integers(0, 2**31),
    task=st.sampled_from(TASKS),
    index=st.integers(0, len(WINDOWS) - 1),
    block_size=st.sampled_from([1, 7, 16, 64]),
    density=st.sampled_from([0.0, 0.05, 0.5]),
)
def test_packed_layout_equals_single_stock_runs(
    lengths: list[int],
    seed: int,
    task: str,
    index: int,
    block_size: int,
    density: float,
) -> None:
    types_count = 1 + index % 2
    stock = stock_model(task, index)
    ours = PackedModel(stock, block_size=block_size)
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(0, 320, (length,), generator=generator) for length in lengths]
    masks = [(torch.rand(length, generator=generator) < density).long() for length in lengths]
    types = [torch.randint(0, types_count, (length,), generator=generator) for length in lengths]
    ends = torch.tensor(list(accumulate(lengths)), dtype=torch.int32)
    packed_types = torch.cat(types) if types_count > 1 else None
    with torch.inference_mode():
        found = _outputs(ours(torch.cat(rows), torch.cat(masks), ends, packed_types))
        for row, (ids, mask, kinds) in enumerate(zip(rows, masks, types, strict=True)):
            expected = _outputs(
                stock(
                    ids[None],
                    attention_mask=torch.ones_like(ids)[None],
                    global_attention_mask=mask[None],
                    token_type_ids=kinds[None] if types_count > 1 else None,
                )
            )
            first = 0 if row == 0 else int(ends[row - 1])
            for wanted, got in zip(expected, found, strict=True):
                own = got[row] if task == "text-classification" else got[first : int(ends[row])]
                assert _difference(wanted[0], own) <= 1e-5


def test_a_fixed_capacity_gives_the_same_and_takes_short_rows() -> None:
    stock = stock_model("question-answering", 0)
    fixed, free = PaddedModel(stock, block_size=16, max_global_tokens=40), PaddedModel(stock, block_size=16)
    for length in (1, 5, 39, 40, 41, 100):
        ids = torch.randint(3, 320, (2, length), generator=torch.Generator().manual_seed(length))
        mask = torch.zeros_like(ids)
        mask[0, : min(length, 40)] = 1
        with torch.inference_mode():
            for wanted, got in zip(
                free(ids, torch.ones_like(ids), mask), fixed(ids, torch.ones_like(ids), mask), strict=True
            ):
                assert _difference(wanted, got) <= 1e-5


def test_a_row_that_is_all_padding_does_not_poison_its_neighbours() -> None:
    stock = stock_model("text-classification", 0)
    ours = PaddedModel(stock, block_size=16)
    ids = torch.randint(3, 320, (3, 50), generator=torch.Generator().manual_seed(5))
    attention = torch.ones_like(ids)
    attention[1] = 0
    mask = torch.zeros_like(ids)
    mask[:, 0] = 1
    with torch.inference_mode():
        logits = ours(ids, attention, mask)
        alone = ours(ids[[0, 2]], attention[[0, 2]], mask[[0, 2]])
    assert torch.isfinite(logits).all()
    assert _difference(alone, logits[[0, 2]]) <= 1e-6


@pytest.mark.parametrize(
    ("windows", "expected"),
    [((512,) * 12, 128), ((256, 512), 128), ((64, 512), 32), ((32,), 16), ((2,), 16), ((100,), 32)],
)
def test_default_block_size(windows: tuple[int, ...], expected: int) -> None:
    assert choose_block_size(windows) == expected


def test_longest_sequence_counts_positions_from_the_padding_id() -> None:
    assert longest_sequence(4098, 1) == 4096
    assert longest_sequence(514, 1) == 512
