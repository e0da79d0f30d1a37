"""Train the demo checkpoints and say how good they are.

    python examples/train_demo_checkpoints.py --task question-answering
    python examples/train_demo_checkpoints.py --task text-classification

Training documents are written as they are needed (see `demo_documents.py`); none of them, nor of those that
the vocabulary is trained on, is among the held-out ones that the stated accuracy is measured on. The result
is a Hugging Face directory with a `training.json` beside the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from demo_accuracy import (
    Outcome,
    held_out_claim_files,
    held_out_minutes,
    measure_classifier,
    measure_reader,
    shares,
)
from demo_batches import Batch, classification_batch, question_batch
from demo_model import new_classifier, new_reader, train_vocabulary, use_prefix_attention
from torch.nn import functional

__all__ = ["TASKS", "Recipe", "main", "train", "write_checkpoint"]

_PEAK_LEARNING_RATE = 1e-3
_WARM_UP_STEPS = 200
_REPORT_EVERY = 100
_SHORT_PART = 0.35
_HINTED_PART = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a task's checkpoint is made and measured."""

    directory: str
    steps: int
    new_model: Callable[[], Any]
    new_batch: Callable[..., Batch]
    measure: Callable[[Any, Any, int], list[Outcome]]


TASKS = {
    "text-classification": Recipe(
        directory="longformer-tiny-classification",
        steps=1200,
        new_model=new_classifier,
        new_batch=classification_batch,
        measure=lambda model, tokenizer, count: measure_classifier(
            model, tokenizer, held_out_claim_files(count)
        ),
    ),
    "question-answering": Recipe(
        directory="longformer-tiny-qa",
        steps=3000,
        new_model=new_reader,
        new_batch=question_batch,
        measure=lambda model, tokenizer, count: measure_reader(model, tokenizer, held_out_minutes(count)),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained model with its tokenizer and what the training took."""

    model: Any
    tokenizer: Any
    steps: int
    seconds: int


def train(recipe: Recipe, *, seed: int, steps: int, minutes: float, tokens: int) -> Trained:
    """Train a model; learning rate and document lengths follow a schedule.

    Args:
        recipe: what to train.
        seed: of the initial weights and of the documents.
        steps: length of the schedule.
        minutes: the schedule ends after these if `steps` take longer (the result then depends on the
            machine).
        tokens: tokens of a step, about.
    """
    torch.manual_seed(seed)
    tokenizer = train_vocabulary()
    model = recipe.new_model()
    use_prefix_attention(model)
    hints = torch.nn.ModuleList(torch.nn.Linear(model.config.hidden_size, 2) for _ in range(2))
    parameters = [*model.parameters(), *hints.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    began = time.monotonic()
    losses: list[float] = []
    step = 0
    while (progress := max(step / steps, (time.monotonic() - began) / (60 * minutes))) < 1:
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, progress)
        batch = recipe.new_batch(
            tokenizer.backend_tokenizer,
            f"train/{seed}/{step}",
            progress=progress,
            tokens=tokens // 2 if progress < _SHORT_PART else tokens,
        )
        with torch.autocast("cpu", torch.bfloat16):
            output = model(**batch.inputs, output_hidden_states=batch.marks is not None)
        loss = task_loss = _loss(output, batch.targets)
        if batch.marks is not None and progress < _HINTED_PART:
            loss = task_loss + _hint_loss(hints, output.hidden_states, batch.marks)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(task_loss.item())
        step += 1
        if step % _REPORT_EVERY == 0:
            mean = sum(losses) / len(losses)
            _say(f"step {step}, {progress:.0%}, loss {mean:.4f}, {time.monotonic() - began:.0f} s")
            losses.clear()
    use_prefix_attention(model, enabled=False)
    seconds = round(time.monotonic() - began)
    return Trained(model=model.eval(), tokenizer=tokenizer, steps=step, seconds=seconds)


def write_checkpoint(trained: Trained, directory: Path, facts: dict[str, Any]) -> None:
    """Write a Hugging Face directory, whole or not at all; one that is there already is replaced."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        fresh = Path(scratch) / "fresh"
        trained.model.save_pretrained(fresh)
        trained.tokenizer.save_pretrained(fresh)
        (fresh / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        if directory.exists():
            directory.rename(Path(scratch) / "old")
        fresh.rename(directory)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = _parser().parse_args(arguments)
    recipe = TASKS[options.task]
    torch.set_num_threads(options.threads)
    steps = options.steps or recipe.steps
    trained = train(
        recipe, seed=options.seed, steps=steps, minutes=options.minutes, tokens=options.tokens_per_step
    )
    _say(f"measuring on {options.held_out} held-out documents")
    accuracy = shares(recipe.measure(trained.model, trained.tokenizer, options.held_out))
    output = options.output or Path(__file__).parent / "checkpoints" / recipe.directory
    facts = {
        "task": options.task,
        "seed": options.seed,
        "steps": trained.steps,
        "tokens_per_step": options.tokens_per_step,
        "seconds": trained.seconds,
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "held_out": accuracy,
    }
    write_checkpoint(trained, output, facts)
    print(json.dumps(accuracy, indent=2))


def _learning_rate(step: int, progress: float) -> float:
    """Return the rate of a linear warm-up followed by a cosine down to 2 % of the peak."""
    decay = 0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2
    return _PEAK_LEARNING_RATE * min((step + 1) / _WARM_UP_STEPS, decay)


def _loss(output: Any, targets: torch.Tensor) -> torch.Tensor:
    if "logits" in output:
        return functional.cross_entropy(output.logits.float(), targets)
    start = functional.cross_entropy(output.start_logits.float(), targets[:, 0])
    end = functional.cross_entropy(output.end_logits.float(), targets[:, 1])
    return (start + end) / 2


def _hint_loss(
    hints: torch.nn.ModuleList, hidden_states: tuple[torch.Tensor, ...], marks: torch.Tensor
) -> torch.Tensor:
    """Teach the last two layers which sentences name the asked project and the asked sort of fact.

    The answer alone is one signal a document, and a small model needs long to find out from it that a project
    in the text can be compared with the one in the question. The two heads are dropped after training.
    """
    known = marks >= 0
    losses = [
        functional.binary_cross_entropy_with_logits(
            hint(states.float())[:, : marks.shape[1]][known], marks[known]
        )
        for hint, states in zip(hints, hidden_states[-2:], strict=True)
    ]
    return 2 * torch.stack(losses).sum()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train a demo checkpoint on synthetic documents.")
    parser.add_argument("--task", required=True, choices=sorted(TASKS))
    parser.add_argument("--output", type=Path, help="directory to write (default: examples/checkpoints/...)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="length of the schedule (default: the task's)")
    parser.add_argument("--minutes", type=float, default=60.0, help="end the schedule early after these")
    parser.add_argument("--tokens-per-step", type=int, default=5000)
    parser.add_argument("--held-out", type=int, default=600, help="documents to measure the accuracy on")
    parser.add_argument("--threads", type=int, default=1, help="more gain little on models this small")
    return parser


if __name__ == "__main__":
    main()
