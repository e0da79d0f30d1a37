"""What a bulk run reads from each row and how it is scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..runtime.errors import InvalidInput, Refusal
from ..runtime.manifest import Task
from ..runtime.options import ClassificationOptions, ParameterValue, QuestionAnsweringOptions

__all__ = ["BatchSettings", "DEFAULT_CHUNK_ROWS", "RESULT_COLUMNS"]

DEFAULT_CHUNK_ROWS = 512
RESULT_COLUMNS: Mapping[Task, tuple[str, ...]] = {
    Task.TEXT_CLASSIFICATION: ("row", "label", "score", "scores", "tokens", "windows", "error"),
    Task.QUESTION_ANSWERING: (
        "row",
        "answer",
        "score",
        "start",
        "end",
        "answers",
        "tokens",
        "windows",
        "error",
    ),
}
"""The columns that a run writes, besides those that it keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """How the rows of a file are scored.

    Attributes:
        task: what is done with them.
        text: column of the text to classify, or of the context that answers are looked for in.
        question: column of the question, for question answering.
        asked: one question for every row, in place of a column.
        keep: columns of the input to repeat in the output.
        options: the task's options by name, as `ClassificationOptions` or `QuestionAnsweringOptions` take
            them; `window_results` has no place in a table and is refused.
        chunk_rows: rows that are read, scored and secured together: what a crash can cost, and what is
            sorted by length.

    Raises:
        InvalidInput: a column that is named twice or like a result's, an option that the task does not take,
            or a question for a task that has none.
    """

    task: Task
    text: str = "text"
    question: str | None = None
    asked: str | None = None
    keep: tuple[str, ...] = ()
    options: Mapping[str, ParameterValue] = field(default_factory=dict)
    chunk_rows: int = DEFAULT_CHUNK_ROWS

    def __post_init__(self) -> None:
        if self.chunk_rows < 1:
            raise InvalidInput(f"chunk_rows is {self.chunk_rows}; give 1 or more", reason=Refusal.OPTION)
        self._check_question()
        taken = sorted({name for name in self.keep if name in RESULT_COLUMNS[self.task]})
        if taken:
            raise InvalidInput(
                f"the column {', '.join(taken)} cannot be kept: the results have a column of that name; "
                "rename it in the input",
                reason=Refusal.OPTION,
            )
        if len(set(self.keep)) != len(self.keep):
            raise InvalidInput("a column is to be kept twice; name each once", reason=Refusal.OPTION)
        if "window_results" in self.options:
            raise InvalidInput("window_results does not fit a table; leave it out", reason=Refusal.OPTION)
        self.pipeline_options()

    def pipeline_options(self) -> ClassificationOptions | QuestionAnsweringOptions:
        """Return the options as the task's pipeline takes them."""
        if self.task is Task.TEXT_CLASSIFICATION:
            return ClassificationOptions.from_parameters(self.options)
        return QuestionAnsweringOptions.from_parameters(self.options)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that are read for scoring: the text, or the question (if it has a column) and it."""
        return (self.text,) if self.question is None else (self.question, self.text)

    def described(self) -> dict[str, Any]:
        """Return everything that decides what the results are, for comparing two runs."""
        described = asdict(self)
        described["task"] = self.task.value
        described["keep"] = list(self.keep)
        return described

    def _check_question(self) -> None:
        if self.task is Task.TEXT_CLASSIFICATION:
            if self.question is not None or self.asked is not None:
                raise InvalidInput("a classifier is asked no question; leave it out", reason=Refusal.OPTION)
        elif (self.question is None) == (self.asked is None):
            raise InvalidInput(
                "question answering needs either a column of questions or one question for every row",
                reason=Refusal.OPTION,
            )
