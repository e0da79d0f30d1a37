"""The options of a request: one frozen object per task, made from keywords or from Triton parameters."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeVar

import numpy as np

from .errors import InvalidInput, Refusal

__all__ = [
    "APPLICABLE_FUNCTIONS",
    "ClassificationOptions",
    "MAX_ANSWERS",
    "ParameterValue",
    "QuestionAnsweringOptions",
    "WINDOW_COMBINATIONS",
]

ParameterValue = str | int | bool | float
"""What a Triton request parameter can hold."""

APPLICABLE_FUNCTIONS = ("sigmoid", "softmax", "none")
WINDOW_COMBINATIONS = ("mean", "max")
MAX_ANSWERS = 1000
"""Largest `top_k` for answers: spans are many, so a server needs a bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationOptions:
    """How a text is classified.

    Attributes:
        top_k: how many labels to return, best first; None: all.
        function_to_apply: what turns logits into scores: `sigmoid`, `softmax` or `none`; None: by the
            checkpoint's problem type, as Hugging Face's text-classification pipeline does.
        stride: tokens that neighbouring windows share where the text is longer than the model (Hugging
            Face's `doc_stride`); None: 128, or a quarter of the model's length where that is less.
        window_combination: `mean` or `max` of the windows' scores.
        window_results: return what each window gave, besides the combined result.

    Raises:
        InvalidInput: a value of the wrong type or out of range.
    """

    top_k: int | None = None
    function_to_apply: str | None = None
    stride: int | None = None
    window_combination: str = "mean"
    window_results: bool = False

    def __post_init__(self) -> None:
        _check_integer("top_k", self.top_k, minimum=1, optional=True)
        _check_integer("stride", self.stride, minimum=0, optional=True)
        if self.function_to_apply is not None:
            _check_choice("function_to_apply", self.function_to_apply, APPLICABLE_FUNCTIONS)
        _check_choice("window_combination", self.window_combination, WINDOW_COMBINATIONS)
        _check_boolean("window_results", self.window_results)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, ParameterValue]) -> ClassificationOptions:
        """Make options from request parameters; an absent one takes its default.

        Raises:
            InvalidInput: an unknown name, or a value that cannot be converted or is out of range.
        """
        return _from_parameters(cls, parameters, _CLASSIFICATION_CONVERTERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAnsweringOptions:
    """How a question is answered.

    Attributes:
        top_k: how many answers to return, best first, at most 1000; fewer come where there are fewer spans.
        max_answer_tokens: longest answer, in tokens.
        stride: tokens that neighbouring windows share where the context is longer than the model (Hugging
            Face's `doc_stride`). None: 128, or a quarter of the model's length where that is less, but at
            least `max_answer_tokens` as far as half a window has room, so that no answer is cut at a seam.
        handle_impossible_answer: let "no answer" compete with the spans, as Hugging Face's pipeline does.
        window_results: return what each window gave, besides the best answers of all.

    Raises:
        InvalidInput: a value of the wrong type or out of range.
    """

    top_k: int = 1
    max_answer_tokens: int = 30
    stride: int | None = None
    handle_impossible_answer: bool = False
    window_results: bool = False

    def __post_init__(self) -> None:
        _check_integer("top_k", self.top_k, minimum=1, maximum=MAX_ANSWERS)
        _check_integer("max_answer_tokens", self.max_answer_tokens, minimum=1)
        _check_integer("stride", self.stride, minimum=0, optional=True)
        _check_boolean("handle_impossible_answer", self.handle_impossible_answer)
        _check_boolean("window_results", self.window_results)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, ParameterValue]) -> QuestionAnsweringOptions:
        """Make options from request parameters; an absent one takes its default.

        Raises:
            InvalidInput: an unknown name, or a value that cannot be converted or is out of range.
        """
        return _from_parameters(cls, parameters, _QUESTION_ANSWERING_CONVERTERS)


_Options = TypeVar("_Options", ClassificationOptions, QuestionAnsweringOptions)
_Converter = Callable[[ParameterValue], ParameterValue]


def _from_parameters(
    kind: type[_Options], parameters: Mapping[str, ParameterValue], converters: Mapping[str, _Converter]
) -> _Options:
    legal = sorted(field.name for field in dataclasses.fields(kind))
    unknown = sorted(set(parameters) - set(legal))
    if unknown:
        raise InvalidInput(
            f"unknown parameter {', '.join(map(_shown, unknown))}; this model takes {', '.join(legal)}",
            reason=Refusal.OPTION,
        )
    values: dict[str, Any] = {name: converters[name](value) for name, value in parameters.items()}
    return kind(**values)


def _to_integer(value: ParameterValue) -> ParameterValue:
    if isinstance(value, str) and len(value) < 20 and value.strip().lstrip("+-").isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _to_boolean(value: ParameterValue) -> ParameterValue:
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower(), value)
    if value in (0, 1):
        return bool(value)
    return value


def _unchanged(value: ParameterValue) -> ParameterValue:
    return value


_CLASSIFICATION_CONVERTERS: Mapping[str, _Converter] = {
    "top_k": _to_integer,
    "function_to_apply": _unchanged,
    "stride": _to_integer,
    "window_combination": _unchanged,
    "window_results": _to_boolean,
}
_QUESTION_ANSWERING_CONVERTERS: Mapping[str, _Converter] = {
    "top_k": _to_integer,
    "max_answer_tokens": _to_integer,
    "stride": _to_integer,
    "handle_impossible_answer": _to_boolean,
    "window_results": _to_boolean,
}


def _check_integer(
    name: str, value: object, *, minimum: int, maximum: int | None = None, optional: bool = False
) -> None:
    if value is None and optional:
        return
    legal = f"{minimum} or more" if maximum is None else f"{minimum} to {maximum}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, SupportsIndex):
        raise InvalidInput(f"{name} is {_shown(value)}; give a whole number, {legal}", reason=Refusal.OPTION)
    if operator.index(value) < minimum or (maximum is not None and operator.index(value) > maximum):
        raise InvalidInput(f"{name} is {_shown(value)}; give {legal}", reason=Refusal.OPTION)


def _check_boolean(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} is {_shown(value)}; give true or false", reason=Refusal.OPTION)


def _check_choice(name: str, value: object, legal: tuple[str, ...]) -> None:
    if value not in legal:
        raise InvalidInput(f"{name} is {_shown(value)}; legal: {', '.join(legal)}", reason=Refusal.OPTION)


def _shown(value: object) -> str:
    """Represent a caller's value in a message, cut short: it may be anything."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
