"""Windows over long documents: nothing is lost at a seam, wherever it falls.

The encoder here is an oracle: it points to the marked tokens wherever a window holds *all* of them. What it
finds, a real model can find; what it misses, the windows have torn apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from longserve.serving.runtime.errors import InvalidInput
from longserve.serving.runtime.limits import DEFAULT_MAX_TEXT_BYTES, TextLimits
from longserve.serving.runtime.manifest import Manifest, Task
from longserve.serving.runtime.options import ClassificationOptions, QuestionAnsweringOptions
from longserve.serving.runtime.packing import EncoderOutput, EncoderSequence
from longserve.serving.runtime.pipeline import (
    ClassificationPipeline,
    PreparedQuestion,
    QuestionAnsweringPipeline,
    make_pipeline,
    run,
)
from longserve.serving.runtime.tokenization import Tokenizer
from longserve.serving.runtime.windows import count_windows, plan_windows

MakeManifest = Callable[..., Manifest]
FILLER = "the red key is in the box near the mill. "
MARKED = "the letter of Antwerp"
QUESTION = "Where?"


@pytest.fixture(scope="module")
def reader(tokenizer_path: Path, make_manifest: MakeManifest) -> QuestionAnsweringPipeline:
    pipeline = make_pipeline(make_manifest(), tokenizer_path)
    assert isinstance(pipeline, QuestionAnsweringPipeline)
    return pipeline


def oracle(prepared: PreparedQuestion, first: int, last: int) -> list[EncoderOutput]:
    """High logits on the context tokens `first` to `last` in the windows that hold all of them."""
    outputs = []
    for sequence, window in zip(prepared.sequences, prepared.windows, strict=True):
        start, end = np.full((2, sequence.input_ids.size), -5, dtype=np.float32)
        if window.start <= first and last < window.end:
            start[prepared.prefix + first - window.start] = 10
            end[prepared.prefix + last - window.start] = 10
        outputs.append(EncoderOutput(start_logits=start, end_logits=end))
    return outputs


def tokens_of(prepared: PreparedQuestion, start: int, end: int) -> tuple[int, int]:
    """First and last token that touch the characters."""
    touching = (prepared.offsets[:, 1] > start) & (prepared.offsets[:, 0] < end)
    positions = np.flatnonzero(touching)
    return int(positions[0]), int(positions[-1])


@settings(deadline=None)
@given(
    tokens=st.integers(1, 3000),
    capacity=st.integers(1, 300),
    stride=st.integers(0, 299),
    at=st.floats(0, 1),
    length=st.integers(1, 300),
)
def test_any_run_of_tokens_up_to_the_stride_lies_whole_in_a_window(
    tokens: int, capacity: int, stride: int, at: float, length: int
) -> None:
    assume(stride < capacity)
    length = min(length, stride + 1, tokens)
    first = round(at * (tokens - length))
    windows = plan_windows(tokens, capacity, stride)
    assert any(window.start <= first and first + length <= window.end for window in windows)
    assert len(windows) == count_windows(tokens, capacity, stride)


@settings(deadline=None)
@given(tokens=st.integers(2, 3000), capacity=st.integers(1, 300), stride=st.integers(0, 299))
def test_a_token_at_a_seam_has_half_the_stride_around_it(tokens: int, capacity: int, stride: int) -> None:
    assume(stride < capacity < tokens)
    windows = plan_windows(tokens, capacity, stride)
    for left in windows[:-1]:
        for token in (left.end - 1, left.end):
            context = max(
                min(token - w.start if w.start else tokens, w.end - 1 - token if w.end < tokens else tokens)
                for w in windows
                if w.start <= token < w.end
            )
            assert context >= (stride - 1) // 2


@pytest.mark.parametrize("words_before", range(0, 120, 1))
def test_an_answer_is_found_wherever_it_stands(reader: QuestionAnsweringPipeline, words_before: int) -> None:
    words = (FILLER * 20).split()
    before = " ".join(words[:words_before])
    context = f"{before} {MARKED} {' '.join(words[words_before:])}".strip()
    start = context.index(MARKED)
    prepared = reader.prepare(QUESTION, context, QuestionAnsweringOptions())
    assert len(prepared.windows) > 5
    (answer,) = reader.finish(prepared, oracle(prepared, *tokens_of(prepared, start, start + len(MARKED))))
    assert (answer.answer, answer.start) == (MARKED, start)
    assert answer.score > 0.95


def test_every_seam_is_straddled(reader: QuestionAnsweringPipeline) -> None:
    context = FILLER * 40
    options = QuestionAnsweringOptions(max_answer_tokens=16)
    prepared = reader.prepare(QUESTION, context, options)
    seams = [window.end for window in prepared.windows[:-1]] + [w.start for w in prepared.windows[1:]]
    assert len(seams) > 10
    for seam in seams:
        for left in range(1, 16):  # 1 to 15 of the 16 tokens lie before the seam
            first = min(max(0, seam - left), prepared.offsets.shape[0] - 16)
            (answer,) = reader.finish(prepared, oracle(prepared, first, first + 15))
            covered = context[prepared.offsets[first, 0] : prepared.offsets[first + 15, 1]].strip()
            assert answer.answer == covered, f"seam {seam}, {left} tokens before it"


def test_the_default_stride_grows_with_the_longest_answer(reader: QuestionAnsweringPipeline) -> None:
    def shared(**options: Any) -> int:
        windows = reader.prepare(QUESTION, FILLER * 20, QuestionAnsweringOptions(**options)).windows
        return windows[0].end - windows[1].start

    assert shared(max_answer_tokens=10) == 16  # a quarter of the model's 64
    assert shared(max_answer_tokens=20) == 20
    assert shared(max_answer_tokens=500) < 64 // 2  # half a window, so that windows stay few
    assert shared(max_answer_tokens=20, stride=3) == 3


def test_scores_do_not_depend_on_the_number_of_windows(reader: QuestionAnsweringPipeline) -> None:
    scores = []
    for repeats in (2, 10, 60):
        context = f"{FILLER * repeats}{MARKED}. {FILLER * repeats}"
        prepared = reader.prepare(QUESTION, context, QuestionAnsweringOptions())
        start = context.index(MARKED)
        span = tokens_of(prepared, start, start + len(MARKED))
        (answer,) = reader.finish(prepared, oracle(prepared, *span))
        assert answer.answer == MARKED
        scores.append(answer.score)
    assert max(scores) - min(scores) < 0.01


def test_per_window_results_agree_with_the_whole(reader: QuestionAnsweringPipeline) -> None:
    context = f"{FILLER * 8}{MARKED}. {FILLER * 8}"
    prepared = reader.prepare(QUESTION, context, QuestionAnsweringOptions(top_k=2))
    start = context.index(MARKED)
    span = tokens_of(prepared, start, start + len(MARKED))
    result = reader.finish_windows(prepared, oracle(prepared, *span))
    assert result.combined == reader.finish(prepared, oracle(prepared, *span))
    assert [window.tokens for window in result.windows] == [window.size for window in prepared.windows]
    for window in result.windows:
        holds = window.start <= start and start + len(MARKED) <= window.end
        assert (window.answers[0].answer == MARKED) == holds
        assert (window.answers[0].score > 0.9) == holds
        assert len(window.answers) == 2


@settings(deadline=None, max_examples=40)
@given(repeats=st.integers(1, 60), stride=st.integers(0, 40), combination=st.sampled_from(["mean", "max"]))
def test_classification_windows_cover_the_text(
    tokenizer_path: Path, make_manifest: MakeManifest, repeats: int, stride: int, combination: str
) -> None:
    pipeline = make_pipeline(make_manifest(Task.TEXT_CLASSIFICATION), tokenizer_path)
    assert isinstance(pipeline, ClassificationPipeline)
    text = FILLER * repeats
    options = ClassificationOptions(stride=stride, window_combination=combination)
    prepared = pipeline.prepare(text, options)

    def encode(sequences: Sequence[EncoderSequence]) -> list[EncoderOutput]:
        random = np.random.default_rng(repeats)
        return [EncoderOutput(logits=random.normal(size=3).astype(np.float32)) for _ in sequences]

    outputs = encode(prepared.sequences)
    result = pipeline.finish_windows(prepared, outputs)
    assert result.combined == run(pipeline, [prepared], encode)[0]
    assert (result.windows[0].start, result.windows[-1].end) == (0, len(text))
    assert sum(w.tokens for w in result.windows) - stride * (len(result.windows) - 1) + 2 == prepared.tokens
    for window in result.windows:
        assert sum(window.scores.values()) == pytest.approx(1)
        assert window.score == max(window.scores.values()) == window.scores[window.label]
    combine = {"mean": np.mean, "max": np.max}[combination]
    for label in result.combined.scores:
        combined = combine([window.scores[label] for window in result.windows])
        if combination == "mean" or len(result.windows) == 1:
            assert result.combined.scores[label] == pytest.approx(combined)
        else:  # scaled to a sum of 1 again
            assert result.combined.scores[label] <= combined + 1e-9


class TestLimits:
    def test_the_caps_hold_for_texts_questions_and_contexts(
        self, tokenizer_path: Path, make_manifest: MakeManifest
    ) -> None:
        limits = TextLimits(max_text_bytes=100, max_windows=3)
        reader = make_pipeline(make_manifest(), tokenizer_path, limits)
        assert isinstance(reader, QuestionAnsweringPipeline)
        options = QuestionAnsweringOptions()
        assert reader.prepare("é" * 10, "é" * 50, options)
        for texts, name in ((("é" * 51, "c"), "question"), (("q", "é" * 51), "context")):
            with pytest.raises(InvalidInput, match=rf"the {name} has 102 bytes in UTF-8, .* at most 100 "):
                reader.prepare(*texts, options)
        classifier = make_pipeline(make_manifest(Task.TEXT_CLASSIFICATION), tokenizer_path, limits)
        assert isinstance(classifier, ClassificationPipeline)
        with pytest.raises(InvalidInput, match="the text has 101 bytes"):
            classifier.prepare("a" * 101, ClassificationOptions())

    def test_too_many_windows_are_refused_before_they_are_made(
        self, tokenizer_path: Path, make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = make_manifest()
        reader = QuestionAnsweringPipeline(
            manifest, Tokenizer(tokenizer_path, manifest), TextLimits(max_windows=3)
        )
        assert len(reader.prepare(QUESTION, FILLER * 5, QuestionAnsweringOptions()).windows) <= 3
        monkeypatch.setattr("longserve.serving.runtime.window_sequences.plan_windows", None)
        with pytest.raises(InvalidInput, match=r"the context needs [0-9]+ windows, but at most 3 "):
            reader.prepare(QUESTION, FILLER * 30, QuestionAnsweringOptions())

    def test_a_long_text_is_refused_before_it_is_tokenized(
        self, tokenizer_path: Path, make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Tokenizer, "encode", None)
        pipeline = make_pipeline(make_manifest(Task.TEXT_CLASSIFICATION), tokenizer_path)
        assert isinstance(pipeline, ClassificationPipeline)
        with pytest.raises(InvalidInput, match="max_text_bytes"):
            pipeline.prepare("a" * (DEFAULT_MAX_TEXT_BYTES + 1), ClassificationOptions())

    @pytest.mark.parametrize("name", ["max_text_bytes", "max_windows"])
    @pytest.mark.parametrize("value", [0, -1, 1.5, "9", True, None])
    def test_bad_limits_are_refused(self, name: str, value: Any) -> None:
        with pytest.raises(InvalidInput, match=f"^{name} is "):
            TextLimits(**{name: value})
