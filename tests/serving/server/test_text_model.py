"""The text models in a real Triton: the same results as in-process, windows, per-request errors."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from checkpoints import WORDS
from kserve import Caller, GrpcCaller, HttpCaller, Refused, bytes_tensor
from triton_fixture import CLASSIFIER, QA, RunningServer

from longserve.serving import (
    Answer,
    Bundle,
    Classification,
    ClassificationOptions,
    EncoderOutput,
    EncoderSequence,
    QuestionAnsweringOptions,
    encode,
    open_packed_engine,
)
from longserve.serving.runtime.pipeline import (
    ClassificationPipeline,
    QuestionAnsweringPipeline,
    make_pipeline,
    run,
)

SHORT = "the miller of the valley"
LONG = f"{WORDS} " * 40
QUESTION = "who counted seven lanterns"


class InProcess:
    """The pipelines on the bundles of the server, one sequence a run."""

    def __init__(self, server: RunningServer) -> None:
        self._classifier = Bundle.open(server.classification_bundle)
        self._qa = Bundle.open(server.qa_bundle)

    def classify(self, text: str, **options: Any) -> Classification:
        pipeline = make_pipeline(self._classifier.manifest, self._classifier.tokenizer_path)
        assert isinstance(pipeline, ClassificationPipeline)
        prepared = pipeline.prepare(text, ClassificationOptions(**options))
        return run(pipeline, [prepared], lambda sequences: _encoded(self._classifier, sequences))[0]

    def answer(self, question: str, context: str, **options: Any) -> tuple[Answer, ...]:
        pipeline = make_pipeline(self._qa.manifest, self._qa.tokenizer_path)
        assert isinstance(pipeline, QuestionAnsweringPipeline)
        prepared = pipeline.prepare(question, context, QuestionAnsweringOptions(**options))
        return run(pipeline, [prepared], lambda sequences: _encoded(self._qa, sequences))[0]


def _encoded(bundle: Bundle, sequences: Any) -> list[EncoderOutput]:
    engine = open_packed_engine(bundle)
    each: list[EncoderSequence] = list(sequences)
    return [encode(engine, [sequence], bundle.manifest)[0] for sequence in each]


@pytest.fixture(scope="module")
def in_process(triton_server: RunningServer) -> InProcess:
    return InProcess(triton_server)


@pytest.mark.parametrize("text", [SHORT, LONG, "é 😀 日本語"], ids=["short", "windows", "not ASCII"])
def test_classification_equals_the_pipeline(caller: Caller, in_process: InProcess, text: str) -> None:
    expected = in_process.classify(text)
    result = caller.infer(CLASSIFIER, {"TEXT": bytes_tensor(text)})
    assert [label.decode() for label in result["LABEL"][0]] == list(expected.scores)
    np.testing.assert_allclose(result["SCORE"][0], list(expected.scores.values()), atol=1e-5)
    assert result["TOKENS"].tolist() == [[expected.tokens]]
    assert result["WINDOWS"].tolist() == [[expected.windows]]
    assert (expected.windows > 1) == (text == LONG)


@pytest.mark.parametrize("context", [f"{WORDS}.", LONG], ids=["short", "windows"])
def test_answers_equal_the_pipeline(caller: Caller, in_process: InProcess, context: str) -> None:
    expected = in_process.answer(QUESTION, context, top_k=3, handle_impossible_answer=True)
    result = caller.infer(
        QA,
        {"QUESTION": bytes_tensor(QUESTION), "CONTEXT": bytes_tensor(context)},
        {"top_k": 3, "handle_impossible_answer": True},
    )
    assert [answer.decode() for answer in result["ANSWER"][0]] == [answer.answer for answer in expected]
    np.testing.assert_allclose(result["SCORE"][0], [answer.score for answer in expected], rtol=1e-3)
    assert result["START"][0].tolist() == [answer.start for answer in expected]
    assert result["END"][0].tolist() == [answer.end for answer in expected]
    assert result["TOKENS"].tolist() == [[expected[0].tokens]]
    assert result["WINDOWS"].tolist() == [[expected[0].windows]]


def test_offsets_count_code_points(caller: Caller) -> None:
    context = "😀 é " * 30 + WORDS
    result = caller.infer(
        QA, {"QUESTION": bytes_tensor("who"), "CONTEXT": bytes_tensor(context)}, {"top_k": 5}
    )
    for text, start, end in zip(result["ANSWER"][0], result["START"][0], result["END"][0], strict=True):
        assert text.decode() == context[start:end]


def test_several_texts_in_one_request_are_rows(caller: Caller, in_process: InProcess) -> None:
    texts = [SHORT, LONG, "silver"]
    result = caller.infer(CLASSIFIER, {"TEXT": bytes_tensor(*texts)}, {"top_k": 2})
    assert result["LABEL"].shape == result["SCORE"].shape == (3, 2)
    for row, text in enumerate(texts):
        expected = in_process.classify(text, top_k=2)
        assert [label.decode() for label in result["LABEL"][row]] == list(expected.scores)
        assert result["WINDOWS"][row, 0] == expected.windows


def test_a_row_with_fewer_answers_is_filled_up(caller: Caller) -> None:
    result = caller.infer(
        QA,
        {"QUESTION": bytes_tensor("who", "who"), "CONTEXT": bytes_tensor("a", WORDS)},
        {"top_k": 4},
    )
    assert result["ANSWER"].shape == (2, 4)
    filled = result["START"][0] == -1
    assert filled.tolist() == [False, True, True, True]
    assert result["ANSWER"][0][filled].tolist() == [b"", b"", b""]
    assert result["END"][0][filled].tolist() == [-1, -1, -1]
    assert not result["SCORE"][0][filled].any()
    assert (result["START"][1] >= 0).all()


def test_windows_of_a_document_share_the_encoders_runs(grpc: GrpcCaller) -> None:
    encoder = f"{CLASSIFIER}_encoder"
    before = grpc.counts(encoder)
    windows = int(grpc.infer(CLASSIFIER, {"TEXT": bytes_tensor(LONG * 2)})["WINDOWS"][0, 0])
    after = grpc.counts(encoder)
    assert windows >= 8
    assert after[0] - before[0] == windows
    assert after[1] - before[1] < windows


@pytest.mark.parametrize(("model", "outputs"), [(CLASSIFIER, ["SCORE"]), (CLASSIFIER, ["WINDOWS", "LABEL"])])
def test_only_the_outputs_asked_for_are_sent(http: HttpCaller, model: str, outputs: list[str]) -> None:
    body = {
        "inputs": [{"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": [SHORT]}],
        "outputs": [{"name": name} for name in outputs],
    }
    answer = http.post(f"/v2/models/{model}/infer", json.dumps(body).encode())
    assert sorted(output["name"] for output in answer["outputs"]) == sorted(outputs)


def test_parameters_may_be_text(caller: Caller) -> None:
    result = caller.infer(
        CLASSIFIER, {"TEXT": bytes_tensor(SHORT)}, {"top_k": "1", "function_to_apply": "none"}
    )
    assert result["SCORE"].shape == (1, 1)


TEXT = {"TEXT": bytes_tensor(SHORT)}
PAIR = {"QUESTION": bytes_tensor(QUESTION), "CONTEXT": bytes_tensor(WORDS)}
BAD: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "empty text": (CLASSIFIER, {"TEXT": bytes_tensor("")}, {}, "text is empty"),
    "blank text": (CLASSIFIER, {"TEXT": bytes_tensor(" \n")}, {}, "text"),
    "not UTF-8": (CLASSIFIER, {"TEXT": bytes_tensor(b"ab\xff")}, {}, "TEXT is not UTF-8"),
    "truncated UTF-8": (CLASSIFIER, {"TEXT": bytes_tensor("日本".encode()[:-1])}, {}, "at byte 3"),
    "embedded NUL": (CLASSIFIER, {"TEXT": bytes_tensor("a\0b")}, {}, "NUL"),
    "second row bad": (CLASSIFIER, {"TEXT": bytes_tensor(SHORT, "")}, {}, "row 1"),
    "unknown parameter": (CLASSIFIER, TEXT, {"topk": 1}, "function_to_apply, stride, top_k"),
    "other task's parameter": (CLASSIFIER, TEXT, {"max_answer_tokens": 3}, "unknown parameter"),
    "parameter out of range": (CLASSIFIER, TEXT, {"top_k": 0}, "top_k is 0"),
    "parameter of a wrong type": (CLASSIFIER, TEXT, {"top_k": "many"}, "top_k"),
    "parameter of no choice": (CLASSIFIER, TEXT, {"function_to_apply": "relu"}, "relu"),
    "stride too large": (CLASSIFIER, {"TEXT": bytes_tensor(LONG)}, {"stride": 511}, "stride"),
    "wrong type": (CLASSIFIER, {"TEXT": np.ones((1, 1), np.int64)}, {}, "INT64"),
    "wrong shape": (CLASSIFIER, {"TEXT": bytes_tensor("a", "b").reshape(1, 2)}, {}, "shape"),
    "too many rows": (CLASSIFIER, {"TEXT": bytes_tensor(*["a"] * 17)}, {}, "<= 16"),
    "missing input": (QA, {"QUESTION": bytes_tensor("who")}, {}, "CONTEXT"),
    "rows that differ": (QA, {**PAIR, "CONTEXT": bytes_tensor("a", "b")}, {}, "batch size"),
    "empty question": (QA, {**PAIR, "QUESTION": bytes_tensor("")}, {}, "question is empty"),
    "empty context": (QA, {**PAIR, "CONTEXT": bytes_tensor("")}, {}, "context is empty"),
    "question longer than the model": (QA, {**PAIR, "QUESTION": bytes_tensor(LONG)}, {}, "question"),
    "context not UTF-8": (QA, {**PAIR, "CONTEXT": bytes_tensor(b"\xc3")}, {}, "CONTEXT is not UTF-8"),
    "no answers wanted": (QA, PAIR, {"top_k": 0}, "top_k"),
    "an answer of no token": (QA, PAIR, {"max_answer_tokens": 0}, "max_answer_tokens"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_are_the_callers_fault(caller: Caller, case: str) -> None:
    model, inputs, parameters, expected = BAD[case]
    with pytest.raises(Refused) as refused:
        caller.infer(model, inputs, parameters)
    assert refused.value.status == caller.invalid, refused.value
    assert expected in refused.value.message
    assert caller.ready()
    assert caller.infer(CLASSIFIER, TEXT)["WINDOWS"].tolist() == [[1]]


@pytest.mark.parametrize("output", ["LABEL", "SCORE"])
def test_labels_are_not_asked_for_by_classification(grpc: GrpcCaller, output: str) -> None:
    """Triton 2.51 divides by the size of an element, which a text has not, and ends."""
    text = grpc.triton.InferInput("TEXT", [1, 1], "BYTES")
    text.set_data_from_numpy(bytes_tensor(SHORT))
    asked = grpc.triton.InferRequestedOutput(output, class_count=1)
    with pytest.raises(Exception, match="an output has 'classification'; ask a text model"):
        grpc.client.infer(CLASSIFIER, [text], outputs=[asked])
    assert grpc.ready()


def test_a_bad_text_does_not_touch_its_neighbours(grpc: GrpcCaller, in_process: InProcess) -> None:
    expected = in_process.classify(SHORT)

    def ask(index: int) -> str:
        text = b"\xff" if index % 4 == 0 else SHORT
        try:
            label = grpc.infer(CLASSIFIER, {"TEXT": bytes_tensor(text)})["LABEL"][0, 0]
        except Refused as refused:
            return refused.status
        return str(label.decode())

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    assert answers == [grpc.invalid if index % 4 == 0 else expected.label for index in range(16)]
