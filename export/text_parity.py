"""What an export does to the predictions on a user's own texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import Engine, encode
from longserve.serving.runtime.errors import InvalidInput
from longserve.serving.runtime.manifest import Task
from longserve.serving.runtime.options import ClassificationOptions, QuestionAnsweringOptions
from longserve.serving.runtime.packing import EncoderOutput, EncoderSequence
from longserve.serving.runtime.pipeline import (
    ClassificationPipeline,
    QuestionAnsweringPipeline,
    make_pipeline,
    run,
)
from longserve.serving.runtime.tokenization import Tokenizer

from .errors import ExportError
from .kept_memory import kept_memory
from .parity import reference_outputs
from .progress import Progress

__all__ = ["TextParity", "Texts", "compare_texts", "read_texts", "span_f1"]

Texts = Mapping[int, Mapping[str, str]] | Sequence[Mapping[str, str]]
Encoder = Callable[[Sequence[EncoderSequence]], Sequence[EncoderOutput]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextParity:
    """Agreement of the bundle's predictions with PyTorch's.

    Attributes:
        texts: number of texts (or questions).
        same: how many predictions are equal: the label, or the answer's exact span.
        f1: mean overlap of the answers' characters, 1 where all spans are equal (question answering only).
        largest_score_difference: largest difference of the winning prediction's score.
        differing: numbers of the texts whose predictions differ.
        tokenized_otherwise: numbers of the texts that the checkpoint's own tokenizer reads otherwise. Such
            are texts that spell out a special token of the model's structure, like `</s>`: to a bundle that
            is plain text.
    """

    texts: int
    same: int
    f1: float | None
    largest_score_difference: float
    differing: tuple[int, ...]
    tokenized_otherwise: tuple[int, ...]


def read_texts(path: Path, task: Task) -> dict[int, dict[str, str]]:
    """Read texts, one JSON object per line: `{"text": …}`, or `{"question": …, "context": …}`.

    Returns:
        Their fields by the number of the line, from 1.

    Raises:
        ExportError: not UTF-8 or JSON, a field is missing, or there is no line; the line is named.
    """
    fields = ("text",) if task is Task.TEXT_CLASSIFICATION else ("question", "context")
    texts = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a JSON string may hold other line ends
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ExportError(f"line {number} of {path} is not JSON: {error}") from error
        if not isinstance(entry, dict) or any(not isinstance(entry.get(name), str) for name in fields):
            wanted = ", ".join(f'"{name}"' for name in fields)
            raise ExportError(f"line {number} of {path} has no text under {wanted}; {task.value} needs it")
        texts[number] = {name: entry[name] for name in fields}
    if not texts:
        raise ExportError(f"{path} holds no text")
    return texts


@kept_memory()
def compare_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    engine: Engine,
    bundle: Bundle,
    texts: Texts,
    *,
    progress: Progress | None = None,
) -> TextParity:
    """Run the whole text pipeline on both and compare what a user would see.

    Args:
        model: the stock model.
        tokenizer: the checkpoint's; None: its texts are not compared.
        engine: the bundle's packed graph.
        bundle: the bundle, with a tokenizer.
        texts: their fields, `text` or `question` and `context`, by the number that is theirs in the result; a
            sequence is numbered from 1.
        progress: is told of every text.
    """
    manifest = bundle.manifest
    pipeline = make_pipeline(manifest, bundle.tokenizer_path)
    own = Tokenizer(bundle.tokenizer_path, manifest)
    numbered = texts if isinstance(texts, Mapping) else dict(enumerate(texts, 1))

    def by_engine(sequences: Sequence[EncoderSequence]) -> Sequence[EncoderOutput]:
        return encode(engine, sequences, manifest)

    def by_model(sequences: Sequence[EncoderSequence]) -> Sequence[EncoderOutput]:
        return [output for one in sequences for output in reference_outputs(model, [one], manifest)]

    if progress is not None:
        progress.stage("compare texts", len(texts))
    same, overlaps, differences, differing, otherwise = 0, [], [0.0], [], []
    for number, text in numbered.items():
        try:
            expected, found = (_predict(pipeline, text, by) for by in (by_model, by_engine))
        except InvalidInput as error:
            raise ExportError(f"text {number}: {error}") from error
        if tokenizer is not None and not _tokenized_alike(own, tokenizer, text):
            otherwise.append(number)
        equal = expected.identity == found.identity
        same += equal
        overlaps.append(span_f1(expected.span, found.span))
        if equal:
            differences.append(abs(expected.score - found.score))
        else:
            differing.append(number)
        if progress is not None:
            progress.advance()
    return TextParity(
        texts=len(texts),
        same=same,
        f1=sum(overlaps) / len(overlaps) if manifest.task is Task.QUESTION_ANSWERING else None,
        largest_score_difference=max(differences),
        differing=tuple(differing),
        tokenized_otherwise=tuple(otherwise),
    )


def _tokenized_alike(own: Tokenizer, stock: PreTrainedTokenizerBase, fields: Mapping[str, str]) -> bool:
    return all(
        own.ids(text, name).tolist() == stock(text, add_special_tokens=False, verbose=False)["input_ids"]
        for name, text in fields.items()
    )


def span_f1(expected: tuple[int, int], found: tuple[int, int]) -> float:
    """F1 of two spans over the characters that they cover; 1 for two equal ones, empty ones included."""
    if expected == found:
        return 1.0
    common = max(0, min(expected[1], found[1]) - max(expected[0], found[0]))
    total = expected[1] - expected[0] + found[1] - found[0]
    return 2 * common / total if total else 0.0


@dataclass(frozen=True, slots=True)
class _Prediction:
    identity: object
    span: tuple[int, int]
    score: float


def _predict(
    pipeline: ClassificationPipeline | QuestionAnsweringPipeline, text: Mapping[str, str], encoder: Encoder
) -> _Prediction:
    if isinstance(pipeline, ClassificationPipeline):
        prepared = pipeline.prepare(text["text"], ClassificationOptions())
        label = run(pipeline, [prepared], encoder)[0]
        return _Prediction(label.label, (0, 0), label.score)
    asked = pipeline.prepare(text["question"], text["context"], QuestionAnsweringOptions())
    answer = run(pipeline, [asked], encoder)[0][0]
    return _Prediction((answer.start, answer.end), (answer.start, answer.end), answer.score)
