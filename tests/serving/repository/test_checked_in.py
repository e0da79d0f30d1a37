"""The demo's repository in git is what the builder writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from longserve.serving import Task
from longserve.serving.repository import RepositoryOptions, build_repository
from longserve.serving.runtime.manifest import TensorSpec

from .conftest import make_manifest

ROOT = Path(__file__).parents[3]
CHECKED_IN = ROOT / "model_repository"
DEMO = {
    "longformer_classification": (Task.TEXT_CLASSIFICATION, "longformer-tiny-classification"),
    "longformer_qa": (Task.QUESTION_ANSWERING, "longformer-tiny-qa"),
}
KEPT = ("config.pbtxt", "1/model.py")


def changes_of(checkpoint: Path) -> dict[str, Any]:
    """What of a demo checkpoint its Triton configuration depends on, as manifest fields."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    changes: dict[str, Any] = {
        "max_length": config["max_position_embeddings"] - 2,
        "vocab_size": config["vocab_size"],
        "type_vocab_size": config["type_vocab_size"],
    }
    if "id2label" in config and "ForSequenceClassification" in config["architectures"][0]:
        labels = tuple(config["id2label"].values())
        (graph,) = make_manifest().graphs
        logits = TensorSpec(name="logits", dtype="float32", axes=("batch", len(labels)))
        changes |= {"labels": labels, "graphs": (replace(graph, outputs=(logits,)),)}
    return changes


@pytest.mark.parametrize("name", DEMO)
def test_the_checked_in_files_equal_what_the_builder_writes(
    name: str, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    task, directory = DEMO[name]
    bundle = make_bundle("bundle", task, **changes_of(ROOT / "examples" / "checkpoints" / directory))
    built = build_repository(bundle, name, tmp_path / "repository", RepositoryOptions(portable=True))
    assert built.text is not None
    for model in (built.encoder, built.text):
        for file in KEPT:
            assert (CHECKED_IN / model.name / file).read_text() == (model / file).read_text(), (
                f"model_repository/{model.name}/{file} is stale: build it with "
                f"`longserve repo bundles/{name} --name {name} --portable` and commit it"
            )
