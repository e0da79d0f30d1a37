"""The keyword arguments that the clients' methods take, once for all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypedDict, TypeVar

__all__ = [
    "CallKeywords",
    "ClassificationKeywords",
    "ClassificationRequest",
    "QuestionKeywords",
    "QuestionRequest",
    "taking",
]

_Parameters = ParamSpec("_Parameters")
_Made = TypeVar("_Made")


class CallKeywords(TypedDict, total=False):
    """How a server is asked.

    model: Triton model to ask instead of the client's default.
    timeout: deadline of each request in seconds, all attempts included, instead of the client's default.
    request_id: what the server repeats in its log and its errors, instead of a random one; where one call
        makes several requests, `-0`, `-1`, … is added.
    """

    model: str | None
    timeout: float | None
    request_id: str | None


class ClassificationKeywords(TypedDict, total=False):
    """How a text is classified.

    top_k: how many labels to return, best first; all if not given.
    function_to_apply: `sigmoid`, `softmax` or `none`; if not given, what fits the checkpoint.
    stride: tokens that neighbouring windows of a text longer than the model share.
    window_combination: `mean` (default) or `max` of the windows' scores.
    """

    top_k: int | None
    function_to_apply: str | None
    stride: int | None
    window_combination: str | None


class QuestionKeywords(TypedDict, total=False):
    """How a question is answered.

    top_k: how many answers to return, best first; 1 if not given.
    max_answer_tokens: longest answer, in tokens; 30 if not given.
    stride: tokens that neighbouring windows of a context longer than the model share.
    handle_impossible_answer: let "no answer" (an `Answer` whose text is "") compete.
    """

    top_k: int | None
    max_answer_tokens: int | None
    stride: int | None
    handle_impossible_answer: bool | None


class ClassificationRequest(ClassificationKeywords, CallKeywords, total=False):
    """How a server is asked to classify a text."""


class QuestionRequest(QuestionKeywords, CallKeywords, total=False):
    """How a server is asked a question."""


def taking(options: type) -> Callable[[Callable[_Parameters, _Made]], Callable[_Parameters, _Made]]:
    """Let a function refuse keywords that are none of the options, naming those.

    Raises:
        TypeError: when the function is called with another keyword.
    """
    legal = sorted(options.__annotations__)

    def decorate(function: Callable[_Parameters, _Made]) -> Callable[_Parameters, _Made]:
        @functools.wraps(function)
        def checked(*arguments: _Parameters.args, **given: _Parameters.kwargs) -> _Made:
            unknown = sorted(set(given) - set(legal))
            if unknown:
                raise TypeError(f"unknown option {', '.join(unknown)}; the options are {', '.join(legal)}")
            return function(*arguments, **given)

        return checked

    return decorate
