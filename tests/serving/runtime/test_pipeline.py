from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longserve.serving.runtime.errors import CorruptBundle, EngineError, InvalidInput
from longserve.serving.runtime.manifest import Manifest, ProblemType, Task
from longserve.serving.runtime.options import ClassificationOptions, QuestionAnsweringOptions
from longserve.serving.runtime.packing import EncoderOutput, EncoderSequence
from longserve.serving.runtime.pipeline import (
    ClassificationPipeline,
    QuestionAnsweringPipeline,
    make_pipeline,
    run,
)

MakeManifest = Callable[..., Manifest]
ORDINARY_TEXTS = [
    "Where is the key?",
    " Where is  the key? ",
    "clé à côté 日本 \U0001f600\u200d\U0001f525 ключ",
    "line\nbreak\ttab\xa0no-break",
    "x",
]
TEXTS = st.text(
    alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60
).filter(lambda text: not text.isspace())


@pytest.fixture(scope="module")
def asks(tokenizer_path: Path, make_manifest: MakeManifest) -> QuestionAnsweringPipeline:
    pipeline = make_pipeline(make_manifest(), tokenizer_path)
    assert isinstance(pipeline, QuestionAnsweringPipeline)
    return pipeline


@pytest.fixture(scope="module")
def classifies(tokenizer_path: Path, make_manifest: MakeManifest) -> ClassificationPipeline:
    pipeline = make_pipeline(make_manifest(Task.TEXT_CLASSIFICATION), tokenizer_path)
    assert isinstance(pipeline, ClassificationPipeline)
    return pipeline


@pytest.fixture(scope="module")
def hugging_face_tokenizer(tokenizer_path: Path) -> Any:
    """transformers' own RoBERTa tokenizer, which is Longformer's, over the same vocabulary."""
    transformers = pytest.importorskip("transformers")
    model = json.loads(tokenizer_path.read_text(encoding="utf-8"))["model"]
    return transformers.RobertaTokenizer(
        vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]]
    )


def random_encoder(seed: int = 0) -> Callable[[Sequence[EncoderSequence]], list[EncoderOutput]]:
    random = np.random.default_rng(seed)

    def encode(sequences: Sequence[EncoderSequence]) -> list[EncoderOutput]:
        return [
            EncoderOutput(
                start_logits=random.normal(scale=4, size=s.input_ids.size).astype(np.float32),
                end_logits=random.normal(scale=4, size=s.input_ids.size).astype(np.float32),
            )
            for s in sequences
        ]

    return encode


@pytest.mark.parametrize("text", ORDINARY_TEXTS)
def test_classification_ids_equal_transformers(
    classifies: ClassificationPipeline, hugging_face_tokenizer: Any, text: str
) -> None:
    prepared = classifies.prepare(text, ClassificationOptions())
    (sequence,) = prepared.sequences
    assert sequence.input_ids.tolist() == hugging_face_tokenizer(text)["input_ids"]
    assert sequence.global_attention_mask.tolist() == [1] + [0] * (sequence.input_ids.size - 1)
    assert prepared.tokens == sequence.input_ids.size


@pytest.mark.parametrize("question", ORDINARY_TEXTS)
@pytest.mark.parametrize("context", ORDINARY_TEXTS[::-1])
def test_pair_ids_and_global_attention_equal_transformers(
    tokenizer_path: Path,
    make_manifest: MakeManifest,
    hugging_face_tokenizer: Any,
    question: str,
    context: str,
) -> None:
    torch = pytest.importorskip("torch")
    longformer = pytest.importorskip("transformers.models.longformer.modeling_longformer")

    pipeline = make_pipeline(make_manifest(max_length=512), tokenizer_path)
    assert isinstance(pipeline, QuestionAnsweringPipeline)
    prepared = pipeline.prepare(question, context, QuestionAnsweringOptions())
    (sequence,) = prepared.sequences
    expected = hugging_face_tokenizer(question, context)["input_ids"]
    assert sequence.input_ids.tolist() == expected
    mask = longformer._compute_global_attention_mask(torch.tensor([expected]), 2)[0]
    assert sequence.global_attention_mask.tolist() == mask.int().tolist()


def test_windows_repeat_the_question_and_hold_the_whole_context(asks: QuestionAnsweringPipeline) -> None:
    question, context = "Where is the key?", "the red key is in the box </s> " * 30
    prepared = asks.prepare(question, context, QuestionAnsweringOptions(stride=5))
    head = asks.tokenizer.encode(question, "question").ids.tolist()
    body = asks.tokenizer.encode(context, "context").ids.tolist()
    assert len(prepared.sequences) > 5
    assert prepared.tokens == len(head) + len(body) + 4
    rebuilt: list[int] = []
    for sequence in prepared.sequences:
        ids = sequence.input_ids.tolist()
        assert len(ids) <= 64
        assert ids[: len(head) + 3] == [0, *head, 2, 2]
        assert ids[-1] == 2
        assert ids.count(2) == 3  # transformers' model demands exactly three separators
        assert sequence.global_attention_mask.sum() == len(head) + 1
        part = ids[len(head) + 3 : -1]
        if rebuilt:
            assert rebuilt[-5:] == part[:5]
            part = part[5:]
        rebuilt += part
    assert rebuilt == body


@settings(deadline=None, max_examples=150)
@given(question=TEXTS, context=TEXTS, seed=st.integers(0, 1000), repeat=st.integers(1, 4))
def test_answers_are_slices_of_the_given_context(
    tokenizer_path: Path, make_manifest: MakeManifest, question: str, context: str, seed: int, repeat: int
) -> None:
    pipeline = make_pipeline(make_manifest(max_length=400), tokenizer_path)
    assert isinstance(pipeline, QuestionAnsweringPipeline)
    context = context * repeat
    options = QuestionAnsweringOptions(top_k=8, max_answer_tokens=12, stride=20)
    prepared = pipeline.prepare(question, context, options)
    (answers,) = run(pipeline, [prepared], random_encoder(seed))
    assert answers
    for answer in answers:
        assert context[answer.start : answer.end] == answer.answer
        assert answer.answer and answer.answer == answer.answer.strip()
        assert 0 <= answer.score <= 1
    assert len({(answer.start, answer.end) for answer in answers}) == len(answers)


def test_a_span_that_begins_inside_a_code_point_is_widened(asks: QuestionAnsweringPipeline) -> None:
    context = "a \U0001f600\U0001f511 b"
    prepared = asks.prepare("key?", context, QuestionAnsweringOptions())
    size = prepared.sequences[0].input_ids.size
    (first_inside,) = [i for i, (start, _) in enumerate(prepared.offsets) if start == 2][2:3]
    start, end = np.full((2, size), -10, dtype=np.float32)
    start[prepared.prefix + first_inside] = end[prepared.prefix + first_inside + 1] = 10
    (answer,) = asks.finish(prepared, [EncoderOutput(start_logits=start, end_logits=end)])
    assert (answer.answer, answer.start, answer.end) == ("\U0001f600", 2, 3)


def test_no_answer_comes_only_on_request(asks: QuestionAnsweringPipeline) -> None:
    def answer(**options: Any) -> Any:
        prepared = asks.prepare("key?", "in the box", QuestionAnsweringOptions(**options))
        logits = np.zeros(prepared.sequences[0].input_ids.size, dtype=np.float32)
        logits[0] = 9
        return asks.finish(prepared, [EncoderOutput(start_logits=logits, end_logits=logits)])

    (none,) = answer(handle_impossible_answer=True)
    assert (none.answer, none.start, none.end) == ("", 0, 0)
    assert none.score > 0.99
    (some,) = answer()
    assert some.answer and some.score < 0.01
    assert [a.answer == "" for a in answer(handle_impossible_answer=True, top_k=3)] == [True, False, False]


def test_requests_are_encoded_together_and_finished_in_order(classifies: ClassificationPipeline) -> None:
    texts = ["the key", "the box near the mill " * 30, "who"]
    prepared = [classifies.prepare(text, ClassificationOptions(function_to_apply="none")) for text in texts]
    calls: list[int] = []

    def encode(sequences: Sequence[EncoderSequence]) -> list[EncoderOutput]:
        calls.append(len(sequences))
        return [
            EncoderOutput(logits=np.array([0, s.input_ids.size, -1], dtype=np.float32)) for s in sequences
        ]

    results = run(classifies, prepared, encode)
    assert calls == [sum(len(p.sequences) for p in prepared)]
    assert [r.windows for r in results] == [1, len(prepared[1].sequences), 1]
    assert results[1].windows > 2
    for result, request in zip(results, prepared, strict=True):
        assert result.label == "politics"
        assert result.score == pytest.approx(np.mean([s.input_ids.size for s in request.sequences]))
        assert list(result.scores) == ["politics", "sports", "weather"]


def test_top_k_keeps_the_best_labels(classifies: ClassificationPipeline) -> None:
    prepared = classifies.prepare("the key", ClassificationOptions(top_k=2))
    output = EncoderOutput(logits=np.array([1, 2, 3], dtype=np.float32))
    result = classifies.finish(prepared, [output])
    assert list(result.scores) == ["weather", "politics"]
    assert result.label == "weather"
    assert result.score == pytest.approx(0.66524096)


def test_a_multi_label_model_gets_sigmoids(tokenizer_path: Path, make_manifest: MakeManifest) -> None:
    manifest = make_manifest(Task.TEXT_CLASSIFICATION, problem_type=ProblemType.MULTI_LABEL)
    pipeline = make_pipeline(manifest, tokenizer_path)
    assert isinstance(pipeline, ClassificationPipeline)
    prepared = pipeline.prepare("the key", ClassificationOptions())
    result = pipeline.finish(prepared, [EncoderOutput(logits=np.zeros(3, dtype=np.float32))])
    assert set(result.scores.values()) == {0.5}


def test_a_question_longer_than_the_model_is_refused_with_the_numbers(
    asks: QuestionAnsweringPipeline,
) -> None:
    with pytest.raises(InvalidInput, match=r"question has \d+ tokens.*takes 64 tokens.*shorten the question"):
        asks.prepare("where is the key? " * 20, "in the box", QuestionAnsweringOptions())


def test_a_long_question_is_fine_where_the_context_fits_beside_it(asks: QuestionAnsweringPipeline) -> None:
    question = "where is the key? " * 6
    prepared = asks.prepare(question, "box", QuestionAnsweringOptions(stride=30))
    assert len(prepared.sequences) == 1
    with pytest.raises(
        InvalidInput, match=r"beside a question of \d+ tokens.*share 30 \(stride\); give a shorter"
    ):
        asks.prepare(question, "box near the mill " * 20, QuestionAnsweringOptions(stride=30))


def test_a_stride_that_leaves_no_room_is_refused(classifies: ClassificationPipeline) -> None:
    with pytest.raises(InvalidInput, match=r"room for 62, but .*share 62 \(stride\); give a smaller stride"):
        classifies.prepare("the box " * 100, ClassificationOptions(stride=62))


def test_a_question_over_the_graphs_global_capacity_is_refused(
    tokenizer_path: Path, make_manifest: MakeManifest
) -> None:
    pipeline = make_pipeline(make_manifest(max_global_tokens=4), tokenizer_path)
    assert isinstance(pipeline, QuestionAnsweringPipeline)
    with pytest.raises(InvalidInput, match=r"takes at most 3 .*--max-global-tokens"):
        pipeline.prepare("where is the red key", "box", QuestionAnsweringOptions())
    assert pipeline.prepare("key", "box", QuestionAnsweringOptions()).sequences


@pytest.mark.parametrize(
    ("outputs", "cause"),
    [
        ([], "0 outputs for 1 sequences"),
        ([EncoderOutput(start_logits=np.zeros(3, dtype=np.float32))], "no logits"),
        ([EncoderOutput(logits=np.zeros(2, dtype=np.float32))], r"shape \[2\] where \[3\]"),
        ([EncoderOutput(logits=np.array([0, np.nan, 0], dtype=np.float32))], "not finite"),
    ],
)
def test_a_broken_encoder_is_an_engine_error(
    classifies: ClassificationPipeline, outputs: list[EncoderOutput], cause: str
) -> None:
    prepared = classifies.prepare("the key", ClassificationOptions())
    with pytest.raises(EngineError, match=cause):
        classifies.finish(prepared, outputs)


def test_a_classifier_without_labels_is_refused(tokenizer_path: Path, make_manifest: MakeManifest) -> None:
    with pytest.raises(CorruptBundle, match="no labels"):
        make_pipeline(make_manifest(Task.TEXT_CLASSIFICATION, labels=()), tokenizer_path)
