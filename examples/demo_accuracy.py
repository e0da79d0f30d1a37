"""How often the demo checkpoints are right, measured with the stock `transformers` models.

Global attention is what `transformers` sets by itself: token 0 for classification, the question for question
answering. Documents longer than the model are read in overlapping windows, the question repeated in each;
class probabilities are averaged over the windows, and the span that stands highest above its window's
"no answer" (token 0) wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from demo_batches import answer_span
from demo_documents import ClaimFile, Minutes, write_claim_file, write_minutes
from demo_model import MAX_TOKENS

__all__ = [
    "Outcome",
    "answer_question",
    "classify_text",
    "evidence_token",
    "held_out_claim_files",
    "held_out_minutes",
    "measure_classifier",
    "measure_reader",
    "shares",
]

_LONGEST_ANSWER = 12
_STRIDE = 512
_LENGTHS = (60, 200, 500, 1000, 2000, 3500)
_BUCKETS = (128, 512, 1024, 2048, 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One document of a measurement.

    Attributes:
        bucket: where it counts, e.g. `"evidence at token 512 to 1023"`.
        correct: whether the prediction equals what is true.
    """

    bucket: str
    correct: bool


def held_out_minutes(count: int) -> Iterator[Minutes]:
    """Write minutes that no training run sees: short to long, the fact anywhere; a seventh has no answer."""
    for number in range(count):
        yield write_minutes(
            f"held-out/{number}", words=_LENGTHS[number % len(_LENGTHS)], answerable=number % 7 != 6
        )


def held_out_claim_files(count: int) -> Iterator[ClaimFile]:
    """Write claim files that no training run sees, short to long."""
    for number in range(count):
        yield write_claim_file(f"held-out/{number}", words=_LENGTHS[number % len(_LENGTHS)])


def answer_question(model: Any, tokenizer: Any, question: str, context: str) -> str:
    """Return the best span of the context, or an empty string where "no answer" scores higher."""
    asked = tokenizer.backend_tokenizer.encode(question, add_special_tokens=False).ids
    encoding = tokenizer.backend_tokenizer.encode(context, add_special_tokens=False)
    lead = len(asked) + 3
    best, span = 0.0, (0, 0)
    for offset, part in _windows(encoding.ids, MAX_TOKENS - lead - 1):
        sep = model.config.sep_token_id
        ids = torch.tensor([[model.config.bos_token_id, *asked, sep, sep, *part, sep]])
        with torch.no_grad():
            output = model(input_ids=ids)
        start, end = output.start_logits[0], output.end_logits[0]
        scores = start[lead:-1, None] + end[None, lead:-1]
        scores = scores.triu().tril(_LONGEST_ANSWER - 1) + torch.where(
            torch.ones_like(scores).triu().tril(_LONGEST_ANSWER - 1) > 0, 0.0, -torch.inf
        )
        first, last = divmod(int(scores.argmax()), scores.shape[1])
        above = float(scores[first, last] - start[0] - end[0])
        if above > best:
            best, span = above, (encoding.offsets[offset + first][0], encoding.offsets[offset + last][1])
    return context[span[0] : span[1]].strip()


def classify_text(model: Any, tokenizer: Any, text: str) -> str:
    """Return the label of the largest probability, averaged over the windows of the text."""
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    probabilities = []
    for _, part in _windows(ids, MAX_TOKENS - 2):
        row = torch.tensor([[model.config.bos_token_id, *part, model.config.sep_token_id]])
        with torch.no_grad():
            probabilities.append(model(input_ids=row).logits[0].softmax(dim=0))
    label: str = model.config.id2label[int(torch.stack(probabilities).mean(dim=0).argmax())]
    return label


def evidence_token(tokenizer: Any, minutes: Minutes) -> int:
    """Return the index of the answer's first token among the tokens of the text."""
    encoding = tokenizer.backend_tokenizer.encode(minutes.text, add_special_tokens=False)
    return answer_span(encoding, minutes.answer_start, len(minutes.answer))[0]


def measure_reader(model: Any, tokenizer: Any, documents: Iterable[Minutes]) -> list[Outcome]:
    """Compare answers with the true ones, character by character (exact match)."""
    outcomes = []
    for minutes in documents:
        answer = answer_question(model, tokenizer, minutes.question, minutes.text)
        if minutes.answer:
            bucket = "evidence at token " + _bucket(evidence_token(tokenizer, minutes))
        else:
            bucket = "no answer in the text"
        outcomes.append(Outcome(bucket=bucket, correct=answer == minutes.answer))
    return outcomes


def measure_classifier(model: Any, tokenizer: Any, documents: Iterable[ClaimFile]) -> list[Outcome]:
    """Compare labels with the true ones."""
    outcomes = []
    for file in documents:
        label = classify_text(model, tokenizer, file.text)
        tokens = len(tokenizer.backend_tokenizer.encode(file.text, add_special_tokens=False).ids)
        outcomes.append(Outcome(bucket=f"text of {_bucket(tokens)} tokens", correct=label == file.label))
    return outcomes


def shares(outcomes: Iterable[Outcome]) -> dict[str, dict[str, float]]:
    """Return the number of documents and the share of correct ones in all and in each bucket."""
    groups: dict[str, list[bool]] = {"all": []}
    for outcome in outcomes:
        groups["all"].append(outcome.correct)
        groups.setdefault(outcome.bucket, []).append(outcome.correct)
    return {
        name: {"documents": len(group), "correct": round(sum(group) / len(group), 4)}
        for name, group in sorted(groups.items(), key=lambda item: (item[0] != "all", len(item[0]), item[0]))
        if group
    }


def _bucket(tokens: int) -> str:
    low = 0
    for high in _BUCKETS:
        if tokens < high:
            return f"{low} to {high - 1}"
        low = high
    return f"{low} on"


def _windows(ids: list[int], size: int) -> Iterator[tuple[int, list[int]]]:
    """Yield overlapping parts of at most `size` tokens with their offsets; each repeats `_STRIDE` tokens."""
    offset = 0
    while True:
        yield offset, ids[offset : offset + size]
        if offset + size >= len(ids):
            return
        offset += size - _STRIDE
