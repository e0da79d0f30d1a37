"""Longformers with trained heads on a BERT encoder's trained weights, for measurements of accuracy.

The encoder is converted as `real_weights_parity.py` does it. The classifier is trained on top of the frozen
encoder, to tell the demo's causes of damage; the reader is trained as a BERT, encoder and all, on minutes of
at most 300 words, and converted then.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from real_weights_parity import convert
from tokenizers.processors import TemplateProcessing
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    BertForQuestionAnswering,
    LongformerForSequenceClassification,
    PreTrainedTokenizerFast,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

__all__ = ["write_classifier", "write_reader"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
_CLS, _SEP, _PAD = "[CLS]", "[SEP]", "[PAD]"
_LONGEST = 4096
_READER_ROWS = 8
_READER_WORDS = (40, 300)
_READER_LEARNING_RATE = 1e-4
_REPORT_EVERY = 50


def write_classifier(bert: Path, target: Path, *, examples: int, steps: int) -> float:
    """Write a classifier on a converted BERT encoder and return its accuracy on held-out documents."""
    from demo_documents import LABELS, write_claim_file

    convert(bert, "text-classification", 512, target)
    _copy_tokenizer(bert, target)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    torch.manual_seed(0)
    model = LongformerForSequenceClassification.from_pretrained(
        target, num_labels=len(LABELS), ignore_mismatched_sizes=True, **labels
    ).eval()

    def features(key: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, wanted = [], []
        for number in range(count):
            document = write_claim_file(f"{key}/{number}", words=(100, 200, 400, 800)[number % 4])
            if document.label is None:
                continue
            ids = tokenizer(
                document.text, return_tensors="pt", truncation=True, max_length=_LONGEST
            ).input_ids
            with torch.no_grad():
                rows.append(model.longformer(ids).last_hidden_state[0, 0])
            wanted.append(LABELS.index(document.label))
        return torch.stack(rows), torch.tensor(wanted)

    inputs, wanted = features("head", examples)
    optimizer = torch.optim.AdamW(model.classifier.parameters(), lr=1e-3, weight_decay=0.01)
    for _ in range(steps):
        loss = functional.cross_entropy(model.classifier(inputs[:, None]), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(target)
    inputs, wanted = features("head-held-out", 100)
    with torch.no_grad():
        right = model.classifier(inputs[:, None]).argmax(dim=1) == wanted
    return float(right.float().mean())


def write_reader(bert: Path, target: Path, *, steps: int) -> None:
    """Write a question-answering model on a BERT encoder, trained on the demo's minutes, then converted."""
    tokenizer = AutoTokenizer.from_pretrained(bert).backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    torch.manual_seed(0)
    model = BertForQuestionAnswering.from_pretrained(bert).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_READER_LEARNING_RATE, weight_decay=0.01)
    warm_up = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / (steps - warm_up + 1))
    )
    begun, losses = time.monotonic(), []
    for step, (inputs, spans) in enumerate(_minutes_batches(tokenizer, steps), 1):
        output = model(**inputs)
        loss = functional.cross_entropy(output.start_logits, spans[:, 0])
        loss = (loss + functional.cross_entropy(output.end_logits, spans[:, 1])) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % _REPORT_EVERY == 0:
            mean = sum(losses) / len(losses)
            print(
                f"step {step}, loss {mean:.3f}, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True
            )
            losses.clear()
    trained = target.with_name(target.name + "-bert")
    model.save_pretrained(trained)
    convert(trained, "question-answering", 512, target)
    _write_framing_tokenizer(tokenizer, target)


def _minutes_batches(tokenizer: Any, steps: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Rows as longserve asks a Longformer: `[CLS] question [SEP] [SEP] text [SEP]`; (0, 0): no answer."""
    from demo_batches import answer_span
    from demo_documents import write_minutes

    cls_id, sep_id, pad_id = (tokenizer.token_to_id(token) for token in (_CLS, _SEP, _PAD))
    generator = random.Random(0)
    for step in range(steps):
        words = generator.randint(*_READER_WORDS)
        rows, spans = [], []
        for row in range(_READER_ROWS):
            minutes = write_minutes(
                f"bert/{step}/{row}",
                words=words,
                facts=generator.uniform(0.15, 0.7),
                answerable=generator.random() > 0.15,
            )
            question = tokenizer.encode(minutes.question, add_special_tokens=False).ids
            text = tokenizer.encode(minutes.text, add_special_tokens=False)
            head = [cls_id, *question, sep_id, sep_id]
            rows.append(torch.tensor([*head, *text.ids[: 511 - len(head)], sep_id]))
            span = (0, 0)
            if minutes.answer:
                first, last = answer_span(text, minutes.answer_start, len(minutes.answer))
                if last + len(head) < 511:
                    span = (first + len(head), last + len(head))
            spans.append(span)
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id)
        yield {"input_ids": ids, "attention_mask": (ids != pad_id).long()}, torch.tensor(spans)


def _write_framing_tokenizer(tokenizer: Any, target: Path) -> None:
    """Write a BERT's tokenizer with two separators after the question, which a stock Longformer counts on."""
    tokenizer.post_processor = TemplateProcessing(
        single=f"{_CLS} $A {_SEP}",
        pair=f"{_CLS} $A {_SEP} {_SEP} $B {_SEP}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (_CLS, _SEP)],
    )
    names = {"cls_token": _CLS, "sep_token": _SEP, "pad_token": _PAD, "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(target)


def _copy_tokenizer(source: Path, target: Path) -> None:
    for name in _TOKENIZER_FILES:
        shutil.copyfile(source / name, target / name)
