"""The client without a server: a bundle, run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, overload

from ..runtime.bundle import Bundle
from ..runtime.engine import Engine, EngineName, EngineSettings, encode, open_packed_engine
from ..runtime.errors import EngineError, InvalidInput
from ..runtime.limits import TextLimits
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
from ..runtime.results import Answer, Classification, WindowedAnswers, WindowedClassification
from ..runtime.runs import plan_runs
from .calls import Texts, as_pair, as_pairs, as_row, as_stream, as_texts, given_parameters, naming_text
from .keywords import ClassificationKeywords, QuestionKeywords, taking
from .streaming import progress_bar, size_of

if TYPE_CHECKING:
    import numpy.typing as npt

    if sys.version_info >= (3, 11):
        from typing import Unpack
    else:
        from typing_extensions import Unpack

__all__ = ["LocalClient"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class LocalClient:
    """Runs a bundle in this process, with the methods of `Client` and the same results.

    It needs tokenizers and an engine (onnxruntime, openvino), and neither a server nor tritonclient. There is
    one model and no network, so the options of `CallKeywords` do not exist. All methods raise `InvalidInput`
    for a text or option that cannot be used, or for texts given to a bundle of the other task or without
    tokenizer, and `EngineError` if a run fails.
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        engine: EngineName | EngineSettings | str = EngineName.ONNXRUNTIME,
        limits: TextLimits | None = None,
        verify: bool = True,
    ) -> None:
        """Open a bundle and load its model.

        Args:
            bundle: the bundle's directory.
            engine: what runs the model: `onnxruntime` or `openvino`, or settings that also say how.
            limits: the largest text to take; by default `TextLimits()`.
            verify: check the hash of every file of the bundle.

        Raises:
            BundleError: the bundle cannot be used.
            EngineError: the engine or tokenizers is missing, or the engine cannot load the model.
        """
        opened = Bundle.open(bundle, verify=verify)
        self._path = opened.path
        self._manifest = opened.manifest
        self._pipeline: ClassificationPipeline | QuestionAnsweringPipeline | None = None
        if opened.manifest.has_tokenizer:
            self._pipeline = make_pipeline(opened.manifest, opened.tokenizer_path, limits)
        self._engine: Engine | None = open_packed_engine(opened, EngineSettings.of(engine))

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

    @property
    def runs_on(self) -> str:
        """What the model really runs on, e.g. `onnxruntime CPUExecutionProvider` or `openvino CPU bf16`."""
        return self._loaded().runs_on

    @overload
    def classify(self, text: str, **options: Unpack[ClassificationKeywords]) -> Classification: ...

    @overload
    def classify(self, text: Texts, **options: Unpack[ClassificationKeywords]) -> list[Classification]: ...

    def classify(
        self, text: str | Texts, **options: Unpack[ClassificationKeywords]
    ) -> Classification | list[Classification]:
        """Classify one text, or several. As `Client.classify`."""
        pipeline, chosen = self._classifier(), _classification_options(**options)
        texts, single = as_texts("text", text)
        prepared: list[PreparedText] = []
        for index, item in enumerate(texts):
            with naming_text(index, single):
                prepared.append(pipeline.prepare(item, chosen))
        results = run(pipeline, prepared, self._encode)
        return results[0] if single else results

    def classify_many(
        self, texts: Iterable[str], *, progress: bool = False, **options: Unpack[ClassificationKeywords]
    ) -> Iterator[Classification]:
        """Classify any number of texts, one after the other. As `Client.classify_many`."""
        pipeline, chosen = self._classifier(), _classification_options(**options)

        def classify(text: str) -> Classification:
            (result,) = run(pipeline, [pipeline.prepare(text, chosen)], self._encode)
            return result

        return _each(as_stream("texts", texts), classify, progress, "texts")

    def classify_windows(
        self, text: str, **options: Unpack[ClassificationKeywords]
    ) -> WindowedClassification:
        """Classify one text, and return what each of its windows gave. As `Client.classify_windows`."""
        pipeline = self._classifier()
        prepared = pipeline.prepare(text, _classification_options(**options))
        return pipeline.finish_windows(prepared, self._encode(prepared.sequences))

    @overload
    def answer(self, question: str, context: str, **options: Unpack[QuestionKeywords]) -> list[Answer]: ...

    @overload
    def answer(
        self, question: str | Texts, context: Texts, **options: Unpack[QuestionKeywords]
    ) -> list[list[Answer]]: ...

    @overload
    def answer(
        self, question: Texts, context: str, **options: Unpack[QuestionKeywords]
    ) -> list[list[Answer]]: ...

    def answer(
        self, question: str | Texts, context: str | Texts, **options: Unpack[QuestionKeywords]
    ) -> list[Answer] | list[list[Answer]]:
        """Answer a question about a context, or several of either. As `Client.answer`."""
        pipeline, chosen = self._reader(), _question_options(**options)
        pairs, single = as_pairs(question, context)
        prepared: list[PreparedQuestion] = []
        for index, (asked, given) in enumerate(pairs):
            with naming_text(index, single):
                prepared.append(pipeline.prepare(asked, given, chosen))
        results = [list(answers) for answers in run(pipeline, prepared, self._encode)]
        return results[0] if single else results

    def answer_many(
        self,
        questions: Iterable[tuple[str, str]],
        *,
        progress: bool = False,
        **options: Unpack[QuestionKeywords],
    ) -> Iterator[list[Answer]]:
        """Answer any number of (question, context) pairs one after the other. As `Client.answer_many`."""
        pipeline, chosen = self._reader(), _question_options(**options)

        def answer(pair: tuple[str, str]) -> list[Answer]:
            (result,) = run(pipeline, [pipeline.prepare(*as_pair(pair), chosen)], self._encode)
            return list(result)

        return _each(as_stream("questions", questions), answer, progress, "questions")

    def answer_windows(
        self, question: str, context: str, **options: Unpack[QuestionKeywords]
    ) -> WindowedAnswers:
        """Answer one question, with the best answers of each window. As `Client.answer_windows`."""
        pipeline = self._reader()
        prepared = pipeline.prepare(question, context, _question_options(**options))
        return pipeline.finish_windows(prepared, self._encode(prepared.sequences))

    def logits(
        self,
        input_ids: npt.ArrayLike,
        global_attention_mask: npt.ArrayLike | None = None,
        token_type_ids: npt.ArrayLike | None = None,
    ) -> EncoderOutput:
        """Run one sequence of tokens, each argument `[tokens]`. As `Client.logits`."""
        sequence = EncoderSequence(
            input_ids=as_row("input_ids", input_ids),
            global_attention_mask=None
            if global_attention_mask is None
            else as_row("global_attention_mask", global_attention_mask),
            token_type_ids=None if token_type_ids is None else as_row("token_type_ids", token_type_ids),
        )
        (output,) = self._encode([sequence])
        return output

    def labels(self) -> tuple[str, ...]:
        """Return the labels by index; none for question answering."""
        return self._manifest.labels

    def server_ready(self) -> bool:
        """Return whether the model is loaded: it is until `close`."""
        return self._engine is not None

    def close(self) -> None:
        """Let go of the loaded model. May be called twice."""
        self._engine = None

    def _classifier(self) -> ClassificationPipeline:
        self._check_tokenizer()
        if not isinstance(self._pipeline, ClassificationPipeline):
            raise InvalidInput(
                f"the bundle {self._path} answers questions; use answer(), or a classification bundle"
            )
        return self._pipeline

    def _reader(self) -> QuestionAnsweringPipeline:
        self._check_tokenizer()
        if not isinstance(self._pipeline, QuestionAnsweringPipeline):
            raise InvalidInput(
                f"the bundle {self._path} classifies texts; use classify(), or a question-answering bundle"
            )
        return self._pipeline

    def _check_tokenizer(self) -> None:
        if self._pipeline is None:
            raise InvalidInput(
                f"the bundle {self._path} has no tokenizer.json, so it takes token ids alone: use logits(), "
                "or export it again from a checkpoint with a tokenizer"
            )

    def _loaded(self) -> Engine:
        if self._engine is None:
            raise EngineError(f"the client of the bundle {self._path} is closed; open a new one")
        return self._engine

    def _encode(self, sequences: Sequence[EncoderSequence]) -> list[EncoderOutput]:
        engine = self._loaded()
        outputs: list[EncoderOutput] = []
        # No more tokens at once than one longest sequence has, which bounds the memory
        for indices in plan_runs([s.input_ids.size for s in sequences], self._manifest.max_length):
            outputs.extend(encode(engine, [sequences[i] for i in indices], self._manifest))
        return outputs


@taking(ClassificationKeywords)
def _classification_options(
    *,
    top_k: int | None = None,
    function_to_apply: str | None = None,
    stride: int | None = None,
    window_combination: str | None = None,
) -> ClassificationOptions:
    return ClassificationOptions.from_parameters(
        given_parameters(
            top_k=top_k,
            function_to_apply=function_to_apply,
            stride=stride,
            window_combination=window_combination,
        )
    )


@taking(QuestionKeywords)
def _question_options(
    *,
    top_k: int | None = None,
    max_answer_tokens: int | None = None,
    stride: int | None = None,
    handle_impossible_answer: bool | None = None,
) -> QuestionAnsweringOptions:
    return QuestionAnsweringOptions.from_parameters(
        given_parameters(
            top_k=top_k,
            max_answer_tokens=max_answer_tokens,
            stride=stride,
            handle_impossible_answer=handle_impossible_answer,
        )
    )


def _each(
    items: Iterable[_Item], run_one: Callable[[_Item], _Result], progress: bool, title: str
) -> Iterator[_Result]:
    with progress_bar(progress, title, size_of(items)) as advance:
        for index, item in enumerate(items):
            with naming_text(index):
                result = run_one(item)
            advance()
            yield result
