"""Training batches of the demo checkpoints: documents to token ids, positions, masks and targets."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import torch
from demo_documents import LABELS, write_claim_file, write_minutes
from demo_model import MAX_TOKENS
from tokenizers import Encoding

__all__ = ["Batch", "answer_span", "classification_batch", "draw_length", "question_batch"]

_CLS, _PAD, _SEP = 0, 1, 2
_UNANSWERABLE = 0.15
_MATCHING = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of one training step.

    Attributes:
        inputs: the keyword arguments of the stock model's `forward`, all `[rows, sequence]`.
        targets: `[rows, 2]` first and last token of the answer, or `[rows, labels]` probabilities.
        marks: `[rows, sequence, 2]` for questions: 1 on the tokens of each sentence that names the asked
            project, and of each that names what is asked of it; 0 on others; -1 outside the context.
    """

    inputs: dict[str, torch.Tensor]
    targets: torch.Tensor
    marks: torch.Tensor | None = None


def draw_length(rng: random.Random, progress: float) -> int:
    """Return a document length in words: short ones first, all up to the model's length later on.

    Short documents stay in the mixture to the end, as they occur in use.
    """
    if progress < 0.15:
        low, high = 30, 60
    elif progress < 0.35:
        low, high = 30, 140
    elif progress < 0.6:
        low, high = 30, 600
    else:
        low, high = (30, 3850) if rng.random() < 0.6 else (1500, 3850)
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def answer_span(context: Encoding, start: int, length: int) -> tuple[int, int]:
    """Return the first and last token of the characters `start` to `start + length`."""
    tokens = [
        index for index, (low, high) in enumerate(context.offsets) if high > start and low < start + length
    ]
    return tokens[0], tokens[-1]


def question_batch(tokenizer: Any, key: str, *, progress: float, tokens: int) -> Batch:
    """Return about `tokens` tokens of minutes with questions, some of which the text does not answer."""
    rng = random.Random(f"batch/{key}")
    words = draw_length(rng, progress)
    rows: list[tuple[list[int], list[int], int]] = []
    targets: list[tuple[int, int]] = []
    for row in range(max(1, tokens // (words + 20))):
        minutes = write_minutes(
            f"{key}/{row}",
            words=words,
            facts=1.0 if progress < _MATCHING else rng.uniform(0.15, 0.7),
            rivals=0.7 if progress < _MATCHING else 0.3,
            answerable=rng.random() >= _UNANSWERABLE,
        )
        question = tokenizer.encode(minutes.question, add_special_tokens=False).ids
        context = tokenizer.encode(minutes.text, add_special_tokens=False)
        lead = len(question) + 3
        if minutes.answer:
            first, last = answer_span(context, minutes.answer_start, len(minutes.answer))
            # A window of a longer document begins and ends in mid-sentence.
            cut = rng.randint(0, min(first, 12)) if rng.random() < 0.5 else 0
            targets.append((first - cut + lead, last - cut + lead))
        else:
            cut = rng.randint(0, 12) if rng.random() < 0.5 else 0
            targets.append((0, 0))
        ids = [_CLS, *question, _SEP, _SEP, *context.ids[cut:][: MAX_TOKENS - lead - 1], _SEP]
        rows.append((ids, _positions(rng, len(ids), lead), lead - 2))
    inputs = _pad(rows)
    return Batch(inputs=inputs, targets=torch.tensor(targets), marks=_marks(rows, inputs, tokenizer))


def classification_batch(tokenizer: Any, key: str, *, progress: float, tokens: int) -> Batch:
    """Return about `tokens` tokens of claim files; those without evidence have equal target probabilities."""
    rng = random.Random(f"batch/{key}")
    words = draw_length(rng, progress)
    rows: list[tuple[list[int], list[int], int]] = []
    targets: list[list[float]] = []
    for row in range(max(1, tokens // words)):
        file = write_claim_file(
            f"{key}/{row}",
            words=words,
            evidence=0 if rng.random() < 0.05 else None,
            denied=rng.uniform(0.0, 0.3),
        )
        context = tokenizer.encode(file.text, add_special_tokens=False).ids
        ids = [_CLS, *context[: MAX_TOKENS - 2], _SEP]
        rows.append((ids, _positions(rng, len(ids), 1), 1))
        share = 0.0 if file.label else 1 / len(LABELS)
        targets.append([1.0 if name == file.label else share for name in LABELS])
    return Batch(inputs=_pad(rows), targets=torch.tensor(targets))


def _marks(
    rows: list[tuple[list[int], list[int], int]], inputs: dict[str, torch.Tensor], tokenizer: Any
) -> torch.Tensor:
    """Return `Batch.marks`: every question reads "... SORT of Project NAME ..."."""
    project, stop = (tokenizer.token_to_id(token) for token in ("ĠProject", "."))
    marks = torch.full((*inputs["input_ids"].shape, 2), -1.0)
    for row, (ids, _, lead) in enumerate(rows):
        asked = ids.index(project)
        context = torch.tensor(ids[lead + 2 :])
        sentence = (context == stop).cumsum(0) - (context == stop).long()
        for kind, token in enumerate((ids[asked + 1], ids[asked - 2])):
            named = torch.isin(sentence, sentence[context == token])
            marks[row, lead + 2 : len(ids), kind] = named.float()
    return marks


def _positions(rng: random.Random, length: int, lead: int) -> list[int]:
    """Return RoBERTa's position ids; those after `lead` often moved on, as if more text stood before."""
    shift = rng.randint(0, MAX_TOKENS - length) if rng.random() < 0.7 else 0
    return [index + _PAD + 1 + (shift if index >= lead else 0) for index in range(length)]


def _pad(rows: list[tuple[list[int], list[int], int]]) -> dict[str, torch.Tensor]:
    """Stack rows of (ids, positions, number of global tokens)."""
    width = max(len(ids) for ids, _, _ in rows)
    shape = (len(rows), width)
    input_ids = torch.full(shape, _PAD)
    position_ids = torch.full(shape, _PAD)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    global_attention_mask = torch.zeros(shape, dtype=torch.long)
    for row, (ids, positions, lead) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        position_ids[row, : len(ids)] = torch.tensor(positions)
        attention_mask[row, : len(ids)] = 1
        global_attention_mask[row, :lead] = 1
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "attention_mask": attention_mask,
        "global_attention_mask": global_attention_mask,
    }
