"""The client of the models on a Triton server, for asyncio: the twin of `Client`."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..runtime.errors import AccessDenied, ModelNotFound, RequestError
from ..runtime.packing import EncoderOutput
from ..runtime.results import Answer, Classification, WindowedAnswers, WindowedClassification
from .calls import (
    Texts,
    as_pairs,
    as_stream,
    as_texts,
    decode_windowed_answers,
    decode_windowed_classification,
)
from .connection import Tls, make_connection
from .inquiries import (
    INDEX_SECONDS,
    Inquiry,
    ModelLimits,
    ServedModel,
    Topic,
    naming_models,
    read_index,
    read_labels,
    read_limits,
    read_statistics,
)
from .requests import Deadline, InferenceJob, JobFactory, RequestBuilder, closed_configuration
from .retry import RetryPolicy, import_tenacity, readiness_settings
from .streaming import AHEAD, in_order_async, progress_bar, size_of
from .transport import AsyncTransport, open_async_transport

if TYPE_CHECKING:
    import numpy.typing as npt

    from .keywords import CallKeywords, ClassificationRequest, QuestionRequest

    if sys.version_info >= (3, 11):
        from typing import Unpack
    else:
        from typing_extensions import Unpack

__all__ = ["AsyncClient"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class AsyncClient:
    """Asks the models of a Triton server from asyncio. Methods, options, results and errors are `Client`'s.

        async with AsyncClient("grpc://localhost:8001") as client:
            (await client.classify("…")).label
            async for result in client.classify_many(texts):
                …

    A client belongs to one event loop, that of its first call; any number of tasks may use it. A cancelled
    task gives its request up at once. After a fork, open a new one in the child process.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 60.0,
        classification_model: str = "longformer_classification",
        qa_model: str = "longformer_qa",
        concurrency: int = 16,
        retry: RetryPolicy | None = None,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        transport: AsyncTransport | None = None,
    ) -> None:
        """Prepare a client. No connection is made before the first call.

        Arguments are those of `Client`, but that `concurrency` bounds each call with several texts by itself.

        Raises:
            InvalidInput: an argument cannot be used.
            RequestError: tritonclient, tenacity or aiohttp is not installed.
        """
        self._builder = RequestBuilder(
            url,
            timeout=timeout,
            classification_model=classification_model,
            qa_model=qa_model,
            concurrency=concurrency,
            retry=retry,
        )
        self._retrying: Any = import_tenacity().AsyncRetrying
        connection = make_connection(self._builder.address, tls, headers)
        self._transport = transport or open_async_transport(connection)
        self._closed = False
        self._process: int | None = None

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self._builder.server!r})"

    @overload
    async def classify(self, text: str, **options: Unpack[ClassificationRequest]) -> Classification: ...

    @overload
    async def classify(
        self, text: Texts, **options: Unpack[ClassificationRequest]
    ) -> list[Classification]: ...

    async def classify(
        self, text: str | Texts, **options: Unpack[ClassificationRequest]
    ) -> Classification | list[Classification]:
        """Classify one text, or several; see `Client.classify`."""
        texts, single = as_texts("text", text)
        factory = self._builder.classification(**options)
        if single:
            return await self._infer(factory.job(texts[0]))
        return await self._infer_all(factory.jobs(texts))

    def classify_many(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        progress: bool = False,
        **options: Unpack[ClassificationRequest],
    ) -> AsyncIterator[Classification]:
        """Classify any number of texts, and yield the results in order; see `Client.classify_many`.

        The texts may also come from an asynchronous iterable.
        """
        return self._infer_many(texts, self._builder.classification(**options), progress, "texts")

    async def classify_windows(
        self, text: str, **options: Unpack[ClassificationRequest]
    ) -> WindowedClassification:
        """Classify one text, and return what each of its windows gave; see `Client.classify_windows`."""
        factory = self._builder.classification(**options).windowed(decode_windowed_classification)
        return await self._infer(factory.job(text))

    @overload
    async def answer(
        self, question: str, context: str, **options: Unpack[QuestionRequest]
    ) -> list[Answer]: ...

    @overload
    async def answer(
        self, question: str | Texts, context: Texts, **options: Unpack[QuestionRequest]
    ) -> list[list[Answer]]: ...

    @overload
    async def answer(
        self, question: Texts, context: str, **options: Unpack[QuestionRequest]
    ) -> list[list[Answer]]: ...

    async def answer(
        self, question: str | Texts, context: str | Texts, **options: Unpack[QuestionRequest]
    ) -> list[Answer] | list[list[Answer]]:
        """Answer a question about a context, or several of either; see `Client.answer`."""
        pairs, single = as_pairs(question, context)
        factory = self._builder.question(**options)
        if single:
            return await self._infer(factory.job(pairs[0]))
        return await self._infer_all(factory.jobs(pairs))

    def answer_many(
        self,
        questions: Iterable[tuple[str, str]] | AsyncIterable[tuple[str, str]],
        *,
        progress: bool = False,
        **options: Unpack[QuestionRequest],
    ) -> AsyncIterator[list[Answer]]:
        """Answer any number of (question, context) pairs, in order; see `Client.answer_many`.

        The pairs may also come from an asynchronous iterable.
        """
        return self._infer_many(questions, self._builder.question(**options), progress, "questions")

    async def answer_windows(
        self, question: str, context: str, **options: Unpack[QuestionRequest]
    ) -> WindowedAnswers:
        """Answer one question, with the best answers of each window; see `Client.answer_windows`."""
        factory = self._builder.question(**options).windowed(decode_windowed_answers)
        return await self._infer(factory.job((question, context)))

    async def logits(
        self,
        input_ids: npt.ArrayLike,
        global_attention_mask: npt.ArrayLike | None = None,
        token_type_ids: npt.ArrayLike | None = None,
        **options: Unpack[CallKeywords],
    ) -> EncoderOutput:
        """Run one sequence of tokens through an encoder; see `Client.logits`."""
        return await self._infer(
            self._builder.logits(input_ids, global_attention_mask, token_type_ids, **options)
        )

    async def models(self, *, timeout: float | None = None) -> list[ServedModel]:
        """Return the server's models by name; see `Client.models`."""
        try:
            inquiry, answer = await self._ask(Topic.INDEX, None, timeout)
        except AccessDenied:
            inquiry, answer = await self._ask(Topic.STATISTICS, None, timeout)
            return read_statistics(answer, inquiry.at(self._builder.server))
        return read_index(answer, inquiry.at(self._builder.server))

    async def labels(self, model: str | None = None, *, timeout: float | None = None) -> tuple[str, ...]:
        """Return the labels of a text model by index; see `Client.labels`."""
        return read_labels(*await self._configuration(model, timeout))

    async def limits(self, model: str | None = None, *, timeout: float | None = None) -> ModelLimits:
        """Return what a text model or an encoder takes; see `Client.limits`."""
        return read_limits(*await self._configuration(model, timeout))

    async def server_ready(self, *, timeout: float = 5.0) -> bool:
        """Return whether the server answers within `timeout` seconds and says that it is ready."""
        self._check_open()
        job = self._builder.inquiry(Topic.READY, None, timeout)
        try:
            return bool(await self._transport.ask(job.inquiry, job.timeout))
        except RequestError:
            return False

    async def wait_until_ready(self, timeout: float = 60.0, *, model: str | None = None) -> None:
        """Wait until the server is ready, or one of its models; see `Client.wait_until_ready`."""
        self._check_open()
        job = self._builder.inquiry(Topic.READY, model, timeout)
        settings = readiness_settings(job.timeout, job.inquiry.at(self._builder.server))
        await self._retrying(**settings)(self._transport.ask, job.inquiry, min(5.0, job.timeout))

    async def close(self) -> None:
        """Close the connections. Calls in flight in other tasks fail. May be called twice."""
        if not self._closed:
            self._closed = True
            if self._process in (None, os.getpid()):  # another process's connections are not ours to close
                await self._transport.close()

    async def _infer(self, job: InferenceJob[_Result]) -> _Result:
        try:
            outputs = await self._send(lambda timeout: self._transport.infer(job.call, timeout), job.timeout)
        except ModelNotFound as error:
            served = await self._listed()
            if served is None:
                raise
            raise naming_models(error, served) from error
        return job.read(outputs, self._builder.server)

    async def _listed(self) -> list[ServedModel] | None:
        try:
            return await self.models(timeout=INDEX_SECONDS)
        except RequestError:  # it does not list them
            return None

    async def _infer_all(self, jobs: list[InferenceJob[_Result]]) -> list[_Result]:
        self._check_open()
        results = in_order_async(jobs, self._infer, self._builder.concurrency, ahead=len(jobs))
        return [result async for result in results]

    def _infer_many(
        self,
        items: Iterable[_Item] | AsyncIterable[_Item],
        factory: JobFactory[_Item, _Result],
        progress: bool,
        title: str,
    ) -> AsyncIterator[_Result]:
        self._check_open()
        as_stream(title, items)
        numbers = count()

        async def infer(item: _Item) -> _Result:
            return await self._infer(factory.job(item, next(numbers)))

        async def results() -> AsyncIterator[_Result]:
            with progress_bar(progress, title, size_of(items)) as advance:
                concurrency = self._builder.concurrency
                answers = in_order_async(items, infer, concurrency, AHEAD * concurrency)
                async with aclosing(answers):
                    async for answer in answers:
                        advance()
                        yield answer

        return results()

    async def _ask(self, topic: Topic, model: str | None, timeout: float | None) -> tuple[Inquiry, Any]:
        job = self._builder.inquiry(topic, model, timeout)
        answer = await self._send(lambda left: self._transport.ask(job.inquiry, left), job.timeout)
        return job.inquiry, answer

    async def _configuration(self, model: str | None, timeout: float | None) -> tuple[Any, str]:
        """A model's configuration, and the words for it in an error."""
        name = self._builder.chosen(model, self._builder.classification_model)
        try:
            inquiry, config = await self._ask(Topic.CONFIG, name, timeout)
        except AccessDenied as error:
            _, metadata = await self._ask(Topic.METADATA, name, timeout)
            raise closed_configuration(error, metadata) from error
        return config, inquiry.at(self._builder.server)

    async def _send(self, send: Callable[[float], Awaitable[_Result]], timeout: float) -> _Result:
        """Send, and send again as the retry policy says, within one deadline."""
        self._check_open()
        deadline = Deadline(timeout)

        async def attempt() -> _Result:
            return await send(deadline.remaining())

        result: _Result = await self._retrying(**self._builder.retry.settings(timeout))(attempt)
        return result

    def _check_open(self) -> None:
        if self._closed:
            raise RequestError(f"the client of {self._builder.server} is closed; open a new one")
        if self._process is None:
            self._process = os.getpid()
        if self._process != os.getpid():
            raise RequestError(
                f"the client of {self._builder.server} was used before this process was forked, and its "
                "connections are the parent's; open a new AsyncClient in each process"
            )
