"""The client of the text models on a Triton server."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar, overload

from ..runtime.errors import InvalidInput, RequestError
from ..runtime.results import Answer, Classification
from .address import parse_address
from .calls import (
    InferenceCall,
    Outputs,
    Texts,
    as_pairs,
    as_texts,
    classification_call,
    decode_answers,
    decode_classification,
    given_parameters,
    naming_text,
    question_call,
)
from .transport import Transport, open_transport

__all__ = ["Client"]

_LONGEST_TIMEOUT = 1e6
_Result = TypeVar("_Result")


class Client:
    """Asks the text models of a Triton server that serves a longserve repository.

        with Client("grpc://localhost:8001") as client:
            client.classify("…").label
            client.answer("Where is the key?", "…", top_k=3)

    One client may be used by many threads, and should be: it keeps its connections. Several texts in one call
    are sent as concurrent requests, which the server batches, and their results come in the order of the
    texts; the first that fails raises its error with its index, and those not sent yet are not sent.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 60.0,
        classification_model: str = "longformer_classification",
        qa_model: str = "longformer_qa",
        concurrency: int = 16,
        transport: Transport | None = None,
    ) -> None:
        """Prepare a client. No connection is made before the first call.

        Args:
            url: `grpc://host[:port]` or `http://host[:port]`; without a port, Triton's default. The protocol
                has to be named.
            timeout: default deadline of a request, in seconds from when it is sent.
            classification_model: Triton model that `classify` asks by default.
            qa_model: Triton model that `answer` asks by default.
            concurrency: most requests that one call with several texts has in flight.
            transport: carries the requests instead of what `url` names (for tests and special protocols).

        Raises:
            InvalidInput: a bad url, timeout or concurrency.
            RequestError: tritonclient is not installed.
        """
        address = parse_address(url)
        if not isinstance(concurrency, int) or concurrency < 1:
            raise InvalidInput(f"concurrency is {concurrency!r}; give a whole number, 1 or more")
        self._timeout = _checked_timeout(timeout)
        self._classification_model = classification_model
        self._qa_model = qa_model
        self._concurrency = concurrency
        self._url = str(address)
        self._transport = transport or open_transport(address)
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._url!r})"

    @overload
    def classify(
        self,
        text: str,
        *,
        model: str | None = None,
        top_k: int | None = None,
        function_to_apply: str | None = None,
        stride: int | None = None,
        window_combination: str | None = None,
        timeout: float | None = None,
    ) -> Classification: ...

    @overload
    def classify(
        self,
        text: Texts,
        *,
        model: str | None = None,
        top_k: int | None = None,
        function_to_apply: str | None = None,
        stride: int | None = None,
        window_combination: str | None = None,
        timeout: float | None = None,
    ) -> list[Classification]: ...

    def classify(
        self,
        text: str | Texts,
        *,
        model: str | None = None,
        top_k: int | None = None,
        function_to_apply: str | None = None,
        stride: int | None = None,
        window_combination: str | None = None,
        timeout: float | None = None,
    ) -> Classification | list[Classification]:
        """Classify one text, or several.

        Args:
            text: a text, or a list or tuple of texts, of any length.
            model: Triton model to ask instead of the client's default.
            top_k: how many labels to return, best first; all if not given.
            function_to_apply: `sigmoid`, `softmax` or `none`; if not given, what fits the checkpoint.
            stride: tokens that neighbouring windows of a text longer than the model share.
            window_combination: `mean` (default) or `max` of the windows' scores.
            timeout: deadline of each request in seconds, instead of the client's default.

        Returns:
            A `Classification`, or a list of them in the order of the texts.

        Raises:
            InvalidInput: a text or option cannot be used.
            ServerUnavailable: no connection, or the server is not ready.
            Overloaded: the server's queue is full.
            DeadlineExceeded: no answer in time.
            ModelNotFound: the server has no such model.
            InferenceFailed: the server failed while computing the answer.
        """
        texts, single = as_texts("text", text)
        parameters = given_parameters(
            top_k=top_k,
            function_to_apply=function_to_apply,
            stride=stride,
            window_combination=window_combination,
        )
        name = self._classification_model if model is None else model
        calls = [classification_call(name, item, parameters) for item in texts]
        results = self._ask(calls, decode_classification, timeout, single)
        return results[0] if single else results

    @overload
    def answer(
        self,
        question: str,
        context: str,
        *,
        model: str | None = None,
        top_k: int | None = None,
        max_answer_tokens: int | None = None,
        stride: int | None = None,
        handle_impossible_answer: bool | None = None,
        timeout: float | None = None,
    ) -> list[Answer]: ...

    @overload
    def answer(
        self,
        question: str | Texts,
        context: Texts,
        *,
        model: str | None = None,
        top_k: int | None = None,
        max_answer_tokens: int | None = None,
        stride: int | None = None,
        handle_impossible_answer: bool | None = None,
        timeout: float | None = None,
    ) -> list[list[Answer]]: ...

    @overload
    def answer(
        self,
        question: Texts,
        context: str,
        *,
        model: str | None = None,
        top_k: int | None = None,
        max_answer_tokens: int | None = None,
        stride: int | None = None,
        handle_impossible_answer: bool | None = None,
        timeout: float | None = None,
    ) -> list[list[Answer]]: ...

    def answer(
        self,
        question: str | Texts,
        context: str | Texts,
        *,
        model: str | None = None,
        top_k: int | None = None,
        max_answer_tokens: int | None = None,
        stride: int | None = None,
        handle_impossible_answer: bool | None = None,
        timeout: float | None = None,
    ) -> list[Answer] | list[list[Answer]]:
        """Answer a question about a context, or several of either.

        Args:
            question: a question, or a list or tuple of them.
            context: the text that answers it, of any length, or a list or tuple of them. A single question
                is put to each of several contexts, and several questions to a single context.
            model: Triton model to ask instead of the client's default.
            top_k: how many answers to return, best first; 1 if not given.
            max_answer_tokens: longest answer, in tokens.
            stride: tokens that neighbouring windows of a context longer than the model share.
            handle_impossible_answer: let "no answer" (an `Answer` whose text is "") compete.
            timeout: deadline of each request in seconds, instead of the client's default.

        Returns:
            The answers, best first; a list of such lists, in order, where several were asked.

        Raises:
            InvalidInput: a text or option cannot be used.
            ServerUnavailable: no connection, or the server is not ready.
            Overloaded: the server's queue is full.
            DeadlineExceeded: no answer in time.
            ModelNotFound: the server has no such model.
            InferenceFailed: the server failed while computing the answer.
        """
        pairs, single = as_pairs(question, context)
        parameters = given_parameters(
            top_k=top_k,
            max_answer_tokens=max_answer_tokens,
            stride=stride,
            handle_impossible_answer=handle_impossible_answer,
        )
        name = self._qa_model if model is None else model
        calls = [question_call(name, asked, given, parameters) for asked, given in pairs]
        results = self._ask(calls, decode_answers, timeout, single)
        return results[0] if single else results

    def server_ready(self, *, timeout: float = 5.0) -> bool:
        """Return whether the server answers within `timeout` seconds and says that it is ready."""
        self._check_open()
        return self._transport.server_ready(_checked_timeout(timeout))

    def close(self) -> None:
        """Close the connections. Calls in flight on other threads may fail. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        self._transport.close()

    def _ask(
        self,
        calls: Sequence[InferenceCall],
        decode: Callable[[Outputs], _Result],
        timeout: float | None,
        single: bool,
    ) -> list[_Result]:
        self._check_open()
        seconds = self._timeout if timeout is None else _checked_timeout(timeout)

        def ask(call: InferenceCall) -> _Result:
            return decode(self._transport.infer(call, seconds))

        if single:
            return [ask(call) for call in calls]
        return self._ask_concurrently(calls, ask)

    def _ask_concurrently(
        self, calls: Sequence[InferenceCall], ask: Callable[[InferenceCall], _Result]
    ) -> list[_Result]:
        executor = self._open_executor()
        futures: list[Future[_Result]] = [executor.submit(ask, call) for call in calls]
        results = []
        try:
            for index, future in enumerate(futures):
                with naming_text(index):
                    results.append(future.result())
        finally:
            for future in futures:
                future.cancel()
        return results

    def _open_executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._concurrency, thread_name_prefix="longserve-client")
            return self._executor

    def _check_open(self) -> None:
        if self._closed:
            raise RequestError(f"the client of {self._url} is closed; open a new one")


def _checked_timeout(seconds: float) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
        raise InvalidInput(f"timeout is {seconds!r}; give a positive number of seconds")
    if not 0 < seconds <= _LONGEST_TIMEOUT:
        raise InvalidInput(
            f"timeout is {seconds:g}; give more than 0 and at most {_LONGEST_TIMEOUT:g} seconds"
        )
    return float(seconds)
