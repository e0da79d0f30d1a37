"""The client of the models on a Triton server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
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
from .streaming import AHEAD, in_order, progress_bar, size_of
from .transport import Transport, open_transport

if TYPE_CHECKING:
    import numpy.typing as npt

    from .keywords import CallKeywords, ClassificationRequest, QuestionRequest

    if sys.version_info >= (3, 11):
        from typing import Unpack
    else:
        from typing_extensions import Unpack
from .workers import Workers

__all__ = ["Client"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Client:
    """Asks the models of a Triton server that serves a longserve repository.

        with Client("grpc://localhost:8001") as client:
            client.classify("…").label
            client.answer("Where is the key?", "…", top_k=3)

    One client may be used by many threads, and should be: it keeps its connections. A forked process may use
    its parent's client: it makes its own connections. Several texts in one call
    are sent as concurrent requests, which the server batches, and their results come in the order of the
    texts; the first that fails raises its error with its index, and those not sent yet are not sent.

    All methods that ask the server raise:

        InvalidInput        a text, tensor or option cannot be used
        ServerUnavailable   no connection, or the server is not ready, after all retries
        Overloaded          the server's queue is full, after all retries
        DeadlineExceeded    no answer in time
        ModelNotFound       the server has no such model
        AccessDenied        the server keeps this closed, or wants credentials
        InferenceFailed     the server failed while computing the answer
        RequestError        anything else that a server can answer; the root of all but `InvalidInput`
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
        transport: Transport | None = None,
    ) -> None:
        """Prepare a client. No connection is made before the first call.

        Args:
            url: `grpc://host[:port]` or `http://host[:port]`, `grpcs://` and `https://` with TLS; without a
                port, Triton's default, with TLS 443. The protocol has to be named.
            timeout: default deadline of a request, in seconds from when it is first sent, retries included.
            classification_model: Triton model that `classify` asks by default.
            qa_model: Triton model that `answer` asks by default.
            concurrency: most requests that calls with several texts have in flight, together.
            retry: when to send again; by default `RetryPolicy()`. `RetryPolicy(attempts=1)`: never.
            tls: certificates, where the system's do not do.
            headers: sent with every request (gRPC: as metadata), such as an API key.
            transport: carries the requests instead of what `url` names (for tests and special protocols).

        Raises:
            InvalidInput: an argument cannot be used.
            RequestError: tritonclient or tenacity is not installed.
        """
        self._builder = RequestBuilder(
            url,
            timeout=timeout,
            classification_model=classification_model,
            qa_model=qa_model,
            concurrency=concurrency,
            retry=retry,
        )
        self._retrying: Any = import_tenacity().Retrying
        connection = make_connection(self._builder.address, tls, headers)
        self._transport = transport or open_transport(connection)
        self._workers = Workers(self._builder.concurrency, self._builder.server)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._builder.server!r})"

    @overload
    def classify(self, text: str, **options: Unpack[ClassificationRequest]) -> Classification: ...

    @overload
    def classify(self, text: Texts, **options: Unpack[ClassificationRequest]) -> list[Classification]: ...

    def classify(
        self, text: str | Texts, **options: Unpack[ClassificationRequest]
    ) -> Classification | list[Classification]:
        """Classify one text, or several.

        Args:
            text: a text, or a list or tuple of texts, each as long as the server's `max_text_bytes` allows.
            **options: see `ClassificationRequest`.

        Returns:
            A `Classification`, or a list of them in the order of the texts.
        """
        texts, single = as_texts("text", text)
        factory = self._builder.classification(**options)
        return self._infer(factory.job(texts[0])) if single else self._infer_all(factory.jobs(texts))

    def classify_many(
        self, texts: Iterable[str], *, progress: bool = False, **options: Unpack[ClassificationRequest]
    ) -> Iterator[Classification]:
        """Classify any number of texts, and yield the results in order as they come.

        Texts are read as room comes free, at most four times `concurrency` ahead of the result that is
        waited for, so the collection need not fit into memory.

        Args:
            texts: any iterable of texts, also an endless one.
            progress: show a progress bar on standard error.
            **options: see `ClassificationRequest`.
        """
        return self._infer_many(texts, self._builder.classification(**options), progress, "texts")

    def classify_windows(self, text: str, **options: Unpack[ClassificationRequest]) -> WindowedClassification:
        """Classify one text, and return what each of its windows gave besides the combined result."""
        factory = self._builder.classification(**options).windowed(decode_windowed_classification)
        return self._infer(factory.job(text))

    @overload
    def answer(self, question: str, context: str, **options: Unpack[QuestionRequest]) -> list[Answer]: ...

    @overload
    def answer(
        self, question: str | Texts, context: Texts, **options: Unpack[QuestionRequest]
    ) -> list[list[Answer]]: ...

    @overload
    def answer(
        self, question: Texts, context: str, **options: Unpack[QuestionRequest]
    ) -> list[list[Answer]]: ...

    def answer(
        self, question: str | Texts, context: str | Texts, **options: Unpack[QuestionRequest]
    ) -> list[Answer] | list[list[Answer]]:
        """Answer a question about a context, or several of either.

        Args:
            question: a question, or a list or tuple of them.
            context: the text that answers it, or a list or tuple of them. A single question is put to each of
                several contexts, and several questions to a single context.
            **options: see `QuestionRequest`.

        Returns:
            The answers, best first; a list of such lists, in order, where several were asked.
        """
        pairs, single = as_pairs(question, context)
        factory = self._builder.question(**options)
        return self._infer(factory.job(pairs[0])) if single else self._infer_all(factory.jobs(pairs))

    def answer_many(
        self,
        questions: Iterable[tuple[str, str]],
        *,
        progress: bool = False,
        **options: Unpack[QuestionRequest],
    ) -> Iterator[list[Answer]]:
        """Answer any number of (question, context) pairs, and yield the answers in order as they come.

        See `classify_many` for how they are read.
        """
        return self._infer_many(questions, self._builder.question(**options), progress, "questions")

    def answer_windows(
        self, question: str, context: str, **options: Unpack[QuestionRequest]
    ) -> WindowedAnswers:
        """Answer one question, and return the best answers of each window besides those of all."""
        factory = self._builder.question(**options).windowed(decode_windowed_answers)
        return self._infer(factory.job((question, context)))

    def logits(
        self,
        input_ids: npt.ArrayLike,
        global_attention_mask: npt.ArrayLike | None = None,
        token_type_ids: npt.ArrayLike | None = None,
        **options: Unpack[CallKeywords],
    ) -> EncoderOutput:
        """Run one sequence of tokens through an encoder, for those who tokenize themselves.

        Args:
            input_ids: token ids `[tokens]`, special tokens included.
            global_attention_mask: 1 on tokens with global attention, else 0, `[tokens]`; None for a model
                without such attention (BERT, BigBird).
            token_type_ids: `[tokens]`, only for a model with several token types.
            **options: see `CallKeywords`; `model` is the encoder's name, by default that of
                `classification_model` with `_encoder`.

        Returns:
            float32 `logits` `[labels]`, or `start_logits` and `end_logits` `[tokens]`.
        """
        return self._infer(self._builder.logits(input_ids, global_attention_mask, token_type_ids, **options))

    def models(self, *, timeout: float | None = None) -> list[ServedModel]:
        """Return the server's models by name.

        A server whose repository index is closed is asked for its statistics, which name the loaded models.

        Raises:
            AccessDenied: both are closed; ask for a model by its name, or give the key as a header.
        """
        try:
            inquiry, answer = self._ask(Topic.INDEX, None, timeout)
        except AccessDenied:
            inquiry, answer = self._ask(Topic.STATISTICS, None, timeout)
            return read_statistics(answer, inquiry.at(self._builder.server))
        return read_index(answer, inquiry.at(self._builder.server))

    def labels(self, model: str | None = None, *, timeout: float | None = None) -> tuple[str, ...]:
        """Return the labels of a text model by index; none for question answering.

        Args:
            model: a text model; by default the client's `classification_model`.
            timeout: deadline in seconds.

        Raises:
            AccessDenied: the server keeps its models' configurations closed.
        """
        return read_labels(*self._configuration(model, timeout))

    def limits(self, model: str | None = None, *, timeout: float | None = None) -> ModelLimits:
        """Return what a text model or an encoder takes: lengths, batch and queue sizes, caps.

        Args:
            model: its name; by default the client's `classification_model`.
            timeout: deadline in seconds.

        Raises:
            AccessDenied: the server keeps its models' configurations closed.
        """
        return read_limits(*self._configuration(model, timeout))

    def server_ready(self, *, timeout: float = 5.0) -> bool:
        """Return whether the server answers within `timeout` seconds and says that it is ready."""
        self._workers.check_open()
        job = self._builder.inquiry(Topic.READY, None, timeout)
        try:
            return bool(self._transport.ask(job.inquiry, job.timeout))
        except RequestError:
            return False

    def wait_until_ready(self, timeout: float = 60.0, *, model: str | None = None) -> None:
        """Wait until the server is ready, or one of its models.

        Args:
            timeout: seconds to wait at most.
            model: wait for this model alone; by default for the server, which is ready when all models are.

        Raises:
            ServerUnavailable: not ready in time; the message says what it last answered.
        """
        self._workers.check_open()
        job = self._builder.inquiry(Topic.READY, model, timeout)
        settings = readiness_settings(job.timeout, job.inquiry.at(self._builder.server))
        self._retrying(**settings)(self._transport.ask, job.inquiry, min(5.0, job.timeout))

    def close(self) -> None:
        """Close the connections. Calls in flight on other threads may fail. May be called twice."""
        if self._workers.close():
            self._transport.close()

    def _infer(self, job: InferenceJob[_Result]) -> _Result:
        try:
            outputs = self._send(lambda timeout: self._transport.infer(job.call, timeout), job.timeout)
        except ModelNotFound as error:
            served = self._listed()
            if served is None:
                raise
            raise naming_models(error, served) from error
        return job.read(outputs, self._builder.server)

    def _listed(self) -> list[ServedModel] | None:
        try:
            return self.models(timeout=INDEX_SECONDS)
        except RequestError:  # it does not list them
            return None

    def _infer_all(self, jobs: list[InferenceJob[_Result]]) -> list[_Result]:
        self._workers.check_open()
        return list(in_order(self._workers.open(), jobs, self._infer, ahead=len(jobs)))

    def _infer_many(
        self, items: Iterable[_Item], factory: JobFactory[_Item, _Result], progress: bool, title: str
    ) -> Iterator[_Result]:
        self._workers.check_open()
        as_stream(title, items)

        def infer(numbered: tuple[int, _Item]) -> _Result:
            number, item = numbered
            return self._infer(factory.job(item, number))

        def results() -> Iterator[_Result]:
            with progress_bar(progress, title, size_of(items)) as advance:
                ahead = AHEAD * self._builder.concurrency
                with closing(in_order(self._workers.open(), enumerate(items), infer, ahead)) as answers:
                    for answer in answers:
                        advance()
                        yield answer

        return results()

    def _ask(self, topic: Topic, model: str | None, timeout: float | None) -> tuple[Inquiry, Any]:
        job = self._builder.inquiry(topic, model, timeout)
        return job.inquiry, self._send(lambda left: self._transport.ask(job.inquiry, left), job.timeout)

    def _configuration(self, model: str | None, timeout: float | None) -> tuple[Any, str]:
        """A model's configuration, and the words for it in an error."""
        name = self._builder.chosen(model, self._builder.classification_model)
        try:
            inquiry, config = self._ask(Topic.CONFIG, name, timeout)
        except AccessDenied as error:
            _, metadata = self._ask(Topic.METADATA, name, timeout)
            raise closed_configuration(error, metadata) from error
        return config, inquiry.at(self._builder.server)

    def _send(self, send: Callable[[float], _Result], timeout: float) -> _Result:
        """Send, and send again as the retry policy says, within one deadline."""
        self._workers.check_open()
        deadline = Deadline(timeout)
        result: _Result = self._retrying(**self._builder.retry.settings(timeout))(
            lambda: send(deadline.remaining())
        )
        return result
