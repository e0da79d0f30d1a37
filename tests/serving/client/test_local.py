from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from openvino_support import BF16, require_bf16, require_openvino

from longserve.serving import (
    BundleNotFound,
    EngineError,
    EngineName,
    EngineSettings,
    InvalidInput,
    LocalClient,
    TextLimits,
)

pytestmark = pytest.mark.timeout(300)
TEXT = "the miller of the valley counted seven lanterns and two bridges, clé \U0001f511 "


@pytest.fixture(scope="module")
def classifier(classification_bundle: Path) -> LocalClient:
    return LocalClient(classification_bundle, engine=EngineSettings(threads=1))


@pytest.fixture(scope="module")
def reader(qa_bundle: Path) -> LocalClient:
    return LocalClient(qa_bundle, engine=EngineSettings(threads=1))


def test_a_classification_equals_transformers(
    classifier: LocalClient, classification_checkpoint: Path
) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(classification_checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(classification_checkpoint)
    encoded = tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        expected = model(**encoded).logits.softmax(-1)[0].numpy()
    result = classifier.classify(TEXT)
    assert result.tokens == encoded["input_ids"].shape[1]
    assert result.windows == 1
    for index, label in model.config.id2label.items():
        assert result.scores[label] == pytest.approx(expected[index], abs=1e-5)
    assert list(result.scores.values()) == sorted(result.scores.values(), reverse=True)


def test_an_answer_equals_transformers(reader: LocalClient, qa_checkpoint: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(qa_checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(qa_checkpoint)
    question = "who counted the lanterns?"
    encoded = tokenizer(question, TEXT, return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].numpy()
    with torch.no_grad():
        output = model(**encoded)
    ids = encoded["input_ids"][0].numpy()
    context = np.arange(np.flatnonzero(ids == 2)[1] + 1, ids.size - 1)
    kept = [0, *context]
    start = output.start_logits[0, kept].softmax(-1).numpy()[1:]
    end = output.end_logits[0, kept].softmax(-1).numpy()[1:]
    scores = np.tril(np.triu(np.outer(start, end)), 30 - 1)
    first, last = np.unravel_index(scores.argmax(), scores.shape)
    (answer,) = reader.answer(question, TEXT)
    assert answer.score == pytest.approx(scores.max(), rel=1e-3)
    widened = TEXT[offsets[context[first]][0] : offsets[context[last]][1]]
    assert answer.answer == widened.strip()
    assert TEXT[answer.start : answer.end] == answer.answer
    assert answer.tokens == ids.size


def test_long_texts_take_windows_and_many_texts_keep_their_order(classifier: LocalClient) -> None:
    texts = [TEXT, TEXT * 60, "fox", TEXT * 3]
    together = classifier.classify(texts)
    assert [r.windows > 1 for r in together] == [False, True, False, False]
    for text, result in zip(texts, together, strict=True):
        alone = classifier.classify(text)
        assert (alone.label, alone.tokens, alone.windows) == (result.label, result.tokens, result.windows)
        assert alone.score == pytest.approx(result.score, abs=1e-5)


def test_windows_of_a_classifier_combine_as_told(classifier: LocalClient) -> None:
    long = TEXT * 60
    mean = classifier.classify(long)
    best = classifier.classify(long, window_combination="max", top_k=2)
    assert sum(mean.scores.values()) == pytest.approx(1)
    assert len(best.scores) == 2
    assert best.score != pytest.approx(mean.score, abs=1e-7)
    assert classifier.classify(long, stride=0).windows < classifier.classify(long, stride=300).windows


def test_answers_of_long_contexts_are_slices_of_it(reader: LocalClient) -> None:
    context = " \U0001f511 ".join(f"{TEXT}{i}" for i in range(60))
    answers = reader.answer("who?", context, top_k=20, handle_impossible_answer=True)
    assert len(answers) == 20
    assert answers[0].windows > 2
    assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)
    for answer in answers:
        assert context[answer.start : answer.end] == answer.answer
    assert [a[0].answer for a in reader.answer(["who?", "what?"], [context, TEXT])] == [
        reader.answer("who?", context)[0].answer,
        reader.answer("what?", TEXT)[0].answer,
    ]


def test_bad_input_is_named_with_its_index(classifier: LocalClient, reader: LocalClient) -> None:
    with pytest.raises(InvalidInput, match=r"^the text is empty"):
        classifier.classify("")
    with pytest.raises(InvalidInput, match=r"^text 1: the text is only whitespace"):
        classifier.classify(["a", " "])
    with pytest.raises(InvalidInput, match=r"^text 1: the context has a NUL"):
        reader.answer("q", ["a", "b\0"])
    with pytest.raises(InvalidInput, match=r"^top_k is 0"):
        classifier.classify("a", top_k=0)


def test_the_wrong_task_is_refused(classifier: LocalClient, reader: LocalClient) -> None:
    with pytest.raises(InvalidInput, match=r"use classify\(\)"):
        classifier.answer("q", "c")
    with pytest.raises(InvalidInput, match=r"use answer\(\)"):
        reader.classify("a")


def test_a_closed_client_says_so(classification_bundle: Path) -> None:
    with LocalClient(classification_bundle) as client:
        assert client.server_ready()
    assert not client.server_ready()
    with pytest.raises(EngineError, match="is closed"):
        client.classify("a")
    with pytest.raises(EngineError, match="is closed"):
        _ = client.runs_on


@pytest.mark.parametrize("engine", ["openvino", EngineName.OPENVINO, BF16])
def test_another_engine_gives_the_same_answers(
    classifier: LocalClient, classification_bundle: Path, engine: str | EngineSettings
) -> None:
    """Within what its arithmetic allows."""
    require_bf16() if engine is BF16 else require_openvino()
    long = TEXT * 40
    assert classifier.runs_on == "onnxruntime CPUExecutionProvider"
    with LocalClient(classification_bundle, engine=engine) as client:
        assert client.runs_on == ("openvino CPU bf16" if engine is BF16 else "openvino CPU fp32")
        found, expected = client.classify([TEXT, long]), classifier.classify([TEXT, long])
    for one, other in zip(found, expected, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=0.05 if engine is BF16 else 1e-5)
        assert (one.tokens, one.windows) == (other.tokens, other.windows)


def test_an_unknown_engine_is_named(classification_bundle: Path) -> None:
    with pytest.raises(EngineError, match="the engine is 'tensorflow'; give onnxruntime or openvino"):
        LocalClient(classification_bundle, engine="tensorflow")


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match="is no bundle"):
        LocalClient(tmp_path)


def test_windows_cover_the_text_and_combine_to_its_result(classifier: LocalClient) -> None:
    long = TEXT * 60
    result = classifier.classify_windows(long)
    assert result.combined == classifier.classify(long)
    assert len(result.windows) == result.combined.windows > 2
    assert (result.windows[0].start, result.windows[-1].end) == (0, len(long))
    for left, right in pairwise(result.windows):
        assert left.start < right.start < left.end < right.end
    for label, score in result.combined.scores.items():
        assert score == pytest.approx(np.mean([window.scores[label] for window in result.windows]))
    short = classifier.classify_windows("fox", top_k=2)
    (window,) = short.windows
    assert (window.start, window.end, window.label) == (0, 3, short.combined.label)
    assert window.scores == short.combined.scores


def test_answers_of_windows_lie_in_them_on_one_scale(reader: LocalClient) -> None:
    context = " \U0001f511 ".join(f"{TEXT}{i}" for i in range(60))
    result = reader.answer_windows("who?", context, top_k=3)
    assert list(result.combined) == reader.answer("who?", context, top_k=3)
    assert len(result.windows) == result.combined[0].windows > 2
    for window in result.windows:
        assert len(window.answers) == 3
        for answer in window.answers:
            assert window.start <= answer.start < answer.end <= window.end
            assert context[answer.start : answer.end] == answer.answer
    best = max((a for window in result.windows for a in window.answers), key=lambda answer: answer.score)
    assert best == result.combined[0]


def test_streams_keep_the_order_and_end_at_the_first_bad_text(
    classifier: LocalClient, reader: LocalClient
) -> None:
    texts = ["fox", TEXT, "lanterns"]
    stream = classifier.classify_many(iter(texts), top_k=1)
    assert [result.label for result in stream] == [classifier.classify(text).label for text in texts]
    pairs = [("who?", TEXT), ("what?", "a b")]
    assert list(reader.answer_many(pairs)) == [reader.answer(*pair) for pair in pairs]
    with pytest.raises(InvalidInput, match=r"^text 1: the text is empty"):
        list(classifier.classify_many(["a", "", "b"]))


def test_a_stream_holds_texts_or_pairs(classifier: LocalClient, reader: LocalClient) -> None:
    for many in (classifier.classify_many, reader.answer_many):
        with pytest.raises(InvalidInput, match="are a single str; give an iterable"):
            many("ab")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"^text 0: the text is of type list; give a string"):
        list(classifier.classify_many([["a", "b"]]))  # type: ignore[list-item]
    for wrong, kind in ((["ab"], "str"), ([("c",)], "tuple")):
        with pytest.raises(InvalidInput, match=rf"^text 0: there is a {kind} where \(question, context\)"):
            list(reader.answer_many(wrong))  # type: ignore[arg-type]


def test_options_are_named_and_take_numbers_of_numpy(classifier: LocalClient) -> None:
    assert len(classifier.classify("the fox", top_k=np.int64(1)).scores) == 1  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unknown option topk; the options are function_to_apply, stride"):
        classifier.classify("the fox", topk=1)  # type: ignore[call-overload]


def test_a_bundle_without_tokenizer_takes_token_ids(classification_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "b"
    shutil.copytree(classification_bundle, bundle)
    content = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    content["files"] = [file for file in content["files"] if file["name"] != "tokenizer.json"]
    (bundle / "manifest.json").write_text(json.dumps({**content, "has_tokenizer": False}), encoding="utf-8")
    (bundle / "tokenizer.json").unlink()
    with LocalClient(bundle) as client:
        assert client.logits([0, 5, 2], [1, 0, 0]).logits is not None
        with pytest.raises(
            InvalidInput, match=r"has no tokenizer\.json, so it takes token ids alone: use logits"
        ):
            client.classify("the fox")


def test_logits_are_the_encoders(classifier: LocalClient, reader: LocalClient) -> None:
    output = classifier.logits([0, 7, 8, 2], [1, 0, 0, 0])
    assert output.logits is not None and output.logits.shape == (5,)
    spans = reader.logits(np.array([0, 7, 8, 2], dtype=np.int32), [1, 1, 0, 0])
    assert spans.start_logits is not None and spans.start_logits.shape == (4,)
    assert classifier.labels() == ("alpha", "beta", "gamma", "delta", "epsilon")
    for ids, mask, cause in (
        ([0, 10**6], [1, 0], "input_ids has the value 1000000"),
        ([0, 7], [1], "global_attention_mask has 1 elements"),
        ([], [], "give one sequence"),
        ([[0]], [1], "give one sequence"),
        ([[0], [1, 2]], [1], "give one sequence"),
        ([0.5], [1], "give whole numbers"),
        ("text", [1], "give one sequence"),
    ):
        with pytest.raises(InvalidInput, match=cause):
            classifier.logits(ids, mask)


def test_texts_over_the_limits_are_refused(classification_bundle: Path) -> None:
    limits = TextLimits(max_text_bytes=5000, max_windows=2)
    with LocalClient(classification_bundle, limits=limits) as client:
        assert client.classify("fox " * 250).windows <= 2
        with pytest.raises(InvalidInput, match=r"text has 5002 bytes .* at most 5000 .*max_text_bytes"):
            client.classify("é" * 2501)
        with pytest.raises(InvalidInput, match=r"needs [0-9]+ windows, .* at most 2 .*max_windows"):
            client.classify("fox " * 1200)
