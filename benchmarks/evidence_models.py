"""Tiny classifiers of three kinds, trained alike: Longformer, BigBird, and BERT over windows of 512 tokens.

All have two layers of width 64, the demo checkpoints' vocabulary, and see the same documents in the same
order. BERT is trained as it is served: its probabilities are averaged over a document's windows, which are
those that `longserve` cuts, and the loss is that of the average.
"""

from __future__ import annotations

import math
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BigBirdConfig,
    BigBirdForSequenceClassification,
    LongformerConfig,
    LongformerForSequenceClassification,
)

from longserve.serving.runtime.windows import default_stride, plan_windows

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

from demo_documents import LABELS  # noqa: E402
from demo_model import use_prefix_attention  # noqa: E402
from evidence_tasks import SHORTEST, TASKS, WARM_UP, LabelledText  # noqa: E402

__all__ = ["BERT_WINDOW", "STEPS", "Batch", "Training", "load_tokenizer"]

BERT_WINDOW = 512
STEPS = {"base": 500, "local": 700, "scattered": 500, "far": 1800}
"""Steps of each stage. `base` trains on documents of `WARM_UP`; the others begin with its weights."""
_LONGEST_TOKENS = 1536
_LONGEST_WORDS = 1350
_TOKENS_PER_STEP = 4000
_PEAK_LEARNING_RATE = 2e-3
_WARM_UP_STEPS = 50
_CLS, _PAD, _SEP = 0, 1, 2


def load_tokenizer(max_length: int) -> Any:
    """Return the demo checkpoints' tokenizer, for a model of that length."""
    tokenizer = AutoTokenizer.from_pretrained(EXAMPLES / "checkpoints" / "longformer-tiny-classification")
    tokenizer.model_max_length = max_length
    return tokenizer


def new_model(architecture: str, labels: tuple[str, ...]) -> Any:
    """Return an untrained classifier."""
    names = dict(enumerate(labels))
    shared = {
        "vocab_size": 2048,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "type_vocab_size": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.08,
        "bos_token_id": _CLS,
        "pad_token_id": _PAD,
        "eos_token_id": _SEP,
        "sep_token_id": _SEP,
        "id2label": names,
        "label2id": {name: index for index, name in names.items()},
        "problem_type": "single_label_classification",
    }
    if architecture == "bert":
        return BertForSequenceClassification(BertConfig(max_position_embeddings=BERT_WINDOW, **shared))
    if architecture == "bigbird":
        return BigBirdForSequenceClassification(
            BigBirdConfig(
                max_position_embeddings=_LONGEST_TOKENS, block_size=32, num_random_blocks=1, **shared
            )
        )
    return LongformerForSequenceClassification(
        LongformerConfig(max_position_embeddings=_LONGEST_TOKENS + 2, attention_window=[64, 64], **shared)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of one step.

    Attributes:
        inputs: of the stock model's `forward`, `[rows, sequence]`.
        documents: the document that each row is a window of, `[rows]`.
        targets: label of each document, `[documents]`.
        causes: first and last cause that each document names, `[documents, 2]`.
    """

    inputs: dict[str, torch.Tensor]
    documents: torch.Tensor
    targets: torch.Tensor
    causes: torch.Tensor


@dataclass(kw_only=True)
class Training:
    """A model in training, which can be stopped after any step and gone on with.

    Attributes:
        architecture: `bert`, `bigbird` or `longformer`.
        stage: of `STEPS`.
        seed: of the weights and the documents.
        steps: length of the schedule.
        step: how many are done.
        seconds: time that they took.
        losses: mean loss of every 50 steps.
    """

    architecture: str
    stage: str
    seed: int = 1
    steps: int = 0
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.task = WARM_UP if self.stage == "base" else TASKS[self.stage]
        self.steps = self.steps or STEPS[self.stage]
        self.labels = self.task.labels
        torch.manual_seed(self.seed)
        self.model = new_model(self.architecture, self.labels).eval()  # no dropout; BigBird's fixed blocks
        self.hints = torch.nn.ModuleList(torch.nn.Linear(64, len(LABELS)) for _ in range(2))
        self._tokenizer = load_tokenizer(_LONGEST_TOKENS).backend_tokenizer
        parameters = [*self.model.parameters(), *self.hints.parameters()]
        self._parameters = parameters
        self.optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)

    def begin_with(self, other: Training) -> None:
        """Take another stage's weights, all but the last layer's."""
        weights = {
            name: value
            for name, value in other.model.state_dict().items()
            if value.shape == self.model.state_dict()[name].shape and "classifier" not in name
        }
        self.model.load_state_dict(weights, strict=False)
        self.hints.load_state_dict(other.hints.state_dict())

    def save(self, path: Path) -> None:
        """Write everything that going on needs."""
        scratch = path.with_suffix(".tmp")
        torch.save(
            {
                "model": self.model.state_dict(),
                "hints": self.hints.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "losses": self.losses,
            },
            scratch,
        )
        scratch.replace(path)

    def load(self, path: Path) -> None:
        """Go on with what `save` wrote."""
        state = torch.load(path)
        self.model.load_state_dict(state["model"])
        self.hints.load_state_dict(state["hints"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]

    def run(self, seconds: float, *, most: int | None = None) -> bool:
        """Train until the schedule, the time or `most` steps are over; return whether the schedule is."""
        began = time.monotonic()
        if self.architecture == "longformer":
            use_prefix_attention(self.model)
        total = 0.0
        last = self.steps if most is None else min(self.steps, self.step + most)
        while self.step < last and time.monotonic() - began < seconds:
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate()
            loss = self.loss(self._batch())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            total += loss.item()
            self.step += 1
            if self.step % 50 == 0:
                self.losses.append(round(total / 50, 4))
                total = 0.0
        if self.architecture == "longformer":
            use_prefix_attention(self.model, enabled=False)
        self.seconds += time.monotonic() - began
        return self.step >= self.steps

    def _learning_rate(self) -> float:
        decay = 0.02 + 0.98 * (1 + math.cos(math.pi * self.step / self.steps)) / 2
        return _PEAK_LEARNING_RATE * min((self.step + 1) / _WARM_UP_STEPS, decay)

    def _batch(self) -> Batch:
        documents_before = STEPS["base"] if self.stage == "local" else 0
        key = f"train/{self.seed}/{self.step + documents_before}"
        rng = random.Random(f"batch/{key}")
        progress = self.step / self.steps
        longest = 150 if progress < 0.4 else 400 if progress < 0.6 else _LONGEST_WORDS
        words = round(math.exp(rng.uniform(math.log(SHORTEST), math.log(longest))))
        count = max(4, _TOKENS_PER_STEP // words)
        return self.rows([self.task.write(f"{key}/{row}", words) for row in range(count)])

    def rows(self, documents: list[LabelledText]) -> Batch:
        """Return documents as the model reads them: BERT in windows, the others whole."""
        capacity = (BERT_WINDOW if self.architecture == "bert" else _LONGEST_TOKENS) - 2
        rows: list[list[int]] = []
        owners: list[int] = []
        for number, document in enumerate(documents):
            ids = self._tokenizer.encode(document.text, add_special_tokens=False).ids
            for window in plan_windows(len(ids), capacity, default_stride(capacity + 2)):
                rows.append([_CLS, *ids[window.start : window.end], _SEP])
                owners.append(number)
        width = max(map(len, rows))
        input_ids = torch.tensor([row + [_PAD] * (width - len(row)) for row in rows])
        inputs = {"input_ids": input_ids, "attention_mask": (input_ids != _PAD).long()}
        if self.architecture == "longformer":
            inputs["global_attention_mask"] = functional.one_hot(
                torch.zeros(len(rows), dtype=torch.long), width
            )
        return Batch(
            inputs=inputs,
            documents=torch.tensor(owners),
            targets=torch.tensor([self.labels.index(document.label) for document in documents]),
            causes=torch.tensor([[LABELS.index(d.causes[0]), LABELS.index(d.causes[-1])] for d in documents]),
        )

    def loss(self, batch: Batch) -> torch.Tensor:
        """The label's loss; for `far` also that of naming both causes, a help in learning."""
        if self.architecture == "bigbird":
            self.model.bert.set_attention_type("block_sparse")  # a short batch switches it off for good
        output = self.model(**batch.inputs, output_hidden_states=True)
        loss = _document_loss(output.logits, batch.documents, batch.targets)
        if self.stage == "far":
            first = output.hidden_states[-1][:, 0]
            for hint, causes in zip(self.hints, batch.causes.T, strict=True):
                loss = loss + _document_loss(hint(first), batch.documents, causes)
        return loss


def _document_loss(logits: torch.Tensor, documents: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the mean of the probabilities of each document's rows."""
    probabilities = logits.softmax(dim=-1)
    sums = torch.zeros(len(targets), logits.shape[-1]).index_add(0, documents, probabilities)
    means = sums / torch.bincount(documents, minlength=len(targets))[:, None]
    return functional.nll_loss((means + 1e-9).log(), targets)
