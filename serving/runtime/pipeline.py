"""The text pipelines: text → encoder sequences → (an encoder, anywhere) → result.

A pipeline does not run the encoder. `prepare` turns a text into sequences, one per window; the caller has
them encoded, in its own process or by a Triton model, together with those of other requests if it likes;
`finish` turns the outputs into the result. `run` does it all for callers that have an encoder at hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from .errors import CorruptBundle, EngineError, InvalidInput, Refusal
from .limits import TextLimits
from .manifest import GlobalAttention, Manifest, Task
from .observation import UNOBSERVED, TextObserver
from .options import ClassificationOptions, QuestionAnsweringOptions
from .packing import EncoderOutput, EncoderSequence
from .results import (
    Answer,
    Classification,
    WindowAnswers,
    WindowClassification,
    WindowedAnswers,
    WindowedClassification,
)
from .scores import apply_function, combine_windows, default_function
from .spans import Span, WindowLogits, best_spans, best_spans_of_windows, trimmed_bounds
from .tokenization import Tokenizer
from .window_sequences import extents, plan, sequences_of, token_ids
from .windows import Window, default_stride

__all__ = [
    "ClassificationPipeline",
    "PreparedQuestion",
    "PreparedText",
    "QuestionAnsweringPipeline",
    "make_pipeline",
    "run",
]

Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedText:
    """A text on its way through a classifier.

    Attributes:
        sequences: what the encoder is to run, one per window.
        tokens: length of the whole text, special tokens included.
        options: how the result is to be made.
        text: the text, for the characters of its windows should they be asked for.
        windows: the text's tokens that each sequence holds.
    """

    sequences: tuple[EncoderSequence, ...]
    tokens: int
    options: ClassificationOptions
    text: str
    windows: tuple[Window, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedQuestion:
    """A question and its context on their way through the encoder.

    Attributes:
        sequences: what the encoder is to run, one per window.
        tokens: length of question and whole context, special tokens included.
        options: how the result is to be made.
        context: the text that the answers' offsets refer to.
        offsets: characters of the context's tokens, int64 `[tokens, 2]`.
        windows: the context tokens that each sequence holds.
        prefix: tokens of each sequence before its first context token.
    """

    sequences: tuple[EncoderSequence, ...]
    tokens: int
    options: QuestionAnsweringOptions
    context: str
    offsets: Int64Array
    windows: tuple[Window, ...]
    prefix: int


class _Pipeline:
    def __init__(self, manifest: Manifest, tokenizer: Tokenizer, limits: TextLimits | None = None) -> None:
        """Take a bundle's manifest, its tokenizer, and the largest text to take."""
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.limits = limits or TextLimits()


class ClassificationPipeline(_Pipeline):
    """Text → labels. A sequence is `<s> text </s>`."""

    def prepare(
        self, text: str, options: ClassificationOptions, observer: TextObserver = UNOBSERVED
    ) -> PreparedText:
        """Tokenize a text and cut it into as many windows as it needs.

        Raises:
            InvalidInput: the text cannot be used, is too large, or the stride leaves no room in a window.
        """
        started = time.perf_counter()
        self.limits.check_text(text, "text")
        ids = self.tokenizer.ids(text, "text")
        stride = default_stride(self.manifest.max_length) if options.stride is None else options.stride
        windows = plan("text", ids, self.manifest.max_length - 2, stride, self.limits)
        head, tail = token_ids(self.tokenizer.cls_id), token_ids(self.tokenizer.sep_id)
        sequences = sequences_of(head, ids, tail, windows, self.tokenizer, self.manifest)
        tokens = ids.size + 2
        observer.prepared(tokens, len(windows), time.perf_counter() - started)
        return PreparedText(
            sequences=sequences,
            tokens=tokens,
            options=options,
            text=text,
            windows=windows,
        )

    def finish(
        self,
        prepared: PreparedText,
        outputs: Sequence[EncoderOutput],
        observer: TextObserver = UNOBSERVED,
    ) -> Classification:
        """Make the result from the encoder's outputs, one per sequence.

        Raises:
            EngineError: an output has the wrong shape or is not finite.
        """
        started = time.perf_counter()
        logits, function = self._logits(prepared, outputs)
        scores = combine_windows(logits, function, prepared.options.window_combination)
        ranked = self._ranked(scores, prepared.options.top_k)
        label, score = next(iter(ranked.items()))
        observer.decoded(time.perf_counter() - started)
        return Classification(label, score, ranked, prepared.tokens, len(prepared.sequences))

    def finish_windows(
        self,
        prepared: PreparedText,
        outputs: Sequence[EncoderOutput],
        observer: TextObserver = UNOBSERVED,
    ) -> WindowedClassification:
        """As `finish`, with what each window gave alone."""
        started = time.perf_counter()
        logits, function = self._logits(prepared, outputs)
        windows = []
        places = extents(prepared.windows, self.tokenizer.encode(prepared.text, "text").offsets)
        for (start, end, tokens), scores in zip(places, apply_function(logits, function), strict=True):
            ranked = self._ranked(scores, prepared.options.top_k)
            label, score = next(iter(ranked.items()))
            windows.append(WindowClassification(start, end, tokens, label, score, ranked))
        combined = self.finish(prepared, outputs)
        observer.decoded(time.perf_counter() - started)
        return WindowedClassification(combined, tuple(windows))

    def _logits(self, prepared: PreparedText, outputs: Sequence[EncoderOutput]) -> tuple[Float32Array, str]:
        """The windows' logits `[windows, labels]`, and the function that makes scores of them."""
        labels = self.manifest.labels
        _check_count(prepared.sequences, outputs)
        logits = [_checked("logits", output.logits, len(labels)) for output in outputs]
        chosen = prepared.options.function_to_apply
        return np.stack(logits), chosen or default_function(self.manifest.problem_type, len(labels))

    def _ranked(self, scores: npt.NDArray[np.float64], top_k: int | None) -> dict[str, float]:
        order = np.argsort(-scores, kind="stable")[:top_k]
        return {self.manifest.labels[index]: float(scores[index]) for index in order}


class QuestionAnsweringPipeline(_Pipeline):
    """Question and context → answers. A sequence is `<s> question </s></s> context </s>`, with as many `</s>`
    between the two as the manifest says."""

    def prepare(
        self,
        question: str,
        context: str,
        options: QuestionAnsweringOptions,
        observer: TextObserver = UNOBSERVED,
    ) -> PreparedQuestion:
        """Tokenize question and context and cut the context into as many windows as it needs.

        Raises:
            InvalidInput: a text cannot be used or is too large, or the question leaves too little room for
                the context.
        """
        started = time.perf_counter()
        self.limits.check_text(question, "question")
        self.limits.check_text(context, "context")
        asked = self.tokenizer.ids(question, "question")
        encoded = self.tokenizer.encode(context, "context")
        self._check_question(asked)
        special = 2 + self.manifest.question_separators
        capacity = self.manifest.max_length - asked.size - special
        if capacity < 1:
            raise InvalidInput(
                f"the question has {asked.size} tokens, which leaves no room for the context: the model "
                f"takes {self.manifest.max_length} tokens, {special} special ones included; shorten the "
                "question",
                reason=Refusal.QUESTION_TOO_LONG,
            )
        stride = options.stride
        if stride is None:
            uncut = min(options.max_answer_tokens, capacity // 2)
            stride = max(default_stride(self.manifest.max_length), uncut)
        windows = plan("context", encoded.ids, capacity, stride, self.limits, asked)
        cls_id, sep_id = self.tokenizer.cls_id, self.tokenizer.sep_id
        separators = token_ids(*[sep_id] * self.manifest.question_separators)
        head = np.concatenate([token_ids(cls_id), asked, separators])
        sequences = sequences_of(head, encoded.ids, token_ids(sep_id), windows, self.tokenizer, self.manifest)
        tokens = asked.size + encoded.ids.size + special
        observer.prepared(tokens, len(windows), time.perf_counter() - started)
        return PreparedQuestion(
            sequences=sequences,
            tokens=tokens,
            options=options,
            context=context,
            offsets=encoded.offsets,
            windows=windows,
            prefix=head.size,
        )

    def finish(
        self,
        prepared: PreparedQuestion,
        outputs: Sequence[EncoderOutput],
        observer: TextObserver = UNOBSERVED,
    ) -> tuple[Answer, ...]:
        """Make the answers from the encoder's outputs, one per sequence.

        Raises:
            EngineError: an output has the wrong shape or is not finite.
        """
        started = time.perf_counter()
        spans = best_spans(
            self._logits(prepared, outputs),
            trimmed_bounds(prepared.context, prepared.offsets),
            top_k=prepared.options.top_k,
            max_answer_tokens=prepared.options.max_answer_tokens,
            handle_impossible_answer=prepared.options.handle_impossible_answer,
        )
        answers = _answers(prepared, spans)
        observer.decoded(time.perf_counter() - started)
        return answers

    def finish_windows(
        self,
        prepared: PreparedQuestion,
        outputs: Sequence[EncoderOutput],
        observer: TextObserver = UNOBSERVED,
    ) -> WindowedAnswers:
        """As `finish`, with the best answers of each window, "no answer" not among them."""
        started = time.perf_counter()
        spans = best_spans_of_windows(
            self._logits(prepared, outputs),
            trimmed_bounds(prepared.context, prepared.offsets),
            top_k=prepared.options.top_k,
            max_answer_tokens=prepared.options.max_answer_tokens,
        )
        places = extents(prepared.windows, prepared.offsets)
        windows = tuple(
            WindowAnswers(start, end, tokens, _answers(prepared, found))
            for (start, end, tokens), found in zip(places, spans, strict=True)
        )
        combined = self.finish(prepared, outputs)
        observer.decoded(time.perf_counter() - started)
        return WindowedAnswers(combined, windows)

    def _logits(self, prepared: PreparedQuestion, outputs: Sequence[EncoderOutput]) -> list[WindowLogits]:
        """The logits of each window's context tokens."""
        _check_count(prepared.sequences, outputs)
        logits = []
        for sequence, window, output in zip(prepared.sequences, prepared.windows, outputs, strict=True):
            start = _checked("start_logits", output.start_logits, sequence.input_ids.size)
            end = _checked("end_logits", output.end_logits, sequence.input_ids.size)
            here = slice(prepared.prefix, prepared.prefix + window.size)
            logits.append(
                WindowLogits(
                    first=window.start,
                    start=start[here],
                    end=end[here],
                    null_start=float(start[0]),
                    null_end=float(end[0]),
                )
            )
        return logits

    def _check_question(self, asked: Int64Array) -> None:
        """A question's tokens attend globally, of which a graph may take a limited number."""
        capacity = self.manifest.max_global_tokens
        needed = asked.size + 1
        if (
            self.manifest.global_attention is GlobalAttention.QUESTION
            and capacity is not None
            and needed > capacity
        ):
            raise InvalidInput(
                f"the question has {asked.size} tokens, but this bundle takes at most {capacity - 1} "
                f"(it was exported with {capacity} global tokens); shorten it, or export with a larger "
                "--max-global-tokens",
                reason=Refusal.QUESTION_TOO_LONG,
            )


_Prepared_contra = TypeVar("_Prepared_contra", contravariant=True)
_Prepared = TypeVar("_Prepared", PreparedText, PreparedQuestion)
_Result = TypeVar("_Result")
_Result_co = TypeVar("_Result_co", covariant=True)


class _Finisher(Protocol[_Prepared_contra, _Result_co]):
    def finish(self, prepared: _Prepared_contra, outputs: Sequence[EncoderOutput], /) -> _Result_co: ...


def run(
    pipeline: _Finisher[_Prepared, _Result],
    requests: Sequence[_Prepared],
    encode: Callable[[Sequence[EncoderSequence]], Sequence[EncoderOutput]],
) -> list[_Result]:
    """Have all windows of all prepared requests encoded together, and return the results in order.

    Args:
        pipeline: the pipeline that prepared the requests.
        requests: what its `prepare` returned.
        encode: returns one output per sequence.

    Raises:
        EngineError: the encoder failed, or an output has the wrong shape or is not finite.
    """
    sequences = [sequence for prepared in requests for sequence in prepared.sequences]
    outputs = encode(sequences) if sequences else []
    _check_count(sequences, outputs)
    remaining = iter(outputs)
    return [
        pipeline.finish(prepared, list(islice(remaining, len(prepared.sequences)))) for prepared in requests
    ]


def make_pipeline(
    manifest: Manifest, tokenizer_path: str | Path, limits: TextLimits | None = None
) -> ClassificationPipeline | QuestionAnsweringPipeline:
    """Return the pipeline of a bundle's task, which takes texts up to `limits` (by default, `TextLimits()`).

    Raises:
        CorruptBundle: the tokenizer cannot be read, or the manifest names no label for a classifier.
        EngineError: the package `tokenizers` is not installed.
    """
    tokenizer = Tokenizer(tokenizer_path, manifest)
    if manifest.task is Task.QUESTION_ANSWERING:
        return QuestionAnsweringPipeline(manifest, tokenizer, limits)
    if not manifest.labels:
        raise CorruptBundle("the manifest of this classifier names no labels; export the bundle again")
    return ClassificationPipeline(manifest, tokenizer, limits)


def _answers(prepared: PreparedQuestion, spans: Sequence[Span]) -> tuple[Answer, ...]:
    return tuple(
        Answer(
            prepared.context[span.start : span.end],
            span.score,
            span.start,
            span.end,
            prepared.tokens,
            len(prepared.sequences),
        )
        for span in spans
    )


def _check_count(sequences: Sequence[EncoderSequence], outputs: Sequence[EncoderOutput]) -> None:
    if len(outputs) != len(sequences):
        raise EngineError(f"the encoder returned {len(outputs)} outputs for {len(sequences)} sequences")


def _checked(name: str, values: Float32Array | None, size: int) -> Float32Array:
    if values is None:
        raise EngineError(f"the encoder returned no {name}; it is another task's model")
    if values.shape != (size,):
        raise EngineError(f"the encoder returned {name} of shape {list(values.shape)} where [{size}] is due")
    if not np.isfinite(values).all():
        raise EngineError(f"the encoder returned {name} that are not finite; validate the bundle")
    return values
