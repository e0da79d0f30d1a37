"""The client without a server: a bundle, run in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import overload

from ..runtime.bundle import Bundle
from ..runtime.engine import Engine, SessionSettings, encode, open_packed_engine
from ..runtime.errors import EngineError, InvalidInput
from ..runtime.manifest import Manifest
from ..runtime.options import ClassificationOptions, QuestionAnsweringOptions
from ..runtime.packing import EncoderOutput, EncoderSequence
from ..runtime.pipeline import (
    ClassificationPipeline,
    PreparedQuestion,
    PreparedText,
    QuestionAnsweringPipeline,
    make_pipeline,
    run,
)
from ..runtime.results import Answer, Classification
from ..runtime.runs import plan_runs
from .calls import Texts, as_pairs, as_texts, given_parameters, naming_text

__all__ = ["LocalClient"]


class LocalClient:
    """Runs a bundle in this process, with the methods of `Client` and the same results.

    It needs tokenizers and onnxruntime, and neither a server nor tritonclient. There is one model and no
    network, so the options `model` and `timeout` do not exist.
    """

    def __init__(
        self, bundle: str | Path, *, settings: SessionSettings | None = None, verify: bool = True
    ) -> None:
        """Open a bundle and load its model.

        Args:
            bundle: the bundle's directory.
            settings: ONNX Runtime settings: provider, threads.
            verify: check the hash of every file of the bundle.

        Raises:
            BundleError: the bundle cannot be used.
            EngineError: onnxruntime or tokenizers is missing, or cannot load the model.
        """
        opened = Bundle.open(bundle, verify=verify)
        self._path = opened.path
        self._manifest = opened.manifest
        self._pipeline = make_pipeline(opened.manifest, opened.tokenizer_path)
        self._engine: Engine | None = open_packed_engine(opened, settings)

    def __enter__(self) -> LocalClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LocalClient({str(self._path)!r})"

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self._manifest

    @overload
    def classify(
        self,
        text: str,
        *,
        top_k: int | None = None,
        function_to_apply: str | None = None,
        stride: int | None = None,
        window_combination: str | None = None,
    ) -> Classification: ...

    @overload
    def classify(
        self,
        text: Texts,
        *,
        top_k: int | None = None,
        function_to_apply: str | None = None,
        stride: int | None = None,
        window_combination: str | None = None,
    ) -> list[Classification]: ...

    def classify(
        self,
        text: str | Texts,
        *,
        top_k: int | None = None,
        function_to_apply: str | None = None,
        stride: int | None = None,
        window_combination: str | None = None,
    ) -> Classification | list[Classification]:
        """Classify one text, or several. Arguments and result are those of `Client.classify`.

        Raises:
            InvalidInput: a text or option cannot be used, or the bundle is no classifier's.
            EngineError: the run failed.
        """
        pipeline = self._pipeline
        if not isinstance(pipeline, ClassificationPipeline):
            raise InvalidInput(
                f"the bundle {self._path} answers questions; use answer(), or a classification bundle"
            )
        texts, single = as_texts("text", text)
        options = ClassificationOptions.from_parameters(
            given_parameters(
                top_k=top_k,
                function_to_apply=function_to_apply,
                stride=stride,
                window_combination=window_combination,
            )
        )
        prepared: list[PreparedText] = []
        for index, item in enumerate(texts):
            with naming_text(index, single):
                prepared.append(pipeline.prepare(item, options))
        results = run(pipeline, prepared, self._encode)
        return results[0] if single else results

    @overload
    def answer(
        self,
        question: str,
        context: str,
        *,
        top_k: int | None = None,
        max_answer_tokens: int | None = None,
        stride: int | None = None,
        handle_impossible_answer: bool | None = None,
    ) -> list[Answer]: ...

    @overload
    def answer(
        self,
        question: str | Texts,
        context: Texts,
        *,
        top_k: int | None = None,
        max_answer_tokens: int | None = None,
        stride: int | None = None,
        handle_impossible_answer: bool | None = None,
    ) -> list[list[Answer]]: ...

    @overload
    def answer(
        self,
        question: Texts,
        context: str,
        *,
        top_k: int | None = None,
        max_answer_tokens: int | None = None,
        stride: int | None = None,
        handle_impossible_answer: bool | None = None,
    ) -> list[list[Answer]]: ...

    def answer(
        self,
        question: str | Texts,
        context: str | Texts,
        *,
        top_k: int | None = None,
        max_answer_tokens: int | None = None,
        stride: int | None = None,
        handle_impossible_answer: bool | None = None,
    ) -> list[Answer] | list[list[Answer]]:
        """Answer a question about a context, or several of either. As `Client.answer`.

        Raises:
            InvalidInput: a text or option cannot be used, or the bundle answers no questions.
            EngineError: the run failed.
        """
        pipeline = self._pipeline
        if not isinstance(pipeline, QuestionAnsweringPipeline):
            raise InvalidInput(
                f"the bundle {self._path} classifies texts; use classify(), or a question-answering bundle"
            )
        pairs, single = as_pairs(question, context)
        options = QuestionAnsweringOptions.from_parameters(
            given_parameters(
                top_k=top_k,
                max_answer_tokens=max_answer_tokens,
                stride=stride,
                handle_impossible_answer=handle_impossible_answer,
            )
        )
        prepared: list[PreparedQuestion] = []
        for index, (asked, given) in enumerate(pairs):
            with naming_text(index, single):
                prepared.append(pipeline.prepare(asked, given, options))
        results = [list(answers) for answers in run(pipeline, prepared, self._encode)]
        return results[0] if single else results

    def server_ready(self) -> bool:
        """Return whether the model is loaded: it is until `close`."""
        return self._engine is not None

    def close(self) -> None:
        """Let go of the loaded model. May be called twice."""
        self._engine = None

    def _encode(self, sequences: Sequence[EncoderSequence]) -> list[EncoderOutput]:
        if self._engine is None:
            raise EngineError(f"the client of the bundle {self._path} is closed; open a new one")
        outputs: list[EncoderOutput] = []
        # No more tokens at once than one longest sequence has, which bounds the memory
        for indices in plan_runs([s.input_ids.size for s in sequences], self._manifest.max_length):
            outputs.extend(encode(self._engine, [sequences[i] for i in indices], self._manifest))
        return outputs
