"""The study's training, in small: it can be stopped and gone on with; BERT sees what it is served with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the models are trained with torch")

import evidence_models
import torch
from doc_pages import DOCS, ROOT
from evidence_models import BERT_WINDOW, Training
from evidence_study import tables, train
from evidence_tasks import TASKS


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence_models, "STEPS", {"base": 2, "local": 1, "scattered": 1, "far": 1})


def test_a_training_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    straight = Training(architecture="bert", stage="base")
    assert straight.run(60)
    stopped = Training(architecture="bert", stage="base")
    assert not stopped.run(60, most=1)
    stopped.save(tmp_path / "state.pt")
    gone_on = Training(architecture="bert", stage="base")
    gone_on.load(tmp_path / "state.pt")
    assert gone_on.step == 1 and gone_on.run(60)
    for name, value in straight.model.state_dict().items():
        torch.testing.assert_close(gone_on.model.state_dict()[name], value)


def test_all_tasks_are_trained_and_written(tmp_path: Path) -> None:
    assert not train(tmp_path, seed=1, seconds=0, architectures=["bert"])
    assert train(tmp_path, seed=1, seconds=60, architectures=["bert"])
    for task in TASKS:
        files = {path.name for path in (tmp_path / "checkpoints" / f"{task}-bert").iterdir()}
        assert files >= {"config.json", "model.safetensors", "tokenizer.json", "training.json"}


@pytest.mark.parametrize("architecture", ["bert", "longformer", "bigbird"])
def test_a_row_is_a_window_of_bert_and_a_document_of_the_others(architecture: str) -> None:
    training = Training(architecture=architecture, stage="far")
    batch = training.rows([TASKS["far"].write("a", 1300), TASKS["far"].write("b", 100)])
    width = batch.inputs["input_ids"].shape[1]
    if architecture == "bert":
        assert width <= BERT_WINDOW and batch.documents.tolist() == [0, 0, 0, 0, 1]
    else:
        assert width > 1200 and batch.documents.tolist() == [0, 1]
    assert batch.causes.shape == (2, 2) and batch.targets.shape == (2,)
    assert torch.isfinite(training.loss(batch))


def test_the_page_shows_the_results_that_are_committed() -> None:
    found = json.loads((ROOT / "benchmarks/results/evidence_study.json").read_text(encoding="utf-8"))
    assert tables(found) in (DOCS / "which-model.md").read_text(encoding="utf-8")
