"""Another architecture is one class and one registration: the example of docs/extending.md, run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from checkpoints import make_small, train_wordpiece

from longserve.export import UnsupportedModel, export_bundle
from longserve.export.architectures import architecture_of, registry, supported_model_types
from longserve.export.checkpoint import load_checkpoint
from longserve.serving import LocalClient
from longserve.serving.runtime.manifest import Task

PAGE = Path(__file__).parents[3] / "docs" / "extending.md"


@pytest.fixture
def with_electra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the page's code; what it registers is forgotten afterwards."""
    monkeypatch.setattr(registry, "_BY_MODEL_TYPE", dict(registry._BY_MODEL_TYPE))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "extension"})


def electra(directory: Path, **config: int) -> Path:
    sizes = {"hidden_size": 32, "embedding_size": 32, "max_position_embeddings": 40, "num_hidden_layers": 1}
    size = train_wordpiece(directory)
    model = make_small("ElectraForQuestionAnswering", **{**sizes, "vocab_size": size, **config})
    model.save_pretrained(directory)
    return directory


def test_it_is_exported_proved_and_asked(with_electra: None, tmp_path: Path) -> None:
    result = export_bundle(str(electra(tmp_path / "reader")), Task.QUESTION_ANSWERING, tmp_path / "bundle")
    assert result.manifest.architecture == "electra"
    assert result.parity is not None and result.parity.worst.max_relative <= 1e-5
    context = "Every invoice of the Northern harbour was paid in silver. " * 6
    with LocalClient(str(result.path)) as client:
        (answer,) = client.answer("what was paid", context)
    assert answer.windows > 1 and answer.answer == context[answer.start : answer.end]


def test_it_refuses_what_it_cannot_export(with_electra: None, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="embedding_size 16 and hidden_size 32"):
        load_checkpoint(str(electra(tmp_path, embedding_size=16)), Task.QUESTION_ANSWERING)


def test_without_the_registration_it_is_refused_with_the_list_of_those_that_are_exported(
    tmp_path: Path,
) -> None:
    with pytest.raises(UnsupportedModel, match="is a electra model; longserve exports bert, big_bird, longf"):
        load_checkpoint(str(electra(tmp_path)), Task.QUESTION_ANSWERING)
    with pytest.raises(UnsupportedModel, match="there is no architecture led"):
        architecture_of("led")


def test_the_page_lists_the_architectures_that_there_are() -> None:
    table = PAGE.read_text(encoding="utf-8").split("## What the module says")[0]
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall("`([^`]+)`", row)
    }
    assert named - {"model_type"} == set(supported_model_types())
