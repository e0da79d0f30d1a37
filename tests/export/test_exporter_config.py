"""Tasks by the names that users give them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from longserve.export.errors import TaskMismatch
from longserve.export.exporter_config import parse_task
from longserve.serving.runtime.manifest import Task

NAMES = {
    Task.TEXT_CLASSIFICATION: ("classification", "sequence-classification", "sentiment-analysis"),
    Task.QUESTION_ANSWERING: ("qa",),
}


@pytest.mark.parametrize("task", Task)
def test_synonyms_are_those_of_the_help(
    longserve: Callable[..., tuple[object, str, str]], task: Task
) -> None:
    shown = "".join(longserve("export", "--help")[1].split())
    for name in (task.value, *NAMES[task]):
        assert parse_task(name) is task
    assert f"{task.value}(also:{','.join(NAMES[task])})" in shown


@pytest.mark.parametrize("name", ["fill-mask", "masked-lm", "", "nonsense"])
def test_another_task(name: str) -> None:
    with pytest.raises(TaskMismatch, match=f"the task '{name}' .* choose text-classification, question-answ"):
        parse_task(name)
