from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from longserve.serving.client.calls import (
    Outputs,
    as_pairs,
    as_texts,
    classification_call,
    decode_answers,
    decode_classification,
    question_call,
)
from longserve.serving.runtime.errors import InferenceFailed, InvalidInput
from longserve.serving.runtime.results import Answer, Classification


def test_a_classification_call() -> None:
    call = classification_call("m", "clé\0", {"top_k": 2}, "7")
    assert (call.model, call.parameters, call.request_id) == ("m", {"top_k": 2}, "7")
    assert call.inputs["TEXT"].tolist() == [["clé\0".encode()]]
    assert call.at("grpc://host:1") == "model 'm' at grpc://host:1 (request 7)"


def test_a_question_call() -> None:
    inputs = question_call("m", ("q?", "c"), {}).inputs
    assert {name: array.tolist() for name, array in inputs.items()} == {
        "QUESTION": [[b"q?"]],
        "CONTEXT": [[b"c"]],
    }
    for bad in ("qc", ("q",), ("q", "c", "d"), None):
        with pytest.raises(InvalidInput, match="give pairs"):
            question_call("m", bad, {})  # type: ignore[arg-type]


def test_an_unpaired_surrogate_is_refused() -> None:
    with pytest.raises(InvalidInput, match="the context has an unpaired surrogate at index 1"):
        question_call("m", ("q", "a\udcff"), {})


def test_decoding_a_classification(classification_outputs: Outputs) -> None:
    result = decode_classification(classification_outputs)
    assert result == Classification("weather", 0.75, {"weather": 0.75, "sports": 0.25}, 5000, 2)
    assert type(result.score) is float and type(result.tokens) is int


def test_decoding_answers_leaves_fillers_out_but_keeps_no_answer(answer_outputs: Outputs) -> None:
    assert decode_answers(answer_outputs) == [
        Answer("the box", 0.5, 3, 10, 30, 1),
        Answer("", 0.25, 0, 0, 30, 1),
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SCORE", None),
        ("SCORE", np.zeros((1, 3), dtype=np.float32)),
        ("TOKENS", np.zeros((1, 2), dtype=np.int32)),
        ("LABEL", np.array([["a", "b"]] * 2, dtype=np.object_)),
        ("LABEL", np.array([[b"\xff", b"b"]], dtype=np.object_)),
    ],
)
def test_another_models_response_is_an_error(classification_outputs: Outputs, name: str, value: Any) -> None:
    outputs = dict(classification_outputs)
    if value is None:
        del outputs[name]
    else:
        outputs[name] = value
    with pytest.raises(InferenceFailed, match="the model returned"):
        decode_classification(outputs)


def test_texts() -> None:
    assert as_texts("text", "a") == (["a"], True)
    assert as_texts("text", ("a", "b")) == (["a", "b"], False)
    assert as_texts("text", []) == ([], False)
    for bad in (b"a", 3, None, {"a"}):
        with pytest.raises(InvalidInput, match="give a string"):
            as_texts("text", bad)
    with pytest.raises(InvalidInput, match="text 1 is of type bytes"):
        as_texts("text", ["a", b"b"])


def test_pairs() -> None:
    assert as_pairs("q", "c") == ([("q", "c")], True)
    assert as_pairs("q", ["c", "d"]) == ([("q", "c"), ("q", "d")], False)
    assert as_pairs(["q", "r"], "c") == ([("q", "c"), ("r", "c")], False)
    assert as_pairs(["q", "r"], ["c", "d"]) == ([("q", "c"), ("r", "d")], False)
    assert as_pairs(["q"], "c") == ([("q", "c")], False)
    with pytest.raises(InvalidInput, match="2 questions and 3 contexts"):
        as_pairs(["q", "r"], ["c", "d", "e"])
