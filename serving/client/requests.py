"""The core that `Client` and `AsyncClient` share: from arguments to jobs, and from answers to results.

A job is one request, ready to be sent, with the function that reads its answer. The two clients only add the
sending: one with threads, the other with tasks.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..runtime.errors import AccessDenied, InferenceFailed, InvalidInput
from ..runtime.options import ClassificationOptions, ParameterValue, QuestionAnsweringOptions
from ..runtime.packing import EncoderOutput
from ..runtime.results import Answer, Classification
from .address import Address, parse_address
from .calls import (
    InferenceCall,
    Outputs,
    classification_call,
    decode_answers,
    decode_classification,
    decode_logits,
    given_parameters,
    logits_call,
    naming_text,
    question_call,
)
from .inquiries import Inquiry, Topic, tensors_shown
from .keywords import CallKeywords, ClassificationRequest, QuestionRequest, taking
from .retry import DEFAULT_RETRY, RetryPolicy

__all__ = [
    "Deadline",
    "InferenceJob",
    "InquiryJob",
    "JobFactory",
    "RequestBuilder",
    "closed_configuration",
]

_LONGEST_TIMEOUT = 1e6
_LONGEST_REQUEST_ID = 128
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Other = TypeVar("_Other")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceJob(Generic[_Result]):
    """One inference: what is sent, the seconds that it may take, and what reads the answer."""

    call: InferenceCall
    timeout: float
    decode: Callable[[Outputs], _Result]

    def read(self, outputs: Outputs, server: str) -> _Result:
        """Decode the answer, naming model and request in an error."""
        try:
            return self.decode(outputs)
        except InferenceFailed as error:
            raise InferenceFailed(f"{self.call.at(server)}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class InquiryJob:
    """One inquiry and the seconds that it may take."""

    inquiry: Inquiry
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFactory(Generic[_Item, _Result]):
    """Makes the jobs of one call, whose options are checked.

    Attributes:
        model, parameters, timeout: those of every job.
        request_id: the caller's; None gives each job a random one.
        build: makes the call of a text, or of a question and its context.
        decode: reads an answer.
    """

    model: str
    parameters: Mapping[str, ParameterValue]
    request_id: str | None
    timeout: float
    build: Callable[[str, _Item, Mapping[str, ParameterValue], str], InferenceCall]
    decode: Callable[[Outputs], _Result]

    def job(self, item: _Item, number: int | None = None) -> InferenceJob[_Result]:
        """The job of one text; `number` tells it from the others of the same call.

        Raises:
            InvalidInput: it is no text.
        """
        identity = checked_request_id(self.request_id)
        if self.request_id is not None and number is not None:
            identity = f"{identity}-{number}"
        call = self.build(self.model, item, self.parameters, identity)
        return InferenceJob(call=call, timeout=self.timeout, decode=self.decode)

    def jobs(self, items: Iterable[_Item]) -> list[InferenceJob[_Result]]:
        """The jobs of several texts; an error names the text."""
        jobs = []
        for number, item in enumerate(items):
            with naming_text(number):
                jobs.append(self.job(item, number))
        return jobs

    def windowed(self, decode: Callable[[Outputs], _Other]) -> JobFactory[_Item, _Other]:
        """The factory of the same jobs, but with what each window gave."""
        parameters = {**self.parameters, "window_results": True}
        return JobFactory(
            model=self.model,
            parameters=parameters,
            request_id=self.request_id,
            timeout=self.timeout,
            build=self.build,
            decode=decode,
        )


class Deadline:
    """The moment until which a request, with all its attempts, must be answered."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end: float | None = None

    def remaining(self) -> float:
        """Seconds left, counted from the first call; at least a millisecond, which the transport reports as
        the deadline's end."""
        if self._end is None:
            self._end = time.monotonic() + self._seconds
            return self._seconds
        return max(0.001, self._end - time.monotonic())


class RequestBuilder:
    """Turns the arguments of a client's methods into jobs. It holds the client's defaults, checked."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        classification_model: str,
        qa_model: str,
        concurrency: int,
        retry: RetryPolicy | None,
    ) -> None:
        """Check a client's arguments; see `Client`.

        Raises:
            InvalidInput: one cannot be used.
        """
        if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
            raise InvalidInput(f"concurrency is {concurrency!r}; give a whole number, 1 or more")
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise InvalidInput(f"retry is of type {type(retry).__name__}; give a RetryPolicy")
        self.address: Address = parse_address(url)
        self.server = str(self.address)
        self.timeout = checked_timeout(timeout)
        self.classification_model = _checked_model(classification_model)
        self.qa_model = _checked_model(qa_model)
        self.concurrency = concurrency
        self.retry = DEFAULT_RETRY if retry is None else retry

    @taking(ClassificationRequest)
    def classification(
        self,
        *,
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        top_k: int | None = None,
        function_to_apply: str | None = None,
        stride: int | None = None,
        window_combination: str | None = None,
    ) -> JobFactory[str, Classification]:
        """What makes the jobs of `classify`."""
        parameters = given_parameters(
            top_k=top_k,
            function_to_apply=function_to_apply,
            stride=stride,
            window_combination=window_combination,
        )
        ClassificationOptions.from_parameters(parameters)
        return JobFactory(
            model=self.chosen(model, self.classification_model),
            parameters=parameters,
            request_id=request_id,
            timeout=self.seconds(timeout),
            build=classification_call,
            decode=decode_classification,
        )

    @taking(QuestionRequest)
    def question(
        self,
        *,
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        top_k: int | None = None,
        max_answer_tokens: int | None = None,
        stride: int | None = None,
        handle_impossible_answer: bool | None = None,
    ) -> JobFactory[tuple[str, str], list[Answer]]:
        """What makes the jobs of `answer`."""
        parameters = given_parameters(
            top_k=top_k,
            max_answer_tokens=max_answer_tokens,
            stride=stride,
            handle_impossible_answer=handle_impossible_answer,
        )
        QuestionAnsweringOptions.from_parameters(parameters)
        return JobFactory(
            model=self.chosen(model, self.qa_model),
            parameters=parameters,
            request_id=request_id,
            timeout=self.seconds(timeout),
            build=question_call,
            decode=decode_answers,
        )

    @taking(CallKeywords)
    def logits(
        self,
        input_ids: object,
        global_attention_mask: object = None,
        token_type_ids: object = None,
        *,
        model: str | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
    ) -> InferenceJob[EncoderOutput]:
        """The job of `logits`."""
        encoder = self.chosen(model, f"{self.classification_model}_encoder")
        identity = checked_request_id(request_id)
        call = logits_call(encoder, input_ids, global_attention_mask, token_type_ids, identity)
        return InferenceJob(call=call, timeout=self.seconds(timeout), decode=decode_logits)

    def inquiry(self, topic: Topic, model: str | None, timeout: float | None) -> InquiryJob:
        """The job of a question about the server, or about a model."""
        name = None if model is None else _checked_model(model)
        return InquiryJob(inquiry=Inquiry(topic=topic, model=name), timeout=self.seconds(timeout))

    def seconds(self, timeout: float | None) -> float:
        """The deadline of a request."""
        return self.timeout if timeout is None else checked_timeout(timeout)

    @staticmethod
    def chosen(model: str | None, default: str) -> str:
        """The model of a request."""
        return default if model is None else _checked_model(model)


def closed_configuration(error: AccessDenied, metadata: Any) -> AccessDenied:
    """Say what a model's metadata tells where its configuration is closed."""
    try:
        known = tensors_shown(metadata)
    except (TypeError, KeyError):
        known = "nothing that can be read"
    return AccessDenied(f"{error}. Its metadata only says: {known}")


def checked_timeout(seconds: float) -> float:
    """Return a timeout as float.

    Raises:
        InvalidInput: not a positive number of seconds.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        raise InvalidInput(f"timeout is {seconds!r}; give a positive number of seconds")
    if not 0 < seconds <= _LONGEST_TIMEOUT:
        raise InvalidInput(
            f"timeout is {seconds:g}; give more than 0 and at most {_LONGEST_TIMEOUT:g} seconds"
        )
    return float(seconds)


def _checked_model(name: object) -> str:
    if not isinstance(name, str) or not name or not name.isprintable() or name in (".", ".."):
        raise InvalidInput(f"the model's name is {name!r}; give the name of a Triton model")
    return name


def checked_request_id(identity: object) -> str:
    """Return the request id, or a random one if none is given."""
    if identity is None:
        return uuid.uuid4().hex[:16]
    if not isinstance(identity, str) or not 0 < len(identity) <= _LONGEST_REQUEST_ID:
        raise InvalidInput(f"request_id is {identity!r}; give 1 to {_LONGEST_REQUEST_ID} characters")
    if not identity.isascii() or not identity.isprintable():
        raise InvalidInput(f"request_id is {identity!r}; give printable ASCII, which a log can hold")
    return identity
