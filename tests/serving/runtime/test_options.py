from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from longserve.serving.runtime.errors import InvalidInput
from longserve.serving.runtime.options import ClassificationOptions, QuestionAnsweringOptions

OPTION_TYPES = [ClassificationOptions, QuestionAnsweringOptions]


@pytest.mark.parametrize("kind", OPTION_TYPES)
def test_no_parameters_give_the_defaults(kind: Any) -> None:
    assert kind.from_parameters({}) == kind()


def test_parameters_are_converted() -> None:
    assert QuestionAnsweringOptions.from_parameters(
        {"top_k": "3", "max_answer_tokens": 12.0, "stride": 0, "handle_impossible_answer": "True"}
    ) == QuestionAnsweringOptions(top_k=3, max_answer_tokens=12, stride=0, handle_impossible_answer=True)
    assert ClassificationOptions.from_parameters(
        {"top_k": 2, "function_to_apply": "none", "window_combination": "max"}
    ) == ClassificationOptions(top_k=2, function_to_apply="none", window_combination="max")


@pytest.mark.parametrize("kind", OPTION_TYPES)
def test_whole_numbers_of_other_libraries_are_taken(kind: Any) -> None:
    assert kind(top_k=np.int64(2), stride=np.uint8(3)) == kind(top_k=2, stride=3)
    for value in (np.bool_(True), np.float64(1), np.int64(0)):
        with pytest.raises(InvalidInput, match=r"^top_k is "):
            kind(top_k=value)


@pytest.mark.parametrize("kind", OPTION_TYPES)
def test_an_unknown_parameter_is_named_with_the_legal_ones(kind: Any) -> None:
    with pytest.raises(InvalidInput, match=r"'max_answer_len'.*stride, .*top_k"):
        kind.from_parameters({"max_answer_len": 15, "top_k": 1})


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (ClassificationOptions, {"top_k": 0}),
        (ClassificationOptions, {"top_k": "many"}),
        (ClassificationOptions, {"top_k": True}),
        (ClassificationOptions, {"stride": -1}),
        (ClassificationOptions, {"stride": 1.5}),
        (ClassificationOptions, {"stride": float("nan")}),
        (ClassificationOptions, {"function_to_apply": "tanh"}),
        (ClassificationOptions, {"function_to_apply": 1}),
        (ClassificationOptions, {"window_combination": "median"}),
        (QuestionAnsweringOptions, {"top_k": 0}),
        (QuestionAnsweringOptions, {"top_k": 1001}),
        (QuestionAnsweringOptions, {"top_k": "9" * 5000}),
        (QuestionAnsweringOptions, {"max_answer_tokens": 0}),
        (QuestionAnsweringOptions, {"max_answer_tokens": "٣x"}),
        (QuestionAnsweringOptions, {"handle_impossible_answer": "maybe"}),
        (QuestionAnsweringOptions, {"handle_impossible_answer": 2}),
    ],
)
def test_a_bad_value_is_named(kind: Any, parameters: dict[str, Any]) -> None:
    name = next(iter(parameters))
    with pytest.raises(InvalidInput, match=f"^{name} is ") as caught:
        kind.from_parameters(parameters)
    assert len(str(caught.value)) < 200
