"""The text model for Triton: texts in, labels or answers out (python backend).

It tokenizes, cuts long documents into windows, has them encoded by the encoder model and decodes. Windows of
several requests are at the encoder at the same time, one request each, so that its batcher packs them.

A request leaves Triton's queue at once and is answered through its response sender, so requests wait for each
other only here: as many as `max_queue_size`, each no longer than its timeout, and in fair turns for the
encoder. (Triton's own queue policy would have one batch wait for its longest document, and its batcher may
oversee for half a second that a model is free: `WaitForPayloadSlotAvailable` in core's
dynamic_batch_scheduler.cc.)
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from longserve_runtime.admission import QUEUE_FULL, Admission
from longserve_runtime.bundle import Bundle
from longserve_runtime.encoder_cache import EncoderCache
from longserve_runtime.errors import EngineError, InvalidInput, ServingError
from longserve_runtime.limits import TextLimits
from longserve_runtime.metrics import TextMetrics
from longserve_runtime.options import ClassificationOptions, QuestionAnsweringOptions
from longserve_runtime.packing import EncoderOutput, EncoderSequence, tensors_of
from longserve_runtime.pauses import PauseWatch
from longserve_runtime.pipeline import ClassificationPipeline, QuestionAnsweringPipeline, make_pipeline
from longserve_runtime.request_record import LOG_REQUESTS, Failure, Outcome, RequestRecord
from longserve_runtime.results import (
    Answer,
    Classification,
    WindowAnswers,
    WindowClassification,
    windows_to_json,
)
from longserve_runtime.rows import decode_texts, in_row
from longserve_runtime.turned_away import TurnedAwayWatch
from longserve_runtime.turns import Line, Turns, WaitedTooLong

_TOKENIZER = "tokenizer.json"
_EXPIRED = "Request timeout expired"
"""As Triton's own queue says it; clients know it."""
_UNAVAILABLE = (
    "Server is stopping",
    "Server not ready",
    "is not ready",
    "is not healthy",
    "Failed to obtain the health mutex",
)
"""What Triton says when it does not take a request (core: scheduler_utils.cc, dynamic_batch_scheduler.cc,
server.cc; python_backend: request_executor.cc, python_be.cc). A calling model gets it without its code, as
INTERNAL."""
_SAMPLE = "The model reads this once while it is loaded."
_HELD_TEXTS = 16
"""Bytes that are held at a time, in texts of the largest size."""
_SENDERS = 4
_MICROSECOND = 1e-6


class _EncoderRefused(ServingError):
    """The encoder answered with an error."""

    def __init__(self, error: Any) -> None:
        message = error.message()
        super().__init__(message)
        refused = any(phrase in message for phrase in _UNAVAILABLE)
        self.code = pb_utils.TritonError.UNAVAILABLE if refused else error.code()


class _Asked:
    """What a request asks, copied out of Triton's memory, which is not its own after `execute`.

    Attributes:
        texts: the elements of each input `[texts, 1]`.
        parameters: as JSON.
        timeout: seconds that it may take; None: as long as it needs.
        sender: takes the answer.
        line: its windows on their way to the encoder.
    """

    def __init__(self, request: Any) -> None:
        self.texts = {tensor.name(): list(tensor.as_numpy().reshape(-1)) for tensor in request.inputs()}
        self.parameters = request.parameters()
        self.timeout = request.timeout() * _MICROSECOND or None
        self.sender = request.get_response_sender()
        self.line = Line()

    @property
    def size(self) -> int:
        return sum(len(element) for elements in self.texts.values() for element in elements)


class TritonPythonModel:
    """Answers texts with the help of the encoder model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check the files against the manifest, load the tokenizer and tokenize a sample."""
        config = json.loads(args["model_config"])
        parameters = {key: entry["string_value"] for key, entry in config["parameters"].items()}
        directory = Path(args["model_repository"]) / args["model_version"]
        bundle = Bundle.open(directory, only={_TOKENIZER})
        self._encoder = parameters["encoder"]
        self._cache = EncoderCache(int(parameters.get("response_cache", "0")))
        self._turns = Turns(in_flight := int(parameters["max_in_flight"]))
        self._encoding = ThreadPoolExecutor(in_flight, thread_name_prefix="encoder")
        # A large text takes a second to tokenize, and its results as long: never on the event loop.
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._decoding = ThreadPoolExecutor(1, thread_name_prefix="decoder")
        self._sending = ThreadPoolExecutor(_SENDERS, thread_name_prefix="sender")
        # A metric that two threads increment at the same time ends Triton 2.51.
        self._reporting = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._queue_timeout = float(parameters["queue_timeout"])
        limits = TextLimits(
            max_text_bytes=int(parameters["max_text_bytes"]), max_windows=int(parameters["max_windows"])
        )
        self._admission = Admission(
            max_requests=int(parameters["max_queue_size"]), max_bytes=_HELD_TEXTS * limits.max_text_bytes
        )
        self._pipeline = make_pipeline(bundle.manifest, directory / _TOKENIZER, limits)
        if isinstance(self._pipeline, QuestionAnsweringPipeline):
            self._pipeline.prepare(_SAMPLE, _SAMPLE, QuestionAnsweringOptions())
            self._outputs = ["start_logits", "end_logits"]
        else:
            self._pipeline.prepare(_SAMPLE, ClassificationOptions())
            self._outputs = ["logits"]
        self._name, self._version = args["model_name"], args["model_version"]
        self._log_requests = os.environ.get(LOG_REQUESTS) == "1"
        self._metrics = TextMetrics(
            pb_utils.MetricFamily, {"model": self._name, "version": self._version}, bundle.described()
        )
        self._turned_away = TurnedAwayWatch.of_model(
            self._name, lambda count: self._reporting.submit(self._metrics.turn_away, count)
        )
        self._pauses = PauseWatch()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="requests", daemon=True)
        self._thread.start()

    def finalize(self) -> None:
        """Let go of the threads."""
        self._pauses.close()
        if self._turned_away is not None:
            self._turned_away.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for executor in (self._encoding, self._reading, self._decoding, self._sending):
            executor.shutdown(wait=False, cancel_futures=True)
        self._reporting.shutdown(cancel_futures=True)
        del self._metrics  # a metric that outlives its model ends the process with a fault of memory

    def execute(self, requests: list[Any]) -> None:
        """Take all requests, or refuse at once those that there is no room for. Answers follow."""
        with self._pauses.executing():
            for request in requests:
                asked, record = _Asked(request), RequestRecord(request.request_id())
                if self._admission.enter(asked.size):
                    self._reporting.submit(self._metrics.hold, 1)
                    asyncio.run_coroutine_threadsafe(self._serve(asked, record), self._loop)
                else:
                    record.end(Outcome.OVERLOADED)
                    self._sending.submit(self._send, asked, _unavailable(QUEUE_FULL), record)

    async def _serve(self, asked: _Asked, record: RequestRecord) -> None:
        """Answer one request; a bad one gets its error and does not touch the others."""
        give_up = self._loop.call_later(self._queue_timeout, asked.line.give_up)
        results: Sequence[Any] = await asyncio.gather(self._respond(asked, record), return_exceptions=True)
        result = results[0]
        give_up.cancel()
        response = _defect(result, record) if isinstance(result, BaseException) else result
        self._admission.leave(asked.size)
        self._reporting.submit(self._metrics.hold, -1)
        self._sending.submit(self._send, asked, response, record)

    def _send(self, asked: _Asked, response: Any, record: RequestRecord) -> None:
        record.stop()
        self._pauses.look()
        try:
            asked.sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except pb_utils.TritonModelException as error:
            pb_utils.Logger.log_error(f"a response could not be sent: {error}")
        self._reporting.submit(self._report, record)

    async def _respond(self, asked: _Asked, record: RequestRecord) -> Any:
        try:
            tensors = await asyncio.wait_for(self._answer(asked, record), asked.timeout)
        except InvalidInput as error:
            record.end(Outcome.REFUSED, error.reason)
            failure = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
        except (asyncio.TimeoutError, WaitedTooLong):
            record.end(Outcome.EXPIRED)
            return _unavailable(_EXPIRED)
        except _EncoderRefused as error:
            record.end(Outcome.FAILED, Failure.ENCODER)
            failure = pb_utils.TritonError(f"{self._encoder}: {error}", error.code)
        except EngineError as error:
            record.end(Outcome.FAILED, Failure.RESULT)
            pb_utils.Logger.log_error(f"{self._encoder}: {error}")
            failure = pb_utils.TritonError(str(error), pb_utils.TritonError.INTERNAL)
        else:
            record.end(Outcome.ANSWERED)
            return pb_utils.InferenceResponse(output_tensors=tensors)
        return pb_utils.InferenceResponse(error=failure)

    def _report(self, record: RequestRecord) -> None:
        self._metrics.count(record)
        if self._log_requests:
            pb_utils.Logger.log_info(record.to_json(self._name, self._version))

    async def _answer(self, asked: _Asked, record: RequestRecord) -> list[Any]:
        if isinstance(self._pipeline, QuestionAnsweringPipeline):
            return await self._answer_questions(self._pipeline, asked, record)
        return await self._classify(self._pipeline, asked, record)

    async def _classify(
        self, pipeline: ClassificationPipeline, asked: _Asked, record: RequestRecord
    ) -> list[Any]:
        options = ClassificationOptions.from_parameters(_parameters(asked))
        texts = decode_texts(asked.texts["TEXT"], "TEXT")
        prepared = await self._loop.run_in_executor(
            self._reading,
            lambda: [
                in_row(i, texts, pipeline.prepare, text, options, record) for i, text in enumerate(texts)
            ],
        )
        return await self._finish(prepared, asked, record, options, _classification_tensors)

    async def _answer_questions(
        self, pipeline: QuestionAnsweringPipeline, asked: _Asked, record: RequestRecord
    ) -> list[Any]:
        options = QuestionAnsweringOptions.from_parameters(_parameters(asked))
        pairs = list(
            zip(*(decode_texts(asked.texts[name], name) for name in ("QUESTION", "CONTEXT")), strict=True)
        )
        prepared = await self._loop.run_in_executor(
            self._reading,
            lambda: [
                in_row(i, pairs, pipeline.prepare, question, context, options, record)
                for i, (question, context) in enumerate(pairs)
            ],
        )
        counts = [(item.tokens, len(item.sequences)) for item in prepared]
        return await self._finish(
            prepared, asked, record, options, lambda answers: _answer_tensors(answers, counts)
        )

    async def _finish(
        self,
        prepared: Sequence[Any],
        asked: _Asked,
        record: RequestRecord,
        options: ClassificationOptions | QuestionAnsweringOptions,
        tensors: Callable[[Sequence[Any]], list[Any]],
    ) -> list[Any]:
        """Encode the rows that were prepared, decode one after the other, and make tensors of the results."""
        encoded = await asyncio.gather(*(self._encode(item.sequences, asked, record) for item in prepared))
        rows = zip(prepared, encoded, strict=True)
        windows = options.window_results
        finish = self._pipeline.finish_windows if windows else self._pipeline.finish
        results = [await self._decode(finish, item, outputs, record) for item, outputs in rows]
        if not windows:
            return tensors(results)
        own = await self._decode(_window_tensor, [result.windows for result in results])
        return [*tensors([result.combined for result in results]), own]

    def _decode(self, work: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        return self._loop.run_in_executor(self._decoding, work, *arguments)

    async def _encode(
        self, sequences: Sequence[EncoderSequence], asked: _Asked, record: RequestRecord
    ) -> list[EncoderOutput]:
        started = time.perf_counter()
        windows = [asyncio.ensure_future(self._encode_in_turn(sequence, asked)) for sequence in sequences]
        try:
            outputs = list(await asyncio.gather(*windows))
        except BaseException:
            for window in windows:
                window.cancel()
            raise
        record.encoded(time.perf_counter() - started)
        return outputs

    async def _encode_in_turn(self, sequence: EncoderSequence, asked: _Asked) -> EncoderOutput:
        await self._turns.take(asked.line)
        try:
            # `exec` waits in a thread of ours. (`async_exec` would use the loop's default ones: cores + 4.)
            return await self._loop.run_in_executor(self._encoding, self._encode_one, sequence)
        finally:
            self._turns.give_back()

    def _encode_one(self, sequence: EncoderSequence) -> EncoderOutput:
        # NVIDIA's onnxruntime backend knows no optional ragged input, so token types are always sent
        return self._cache.output_of(tensors_of(sequence, self._pipeline.manifest), self._ask_encoder)

    def _ask_encoder(self, inputs: Mapping[str, Any]) -> EncoderOutput:
        response = pb_utils.InferenceRequest(
            model_name=self._encoder,
            requested_output_names=self._outputs,
            inputs=[pb_utils.Tensor(name, array[np.newaxis]) for name, array in inputs.items()],
        ).exec()
        if response.has_error():
            raise _EncoderRefused(response.error())
        arrays = {
            name: pb_utils.get_output_tensor_by_name(response, name).as_numpy()[0].copy()
            for name in self._outputs
        }
        return EncoderOutput(**arrays)


def _defect(error: BaseException, record: RequestRecord) -> Any:
    """Answer a request that met a defect. Its message may hold user text, so only the place is logged."""
    where = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
    kind = type(error).__name__
    pb_utils.Logger.log_error(f"unexpected {kind} in request {record.shown_id!r}:\n{where}")
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"unexpected {kind}; see the server's log"))


def _unavailable(message: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.UNAVAILABLE))


def _parameters(asked: _Asked) -> dict[str, Any]:
    """The request's parameters without those that Triton itself adds."""
    given = json.loads(asked.parameters or "{}")
    return {name: value for name, value in given.items() if not name.startswith("triton_")}


def _classification_tensors(results: Sequence[Classification]) -> list[Any]:
    labels = [[label.encode() for label in result.scores] for result in results]
    scores = [list(result.scores.values()) for result in results]
    return [
        pb_utils.Tensor("LABEL", np.array(labels, dtype=np.object_)),
        pb_utils.Tensor("SCORE", np.array(scores, dtype=np.float32)),
        *_counts([(result.tokens, result.windows) for result in results]),
    ]


def _answer_tensors(results: Sequence[Sequence[Answer]], counts: Sequence[tuple[int, int]]) -> list[Any]:
    """All rows get the same number of answers; START -1 marks those that only fill a row up."""
    width = max(len(answers) for answers in results)
    shape = (len(results), width)
    texts = np.full(shape, b"", dtype=np.object_)
    scores = np.zeros(shape, dtype=np.float32)
    starts = np.full(shape, -1, dtype=np.int32)
    ends = np.full(shape, -1, dtype=np.int32)
    for row, answers in enumerate(results):
        for column, answer in enumerate(answers):
            texts[row, column] = answer.answer.encode()
            scores[row, column] = answer.score
            starts[row, column], ends[row, column] = answer.start, answer.end
    return [
        pb_utils.Tensor("ANSWER", texts),
        pb_utils.Tensor("SCORE", scores),
        pb_utils.Tensor("START", starts),
        pb_utils.Tensor("END", ends),
        *_counts(counts),
    ]


def _window_tensor(rows: Sequence[Sequence[WindowAnswers | WindowClassification]]) -> Any:
    elements = [windows_to_json(row).encode() for row in rows]
    return pb_utils.Tensor("WINDOW_RESULTS", np.array(elements, dtype=np.object_).reshape(-1, 1))


def _counts(counts: Sequence[tuple[int, int]]) -> list[Any]:
    array = np.array(counts, dtype=np.int32)
    return [
        pb_utils.Tensor("TOKENS", np.ascontiguousarray(array[:, :1])),
        pb_utils.Tensor("WINDOWS", np.ascontiguousarray(array[:, 1:])),
    ]
