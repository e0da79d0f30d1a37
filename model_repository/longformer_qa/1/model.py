"""The text model for Triton: texts in, labels or answers out (python backend).

It tokenizes, cuts long documents into windows, has them encoded by the encoder model and decodes. All windows
of all requests go to the encoder at the same time, one request each, so that its batcher packs them.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from longserve_runtime.bundle import Bundle
from longserve_runtime.errors import EngineError, InvalidInput, Refusal, ServingError
from longserve_runtime.limits import TextLimits
from longserve_runtime.metrics import TextMetrics
from longserve_runtime.options import ClassificationOptions, QuestionAnsweringOptions
from longserve_runtime.packing import EncoderOutput, EncoderSequence
from longserve_runtime.pipeline import ClassificationPipeline, QuestionAnsweringPipeline, make_pipeline
from longserve_runtime.request_record import LOG_REQUESTS, Failure, Outcome, RequestRecord
from longserve_runtime.results import Answer, Classification, WindowAnswers, WindowClassification

_TOKENIZER = "tokenizer.json"
_QUEUE_FULL = "Exceeds maximum queue size"
_UNAVAILABLE = (
    _QUEUE_FULL,
    "Server is stopping",
    "Server not ready",
    "is not ready",
    "is not healthy",
)
"""What Triton says when it does not take a request (core: scheduler_utils.cc, dynamic_batch_scheduler.cc,
server.cc; python_backend: request_executor.cc, python_be.cc). A calling model gets it without its code, as
INTERNAL."""
_SAMPLE = "The model reads this once while it is loaded."


class _EncoderRefused(ServingError):
    """The encoder answered with an error."""

    def __init__(self, error: Any) -> None:
        message = error.message()
        super().__init__(message)
        refused = any(phrase in message for phrase in _UNAVAILABLE)
        self.code = pb_utils.TritonError.UNAVAILABLE if refused else error.code()
        self.overloaded = _QUEUE_FULL in message


class TritonPythonModel:
    """Answers texts with the help of the encoder model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check the files against the manifest, load the tokenizer and tokenize a sample."""
        config = json.loads(args["model_config"])
        parameters = {key: entry["string_value"] for key, entry in config["parameters"].items()}
        directory = Path(args["model_repository"]) / args["model_version"]
        bundle = Bundle.open(directory, only={_TOKENIZER})
        self._encoder = parameters["encoder"]
        self._executor = ThreadPoolExecutor(int(parameters["max_in_flight"]), thread_name_prefix="encoder")
        limits = TextLimits(
            max_text_bytes=int(parameters["max_text_bytes"]), max_windows=int(parameters["max_windows"])
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
            pb_utils.MetricFamily,
            {"model": self._name, "version": self._version},
            bundle.described(),
        )

    def finalize(self) -> None:
        """Let go of the threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests; a bad one gets its error and does not touch the others."""
        records = [RequestRecord(request.request_id()) for request in requests]
        responses = await asyncio.gather(
            *(self._respond(request, record) for request, record in zip(requests, records, strict=True)),
            return_exceptions=True,
        )
        for record in records:
            self._report(record)
        return [
            _defect(item, record) if isinstance(item, BaseException) else item
            for item, record in zip(responses, records, strict=True)
        ]

    async def _respond(self, request: Any, record: RequestRecord) -> Any:
        try:
            response = pb_utils.InferenceResponse(output_tensors=await self._answer(request, record))
            record.end(Outcome.ANSWERED)
            return response
        except InvalidInput as error:
            record.end(Outcome.REFUSED, error.reason)
            failure = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
        except _EncoderRefused as error:
            if error.overloaded:
                record.end(Outcome.OVERLOADED)
            else:
                record.end(Outcome.FAILED, Failure.ENCODER)
            failure = pb_utils.TritonError(f"{self._encoder}: {error}", error.code)
        except EngineError as error:
            record.end(Outcome.FAILED, Failure.RESULT)
            pb_utils.Logger.log_error(f"{self._encoder}: {error}")
            failure = pb_utils.TritonError(str(error), pb_utils.TritonError.INTERNAL)
        finally:
            record.stop()
        return pb_utils.InferenceResponse(error=failure)

    def _report(self, record: RequestRecord) -> None:
        self._metrics.count(record)
        if self._log_requests:
            pb_utils.Logger.log_info(record.to_json(self._name, self._version))

    async def _answer(self, request: Any, record: RequestRecord) -> list[Any]:
        if isinstance(self._pipeline, QuestionAnsweringPipeline):
            return await self._answer_questions(self._pipeline, request, record)
        return await self._classify(self._pipeline, request, record)

    async def _classify(
        self, pipeline: ClassificationPipeline, request: Any, record: RequestRecord
    ) -> list[Any]:
        options = ClassificationOptions.from_parameters(_parameters(request))
        texts = _texts(request, "TEXT")
        prepared = [
            _in_row(i, texts, pipeline.prepare, text, options, record) for i, text in enumerate(texts)
        ]
        encoded = await asyncio.gather(*(self._encode(item.sequences, record) for item in prepared))
        rows = list(zip(prepared, encoded, strict=True))
        if not options.window_results:
            return _classification_tensors([pipeline.finish(item, outputs, record) for item, outputs in rows])
        results = [pipeline.finish_windows(item, outputs, record) for item, outputs in rows]
        tensors = _classification_tensors([result.combined for result in results])
        return [*tensors, _window_tensor([result.windows for result in results])]

    async def _answer_questions(
        self, pipeline: QuestionAnsweringPipeline, request: Any, record: RequestRecord
    ) -> list[Any]:
        options = QuestionAnsweringOptions.from_parameters(_parameters(request))
        questions, contexts = _texts(request, "QUESTION"), _texts(request, "CONTEXT")
        prepared = [
            _in_row(i, questions, pipeline.prepare, question, context, options, record)
            for i, (question, context) in enumerate(zip(questions, contexts, strict=True))
        ]
        encoded = await asyncio.gather(*(self._encode(item.sequences, record) for item in prepared))
        rows = list(zip(prepared, encoded, strict=True))
        counts = [(item.tokens, len(item.sequences)) for item in prepared]
        if not options.window_results:
            return _answer_tensors([pipeline.finish(item, outputs, record) for item, outputs in rows], counts)
        results = [pipeline.finish_windows(item, outputs, record) for item, outputs in rows]
        tensors = _answer_tensors([result.combined for result in results], counts)
        return [*tensors, _window_tensor([result.windows for result in results])]

    async def _encode(
        self, sequences: Sequence[EncoderSequence], record: RequestRecord
    ) -> list[EncoderOutput]:
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        # `exec` waits in a thread of ours. (`async_exec` would use the loop's default threads: cores + 4.)
        calls = [loop.run_in_executor(self._executor, self._encode_one, sequence) for sequence in sequences]
        try:
            outputs = list(await asyncio.gather(*calls))
        except BaseException:
            for call in calls:
                call.cancel()
            raise
        record.encoded(time.perf_counter() - started)
        return outputs

    def _encode_one(self, sequence: EncoderSequence) -> EncoderOutput:
        inputs = [
            ("input_ids", sequence.input_ids),
            ("global_attention_mask", sequence.global_attention_mask),
        ]
        if self._pipeline.manifest.type_vocab_size > 1:
            # NVIDIA's onnxruntime backend knows no optional ragged input, so it is always sent.
            types = sequence.token_type_ids
            inputs.append(("token_type_ids", np.zeros_like(sequence.input_ids) if types is None else types))
        response = pb_utils.InferenceRequest(
            model_name=self._encoder,
            requested_output_names=self._outputs,
            inputs=[pb_utils.Tensor(name, array[np.newaxis]) for name, array in inputs],
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


def _parameters(request: Any) -> dict[str, Any]:
    """The request's parameters without those that Triton itself adds."""
    given = json.loads(request.parameters() or "{}")
    return {name: value for name, value in given.items() if not name.startswith("triton_")}


def _texts(request: Any, name: str) -> list[str]:
    """Decode an input `[texts, 1]`.

    Raises:
        InvalidInput: an element is not UTF-8.
    """
    elements = pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)
    texts = []
    for index, element in enumerate(elements):
        try:
            texts.append(element.decode("utf-8"))
        except UnicodeDecodeError as error:
            row = f" in row {index}" if len(elements) > 1 else ""
            raise InvalidInput(
                f"{name}{row} is not UTF-8: {error.reason} at byte {error.start}; encode the text as UTF-8",
                reason=Refusal.NOT_TEXT,
            ) from None
    return texts


def _in_row(index: int, rows: Sequence[str], prepare: Any, *arguments: Any) -> Any:
    """Call `prepare`, naming the row in its error where there are several."""
    try:
        return prepare(*arguments)
    except InvalidInput as error:
        if len(rows) == 1:
            raise
        raise InvalidInput(f"row {index}: {error}", reason=error.reason) from None


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
    """What each window gave, as JSON: the windows of a row differ in number, which no tensor can hold."""
    elements = [json.dumps([_window(item) for item in row], ensure_ascii=False).encode() for row in rows]
    return pb_utils.Tensor("WINDOW_RESULTS", np.array(elements, dtype=np.object_).reshape(-1, 1))


def _window(result: WindowAnswers | WindowClassification) -> dict[str, Any]:
    """One element of `WINDOW_RESULTS`; `serving/client/calls.py` reads it."""
    place = {"start": result.start, "end": result.end, "tokens": result.tokens}
    if isinstance(result, WindowClassification):
        return {**place, "scores": dict(result.scores)}
    answers = [{"answer": a.answer, "score": a.score, "start": a.start, "end": a.end} for a in result.answers]
    return {**place, "answers": answers}


def _counts(counts: Sequence[tuple[int, int]]) -> list[Any]:
    array = np.array(counts, dtype=np.int32)
    return [
        pb_utils.Tensor("TOKENS", np.ascontiguousarray(array[:, :1])),
        pb_utils.Tensor("WINDOWS", np.ascontiguousarray(array[:, 1:])),
    ]
