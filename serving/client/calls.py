"""What is sent to the models and what comes back, apart from any transport.

Every client builds its requests and reads its results here; clients only differ in how they call.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..runtime.errors import InferenceFailed, InvalidInput, ServingError
from ..runtime.options import ParameterValue
from ..runtime.packing import EncoderOutput
from ..runtime.results import (
    Answer,
    Classification,
    WindowAnswers,
    WindowClassification,
    WindowedAnswers,
    WindowedClassification,
)

__all__ = [
    "InferenceCall",
    "Outputs",
    "Texts",
    "as_pair",
    "as_pairs",
    "as_row",
    "as_stream",
    "as_texts",
    "classification_call",
    "decode_answers",
    "decode_classification",
    "decode_logits",
    "decode_windowed_answers",
    "decode_windowed_classification",
    "given_parameters",
    "logits_call",
    "naming_text",
    "question_call",
]

Texts = list[str] | tuple[str, ...]
"""Several texts. (Not `Sequence[str]`: a single `str` is one, too.)"""

Outputs = Mapping[str, npt.NDArray[Any]]
"""A response's tensors by name."""


_COUNTS = ("TOKENS", "WINDOWS", "WINDOW_RESULTS")
_Window = TypeVar("_Window")
_Items = TypeVar("_Items")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceCall:
    """One inference request.

    Attributes:
        model: name of the Triton model.
        inputs: the tensors by name: objects (BYTES) or int64, with the batch axis first.
        parameters: request parameters.
        request_id: what the server repeats in its log and in its errors.
    """

    model: str
    inputs: Mapping[str, npt.NDArray[Any]]
    parameters: Mapping[str, ParameterValue]
    request_id: str = ""

    def at(self, server: str) -> str:
        """Name the model and the request for an error message."""
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"model {self.model!r} at {server}{request}"


def given_parameters(**options: ParameterValue | None) -> dict[str, ParameterValue]:
    """Return the options that were given; the others are left to the server's defaults.

    A whole number of another library becomes an `int`.
    """
    return {name: _plain(value) for name, value in options.items() if value is not None}


def classification_call(
    model: str, text: str, parameters: Mapping[str, ParameterValue], request_id: str = ""
) -> InferenceCall:
    """Build the request that classifies one text.

    Raises:
        InvalidInput: not a text.
    """
    inputs = {"TEXT": _bytes("text", text)}
    return InferenceCall(model=model, inputs=inputs, parameters=parameters, request_id=request_id)


def question_call(
    model: str, pair: tuple[str, str], parameters: Mapping[str, ParameterValue], request_id: str = ""
) -> InferenceCall:
    """Build the request that answers one question from its context.

    Raises:
        InvalidInput: not a pair of texts.
    """
    question, context = as_pair(pair)
    inputs = {"QUESTION": _bytes("question", question), "CONTEXT": _bytes("context", context)}
    return InferenceCall(model=model, inputs=inputs, parameters=parameters, request_id=request_id)


def logits_call(
    model: str,
    input_ids: object,
    global_attention_mask: object = None,
    token_type_ids: object = None,
    request_id: str = "",
) -> InferenceCall:
    """Build the request that runs one sequence, each argument `[tokens]`, through an encoder.

    Raises:
        InvalidInput: an argument is no row of whole numbers, or they differ in length.
    """
    given = {
        "input_ids": input_ids,
        "global_attention_mask": global_attention_mask,
        "token_type_ids": token_type_ids,
    }
    inputs = {
        name: as_row(name, value)[np.newaxis]
        for name, value in given.items()
        if value is not None or name == "input_ids"
    }
    for name, array in inputs.items():
        if array.shape != inputs["input_ids"].shape:
            raise InvalidInput(
                f"{name} has {array.size} elements but input_ids has {inputs['input_ids'].size}; "
                "make them equal"
            )
    return InferenceCall(model=model, inputs=inputs, parameters={}, request_id=request_id)


def as_row(name: str, value: object) -> npt.NDArray[np.int64]:
    """Return an argument `[tokens]` as int64.

    Raises:
        InvalidInput: no row of whole numbers, or an empty one.
    """
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different length
        array = np.empty((0, 0))
    if array.ndim != 1 or array.size == 0:
        raise InvalidInput(f"{name} has shape {list(array.shape)}; give one sequence as [tokens]")
    if array.dtype.kind not in "iu":
        raise InvalidInput(f"{name} has elements of type {array.dtype}; give whole numbers")
    return array.astype(np.int64)


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


def decode_windowed_classification(outputs: Outputs) -> WindowedClassification:
    """Read the response to one text that was asked for with `window_results`.

    Raises:
        InferenceFailed: the response is not that of a classification model, or lacks `WINDOW_RESULTS`.
    """

    def read(entry: Any) -> WindowClassification:
        scores = {str(label): float(score) for label, score in entry["scores"].items()}
        label, score = next(iter(scores.items()))
        return WindowClassification(*_extent(entry), label, score, scores)

    return WindowedClassification(decode_classification(outputs), _windows(outputs, read))


def decode_windowed_answers(outputs: Outputs) -> WindowedAnswers:
    """Read the response to one question that was asked with `window_results`.

    Raises:
        InferenceFailed: the response is not that of a question-answering model, or lacks `WINDOW_RESULTS`.
    """
    tokens, windows = (int(row[0]) for row in _rows(outputs, "TOKENS", "WINDOWS"))

    def read(entry: Any) -> WindowAnswers:
        answers = (
            Answer(str(a["answer"]), float(a["score"]), int(a["start"]), int(a["end"]), tokens, windows)
            for a in entry["answers"]
        )
        return WindowAnswers(*_extent(entry), tuple(answers))

    return WindowedAnswers(tuple(decode_answers(outputs)), _windows(outputs, read))


def decode_logits(outputs: Outputs) -> EncoderOutput:
    """Read the response of an encoder to one sequence: each output `[1, …]`.

    Raises:
        InferenceFailed: the response is not that of an encoder.
    """
    names = ("logits",) if "logits" in outputs else ("start_logits", "end_logits")
    rows = {
        name: np.asarray(row, np.float32) for name, row in zip(names, _rows(outputs, *names), strict=True)
    }
    return EncoderOutput(**rows)


def as_pair(pair: object) -> tuple[str, str]:
    """Return a question and its context.

    Raises:
        InvalidInput: no pair.
    """
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise InvalidInput(f"there is a {type(pair).__name__} where (question, context) is due; give pairs")
    question, context = pair
    return question, context


def as_stream(name: str, items: _Items) -> _Items:
    """Return many texts or pairs as they are.

    Raises:
        InvalidInput: a single string, which would be taken for its characters.
    """
    if isinstance(items, (str, bytes)):
        raise InvalidInput(f"the {name} are a single {type(items).__name__}; give an iterable of them")
    return items


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


def _plain(value: ParameterValue) -> ParameterValue:
    if isinstance(value, (str, bool, float, np.bool_)):
        return value
    try:
        return operator.index(value)
    except TypeError:  # the options' check names it
        return value


@contextmanager
def naming_text(index: int, single: bool = False) -> Iterator[None]:
    """Put a text's index in front of an error, unless it is a single one."""
    try:
        yield
    except ServingError as error:
        if single:
            raise
        raise type(error)(f"text {index}: {error}") from error


def _bytes(name: str, text: object) -> npt.NDArray[Any]:
    """A text as BYTES `[1, 1]`."""
    if not isinstance(text, str):
        raise InvalidInput(f"the {name} is of type {type(text).__name__}; give a string")
    try:
        return np.array([[text.encode("utf-8")]], dtype=np.object_)
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
        expected = outputs[names[0]].shape if name not in _COUNTS else (1, 1)
        if len(shape) != 2 or shape[0] != 1 or shape != expected:
            raise InferenceFailed(f"the model returned {name} of shape {list(shape)} for one text")
        rows.append(list(outputs[name][0]))
    return rows


def _windows(outputs: Outputs, read: Callable[[Any], _Window]) -> tuple[_Window, ...]:
    """Read `WINDOW_RESULTS`, which `windows_to_json` in `serving/runtime/results.py` writes."""
    ((content,),) = _rows(outputs, "WINDOW_RESULTS")
    try:
        return tuple(read(entry) for entry in json.loads(_text(content)))
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise InferenceFailed(
            f"the model returned WINDOW_RESULTS that cannot be read ({type(error).__name__}: {error})"
        ) from error


def _extent(entry: Any) -> tuple[int, int, int]:
    return int(entry["start"]), int(entry["end"]), int(entry["tokens"])


def _text(value: object) -> str:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise InferenceFailed(f"the model returned a text that is not UTF-8 ({error})") from error
