"""The function of one batch: rows in, results out, by a bundle in this process or by a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from ..client import Client, Tls
from ..runtime.bundle import Bundle
from ..runtime.engine import EngineName, EngineSettings, encode, open_packed_engine
from ..runtime.errors import EngineError, InvalidInput, Refusal
from ..runtime.limits import TextLimits
from ..runtime.manifest import Task
from ..runtime.options import ClassificationOptions, QuestionAnsweringOptions
from ..runtime.packing import EncoderOutput, EncoderSequence
from ..runtime.pipeline import (
    ClassificationPipeline,
    PreparedQuestion,
    PreparedText,
    QuestionAnsweringPipeline,
    make_pipeline,
)
from ..runtime.results import Answer, Classification
from ..runtime.runs import plan_runs
from .settings import BatchSettings
from .sources import BadRow, Texts, texts_of
from .tables import Outcome, as_columns

__all__ = ["BundleScorer", "PreparedRows", "Scorer", "ServerScorer", "described_model"]


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Rows on their way through a scorer: what it made of each, or why it cannot be scored."""

    rows: tuple[PreparedText | PreparedQuestion | Texts | BadRow, ...]


class Scorer(Protocol):
    """Scores batches of rows in two steps, so that one can be prepared while another is computed."""

    @property
    def described(self) -> Mapping[str, Any]:
        """What computes the results, as far as it decides them: JSON values."""
        ...

    def prepare(self, rows: Sequence[Texts | BadRow]) -> PreparedRows:
        """Do what needs no encoder. A row that cannot be scored becomes a `BadRow`."""
        ...

    def score(self, prepared: PreparedRows) -> list[Outcome]:
        """Return the result of each row, in order.

        Raises:
            EngineError, RequestError: nothing can be computed; the rows are not to blame.
        """
        ...

    def close(self) -> None:
        """Let go of the model or the connection."""
        ...


def described_model(bundle: Bundle, engine: EngineSettings) -> dict[str, str | None]:
    """Return what decides the results of a bundle: its fingerprint, the engine and its arithmetic."""
    precision = engine.inference_precision
    return {
        "bundle": bundle.fingerprint,
        "engine": engine.engine.value,
        "inference_precision": None if precision is None else precision.value,
    }


class BundleScorer:
    """Runs a bundle in this process.

    The windows of all rows of a batch are sorted by length and packed into runs, longest first, so that
    sequences of one length stand together and the largest run comes first. Called with a batch of columns it
    returns one of columns: the function that Ray Data's `map_batches` and Spark's `predict_batch_udf` take.
    """

    def __init__(
        self,
        bundle: str | Path,
        settings: BatchSettings | None = None,
        *,
        engine: EngineName | EngineSettings | str = EngineName.ONNXRUNTIME,
        tokens_per_run: int | None = None,
        limits: TextLimits | None = None,
        verify: bool = True,
    ) -> None:
        """Open a bundle and load its model.

        Args:
            bundle: the bundle's directory.
            settings: what is read from each row; None: the defaults of the bundle's task, with a column
                `question` beside `text` for question answering.
            engine: what runs the model.
            tokens_per_run: most tokens of one run, which bounds the memory; None: the model's length.
            limits: the largest text to take.
            verify: check the hash of every file of the bundle.

        Raises:
            BundleError, EngineError: as `LocalClient`.
            InvalidInput: the settings are for another task, or a run could not hold one token.
        """
        opened = Bundle.open(bundle, verify=verify)
        self._manifest = opened.manifest
        self.settings = settings or _default_settings(opened.manifest.task)
        if self.settings.task is not opened.manifest.task:
            raise InvalidInput(
                f"the bundle {bundle} is for {opened.manifest.task.value}, not for "
                f"{self.settings.task.value}; give that task, or another bundle",
                reason=Refusal.OPTION,
            )
        if tokens_per_run is not None and tokens_per_run < 1:
            raise InvalidInput(f"tokens_per_run is {tokens_per_run}; give 1 or more", reason=Refusal.OPTION)
        self._options = self.settings.pipeline_options()
        self._pipeline = make_pipeline(opened.manifest, opened.tokenizer_path, limits)
        chosen = EngineSettings.of(engine)
        self._engine = open_packed_engine(opened, chosen)
        self._tokens_per_run = tokens_per_run or opened.manifest.max_length
        self._described = described_model(opened, chosen)

    @property
    def described(self) -> Mapping[str, Any]:
        """The bundle's fingerprint, the engine and its arithmetic."""
        return self._described

    @property
    def runs_on(self) -> str:
        """What the model really runs on."""
        return self._engine.runs_on

    def prepare(self, rows: Sequence[Texts | BadRow]) -> PreparedRows:
        """Tokenize the rows and cut them into windows."""
        return PreparedRows(tuple(row if isinstance(row, BadRow) else self._prepared(row) for row in rows))

    def score(self, prepared: PreparedRows) -> list[Outcome]:
        """Encode all windows and make the results."""
        rows = [row for row in prepared.rows if isinstance(row, PreparedText | PreparedQuestion)]
        sequences = [sequence for row in rows for sequence in row.sequences]
        outputs = iter(self.encode(sequences))
        outcomes: list[Outcome] = []
        for row in prepared.rows:
            if isinstance(row, PreparedText | PreparedQuestion):
                outcomes.append(self._finished(row, [next(outputs) for _ in row.sequences]))
            else:
                outcomes.append(row if isinstance(row, BadRow) else BadRow("the row was not prepared"))
        return outcomes

    def encode(self, sequences: Sequence[EncoderSequence]) -> list[EncoderOutput]:
        """Run sequences of any number and length, packed by length; their outputs are in order."""
        lengths = np.array([sequence.input_ids.size for sequence in sequences], dtype=np.int64)
        order = np.argsort(-lengths, kind="stable")
        outputs: dict[int, EncoderOutput] = {}
        for run in plan_runs(lengths[order].tolist(), self._tokens_per_run):
            indices = [int(order[position]) for position in run]
            encoded = encode(self._engine, [sequences[index] for index in indices], self._manifest)
            outputs.update(zip(indices, encoded, strict=True))
        return [outputs[index] for index in range(len(sequences))]

    def close(self) -> None:
        """Nothing is held but memory."""

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Score a batch of columns.

        Args:
            batch: the settings' text columns, each a sequence of strings.

        Returns:
            The columns of the results but `row`, as numpy arrays or lists, and the columns that are kept.
        """
        columns = [list(batch[name]) for name in self.settings.text_columns]
        rows = [texts_of(self.settings, values) for values in zip(*columns, strict=True)]
        outcomes = self.score(self.prepare(rows))
        kept = {name: batch[name] for name in self.settings.keep}
        return {**kept, **as_columns(self.settings.task, outcomes)}

    def _prepared(self, row: Texts) -> PreparedText | PreparedQuestion | BadRow:
        options = self._options
        try:
            if isinstance(self._pipeline, ClassificationPipeline):
                assert isinstance(options, ClassificationOptions)
                return self._pipeline.prepare(row[0], options)
            assert isinstance(options, QuestionAnsweringOptions)
            return self._pipeline.prepare(row[0], row[1], options)
        except InvalidInput as error:
            return BadRow(str(error))

    def _finished(
        self, row: PreparedText | PreparedQuestion, outputs: list[EncoderOutput]
    ) -> Classification | tuple[Answer, ...] | BadRow:
        try:
            if isinstance(row, PreparedText):
                assert isinstance(self._pipeline, ClassificationPipeline)
                return self._pipeline.finish(row, outputs)
            assert isinstance(self._pipeline, QuestionAnsweringPipeline)
            return self._pipeline.finish(row, outputs)
        except EngineError as error:  # an output that is not finite: this row's alone
            return BadRow(str(error))


class ServerScorer:
    """Asks a server's text model; the server packs what is under way."""

    def __init__(
        self,
        url: str,
        settings: BatchSettings,
        *,
        model: str | None = None,
        timeout: float | None = None,
        concurrency: int = 16,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Connect to a server.

        Args:
            url: `grpc://HOST:PORT` or `http://HOST:PORT`.
            settings: what is read from each row.
            model: the text model, if it is not the demo's.
            timeout: seconds until each row must have been answered, the client's default if not given.
            concurrency: requests under way.
            tls, headers: as for `Client`.

        Raises:
            RequestError: the address or its transport cannot be used.
        """
        self.settings = settings
        self._client = Client(url, tls=tls, headers=headers)
        self._remote: dict[str, Any] = {"model": model, "timeout": timeout}
        self._executor = ThreadPoolExecutor(concurrency, thread_name_prefix="longserve-batch")
        self._described = {"url": url, "model": model}

    def __enter__(self) -> ServerScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def described(self) -> Mapping[str, Any]:
        """Address and model. What the model is, only the server knows."""
        return self._described

    def prepare(self, rows: Sequence[Texts | BadRow]) -> PreparedRows:
        """Nothing to do: the server tokenizes."""
        return PreparedRows(tuple(rows))

    def score(self, prepared: PreparedRows) -> list[Outcome]:
        """Ask for every row; a row that the server refuses as input is a `BadRow`."""
        return list(self._executor.map(self._ask, prepared.rows))

    def close(self) -> None:
        """Close the connection."""
        self._executor.shutdown(cancel_futures=True)
        self._client.close()

    def _ask(self, row: object) -> Outcome:
        if isinstance(row, BadRow):
            return row
        assert isinstance(row, tuple)
        options: dict[str, Any] = {**self.settings.options, **self._remote}
        try:
            if self.settings.task is Task.TEXT_CLASSIFICATION:
                classified: Classification = self._client.classify(row[0], **options)
                return classified
            return tuple(self._client.answer(row[0], row[1], **options))
        except InvalidInput as error:
            return BadRow(str(error))


def _default_settings(task: Task) -> BatchSettings:
    return BatchSettings(task=task, question="question" if task is Task.QUESTION_ANSWERING else None)
