"""What is sent to the text models and what comes back, apart from any transport.

Every client builds its requests and reads its results here; clients only differ in how they call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from ..runtime.errors import InferenceFailed, InvalidInput, ServingError
from ..runtime.options import ClassificationOptions, ParameterValue, QuestionAnsweringOptions
from ..runtime.results import Answer, Classification

__all__ = [
    "InferenceCall",
    "Outputs",
    "Texts",
    "as_pairs",
    "as_texts",
    "classification_call",
    "decode_answers",
    "decode_classification",
    "given_parameters",
    "naming_text",
    "question_call",
]

Texts = list[str] | tuple[str, ...]
"""Several texts. (Not `Sequence[str]`: a single `str` is one, too.)"""

Outputs = Mapping[str, npt.NDArray[Any]]
"""A response's tensors by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceCall:
    """One inference request.

    Attributes:
        model: name of the Triton model.
        inputs: tensor name to its text in UTF-8; each is sent as BYTES `[1, 1]`.
        parameters: request parameters.
    """

    model: str
    inputs: Mapping[str, bytes]
    parameters: Mapping[str, ParameterValue]


def given_parameters(**options: ParameterValue | None) -> dict[str, ParameterValue]:
    """Return the options that were given; the others are left to the server's defaults."""
    return {name: value for name, value in options.items() if value is not None}


def classification_call(model: str, text: str, parameters: Mapping[str, ParameterValue]) -> InferenceCall:
    """Build the request that classifies one text.

    Raises:
        InvalidInput: not a text, or a bad option.
    """
    ClassificationOptions.from_parameters(parameters)
    return InferenceCall(model=model, inputs={"TEXT": _utf8("text", text)}, parameters=parameters)


def question_call(
    model: str, question: str, context: str, parameters: Mapping[str, ParameterValue]
) -> InferenceCall:
    """Build the request that answers one question.

    Raises:
        InvalidInput: not a text, or a bad option.
    """
    QuestionAnsweringOptions.from_parameters(parameters)
    inputs = {"QUESTION": _utf8("question", question), "CONTEXT": _utf8("context", context)}
    return InferenceCall(model=model, inputs=inputs, parameters=parameters)


def decode_classification(outputs: Outputs) -> Classification:
    """Read the response to one text: `LABEL` and `SCORE` `[1, k]`, `TOKENS` and `WINDOWS` `[1, 1]`.

    Raises:
        InferenceFailed: the response is not that of a classification model.
    """
    labels, scores, tokens, windows = _rows(outputs, "LABEL", "SCORE", "TOKENS", "WINDOWS")
    if not labels:
        raise InferenceFailed("the model returned no label; is it a longserve classification model?")
    ranked = {_text(label): float(score) for label, score in zip(labels, scores, strict=True)}
    label = _text(labels[0])
    return Classification(label, ranked[label], ranked, int(tokens[0]), int(windows[0]))


def decode_answers(outputs: Outputs) -> list[Answer]:
    """Read the response to one question: `ANSWER`, `SCORE`, `START` and `END` `[1, k]`, `TOKENS` and
    `WINDOWS` `[1, 1]`. Entries with `START` -1 only fill the row up and are left out.

    Raises:
        InferenceFailed: the response is not that of a question-answering model.
    """
    names = ("ANSWER", "SCORE", "START", "END", "TOKENS", "WINDOWS")
    answers, scores, starts, ends, tokens, windows = _rows(outputs, *names)
    return [
        Answer(_text(answer), float(score), int(start), int(end), int(tokens[0]), int(windows[0]))
        for answer, score, start, end in zip(answers, scores, starts, ends, strict=True)
        if start >= 0
    ]


def as_texts(name: str, value: object) -> tuple[list[str], bool]:
    """Return the texts in a list, and whether the caller gave just one.

    Raises:
        InvalidInput: neither a string nor a sequence of strings.
    """
    if isinstance(value, str):
        return [value], True
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        for index, item in enumerate(value):
            if not isinstance(item, str):
                raise InvalidInput(f"{name} {index} is of type {type(item).__name__}; give strings")
        return list(value), False
    raise InvalidInput(f"the {name} is of type {type(value).__name__}; give a string or a list of strings")


def as_pairs(question: object, context: object) -> tuple[list[tuple[str, str]], bool]:
    """Return (question, context) pairs, and whether the caller gave just one pair.

    A single question goes with each of several contexts, and a single context with each question.

    Raises:
        InvalidInput: neither strings nor sequences of strings, or two sequences of different length.
    """
    questions, one_question = as_texts("question", question)
    contexts, one_context = as_texts("context", context)
    if one_question:
        questions = questions * len(contexts)
    elif one_context:
        contexts = contexts * len(questions)
    if len(questions) != len(contexts):
        raise InvalidInput(
            f"there are {len(questions)} questions and {len(contexts)} contexts; give as many of the one as "
            "of the other, or a single one"
        )
    return list(zip(questions, contexts, strict=True)), one_question and one_context


@contextmanager
def naming_text(index: int, single: bool = False) -> Iterator[None]:
    """Put a text's index in front of an error, unless it is a single one."""
    try:
        yield
    except ServingError as error:
        if single:
            raise
        raise type(error)(f"text {index}: {error}") from error


def _utf8(name: str, text: object) -> bytes:
    if not isinstance(text, str):
        raise InvalidInput(f"the {name} is of type {type(text).__name__}; give a string")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"the {name} has an unpaired surrogate at index {error.start}, which is no character; "
            "decode the text properly"
        ) from None


def _rows(outputs: Outputs, *names: str) -> list[list[Any]]:
    """Return the one row of each tensor, checked."""
    missing = [name for name in names if name not in outputs]
    if missing:
        raise InferenceFailed(
            f"the model returned {', '.join(sorted(outputs)) or 'nothing'} but not {', '.join(missing)}; "
            "is it the right longserve text model?"
        )
    rows = []
    for name in names:
        shape = outputs[name].shape
        expected = outputs[names[0]].shape if name not in ("TOKENS", "WINDOWS") else (1, 1)
        if len(shape) != 2 or shape[0] != 1 or shape != expected:
            raise InferenceFailed(f"the model returned {name} of shape {list(shape)} for one text")
        rows.append(list(outputs[name][0]))
    return rows


def _text(value: object) -> str:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise InferenceFailed(f"the model returned a text that is not UTF-8 ({error})") from error
