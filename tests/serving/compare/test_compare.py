"""Whole comparisons of real bundles: what is true of the documents comes out."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from longserve.serving import BundleNotFound, LocalClient
from longserve.serving.cli.compare import compare_command
from longserve.serving.compare import (
    CompareError,
    CompareSettings,
    Comparison,
    LabelMismatch,
    ModelsError,
    compare,
)
from longserve.serving.compare.evidence import Place, Reach
from longserve.serving.measurement import MeasurementError
from longserve.serving.runtime.bundle import file_sha256

WORDS = ("the", "quick", "brown", "fox", "jumps", "invoice", "northern", "harbour", "silver", "lanterns")
SETTINGS = CompareSettings(threads=1)


def texts(count: int) -> list[str]:
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.choice((4, 60, 300, 700)))) for _ in range(count)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def labelled(classification_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts whose right labels are what the bundle says; in each other one evidence at both ends."""
    with LocalClient(classification_bundle) as client:
        rows = []
        for index, text in enumerate(texts(40)):
            row = {"text": text, "label": client.classify(text).label}
            if index % 2:
                row["evidence"] = [[0, 3], [len(text) - 3, len(text)]]
            rows.append(row)
    return write_rows(tmp_path_factory.mktemp("docs") / "labelled.jsonl", rows)


@pytest.fixture(scope="module")
def mistaken(classification_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with its labels' names moved on by one: never right."""
    target = tmp_path_factory.mktemp("bundles") / "mistaken"
    shutil.copytree(classification_bundle, target)
    manifest = target / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["labels"] = content["labels"][1:] + content["labels"][:1]
    manifest.write_text(json.dumps(content), encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def comparison(labelled: Path, classification_bundle: Path, mistaken: Path) -> Comparison:
    return compare(labelled, [f"right={classification_bundle}", str(mistaken)], SETTINGS)


def test_the_right_model_is_right_and_recommended(comparison: Comparison) -> None:
    right, wrong = comparison.models
    assert (right.name, wrong.name) == ("right", "mistaken")
    assert right.metrics == {"macro-F1": 1.0, "accuracy": 1.0} and right.behind is None
    assert wrong.metrics["accuracy"] == 0.0
    assert wrong.behind is not None and wrong.behind.low == 1.0 and wrong.behind.p_value < 1e-9
    assert comparison.recommendation.model == "right" and comparison.recommendation.firm


def test_evidence_is_looked_for_where_the_rows_say(comparison: Comparison) -> None:
    assert comparison.unknown_evidence == 20
    for model in comparison.models:
        assert model.by_place[Place.SPREAD].documents == 20 and len(model.by_place) == 1
        whole = model.by_reach[Reach.FIRST_WINDOW].documents
        assert whole + model.by_reach[Reach.NO_WINDOW].documents == 20 and 0 < whole < 20
        assert model.windowed > 0 and model.mean_windows > 1


def test_costs_are_measured(comparison: Comparison) -> None:
    assert sum(comparison.lengths.values()) == comparison.documents == 40
    longest = list(comparison.lengths)[-1]
    assert longest.startswith(("1025", "2049")) and next(iter(comparison.lengths)) == "1 to 128"
    for model in comparison.models:
        assert {name: spread.samples for name, spread in model.latency.items()} == comparison.lengths
        assert model.latency[longest].median > 2 * model.latency["1 to 128"].median > 0
        assert 0 < model.latency[longest].p10 <= model.latency[longest].p90
        assert model.tokens_per_second > model.documents_per_second > 1
        assert 20e6 < model.loaded_bytes <= model.peak_bytes < 500e6
    assert comparison.machine.cores >= 1 and "numpy" in comparison.versions


def test_answers(qa_bundle: Path, tmp_path: Path) -> None:
    rows = []
    with LocalClient(qa_bundle) as client:
        for text in texts(8):
            best = client.answer("who jumps", text, handle_impossible_answer=True)[0]
            found = [{"text": best.answer, "start": best.start}] if best.answer else []
            rows.append({"question": "who jumps", "context": text, "answers": found})
    rows.append({"question": "who jumps", "context": "the fox", "answers": []})
    path = write_rows(tmp_path / "asked.jsonl", rows)
    found = compare(path, [f"a={qa_bundle}", f"b={qa_bundle}"], SETTINGS)
    assert found.metric == "F1" and found.labels == ()
    assert found.without_answer >= 1 and found.unknown_evidence == 0
    first, second = found.models
    assert first.metrics == second.metrics and first.metrics["exact match"] >= 8 / 9
    assert sum(group.documents for group in first.by_place.values()) == 9 - found.without_answer
    assert found.recommendation.firm


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(
        compare_command,
        [str(argument) for argument in arguments],
        standalone_mode=False,
        catch_exceptions=False,
    )


def test_the_command(labelled: Path, classification_bundle: Path, mistaken: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(labelled.read_text(encoding="utf-8").splitlines(keepends=True)[:6]))
    result = run(
        few,
        "--models",
        f"right={classification_bundle}",
        mistaken,
        "--threads",
        1,
        "--json",
        tmp_path / "c.json",
    )
    assert "take right" in result.stdout and "macro-F1" in result.stdout
    assert "right has the best macro-F1, 100.0 %" in result.stdout
    content = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert content["format"] == "longserve-compare 1" and content["documents"] == 6
    assert content["recommendation"]["model"] == "right"
    assert content["models"][1]["by_place"]["spread over thirds"] == {"documents": 3, "score": 0.0}


def test_models_can_be_given_one_by_one(
    labelled: Path, classification_bundle: Path, mistaken: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(labelled.read_text(encoding="utf-8").splitlines(keepends=True)[:2]))
    given = ["--models", f"a={mistaken}", "--models", f"b={classification_bundle}", f"c={mistaken}"]
    run(few, *given, "--threads", 1, "--json", tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert [model["name"] for model in content["models"]] == ["a", "b", "c"]


def test_usage_and_failures(
    labelled: Path, classification_bundle: Path, qa_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(click.UsageError, match="Missing parameter: models"):
        run(labelled)
    with pytest.raises(click.UsageError, match=r"there is no directory .*nowhere for c\.html"):
        run(labelled, "--models", classification_bundle, "--html", tmp_path / "nowhere" / "c.html")
    with pytest.raises(BundleNotFound, match="is no bundle"):
        run(labelled, "--models", tmp_path)
    with pytest.raises(ModelsError, match="two models are called"):
        compare(labelled, [str(classification_bundle)] * 2)
    with pytest.raises(ModelsError, match="a is for text-classification, b is for question-answering"):
        compare(labelled, [f"a={classification_bundle}", f"b={qa_bundle}"])
    with pytest.raises(ModelsError, match="no model"):
        compare(labelled, [])
    for settings, cause in (({"rounds": 0}, "rounds is 0"), ({"worth": 1.5}, "worth is 1.5")):
        with pytest.raises(CompareError, match=cause):
            CompareSettings(**settings)  # type: ignore[arg-type]
    strange = write_rows(
        tmp_path / "s.jsonl", [{"text": "fox", "label": "alpha"}, {"text": "fox", "label": "omega"}]
    )
    with pytest.raises(
        LabelMismatch, match=r"s\.jsonl, line 2: m has no label 'omega'; it has 'alpha', .*'omega'"
    ):
        compare(strange, [f"m={classification_bundle}"])


def test_a_document_that_a_model_refuses_is_named(classification_bundle: Path, tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "d.jsonl", [{"text": "fox", "label": "alpha"}, {"text": "a\0b", "label": "alpha"}]
    )
    with pytest.raises(CompareError, match=r"m, document of line 2: InvalidInput: .* NUL"):
        compare(path, [f"m={classification_bundle}"], SETTINGS)


def test_a_model_that_cannot_be_loaded_is_named(classification_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(classification_bundle, tmp_path / "b")
    tokenizer = tmp_path / "b" / "tokenizer.json"
    manifest = tmp_path / "b" / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    tokenizer.write_text("{}", encoding="utf-8")
    (record,) = [file for file in content["files"] if file["name"] == "tokenizer.json"]
    record.update(size=2, sha256=file_sha256(tokenizer))
    manifest.write_text(json.dumps(content), encoding="utf-8")
    path = write_rows(tmp_path / "d.jsonl", [{"text": "fox", "label": "alpha"}])
    with pytest.raises(MeasurementError, match=r"m cannot be loaded: CorruptBundle: .*tokenizer"):
        compare(path, [f"m={tmp_path / 'b'}"], SETTINGS)


def test_a_model_without_tokenizer_is_refused(classification_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(classification_bundle, tmp_path / "b")
    tokenizer = tmp_path / "b" / "tokenizer.json"
    manifest = tmp_path / "b" / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["files"] = [file for file in content["files"] if file["name"] != "tokenizer.json"]
    content["has_tokenizer"] = False
    manifest.write_text(json.dumps(content), encoding="utf-8")
    tokenizer.unlink()
    path = write_rows(tmp_path / "d.jsonl", [{"text": "fox", "label": "alpha"}])
    with pytest.raises(ModelsError, match=r"m has no tokenizer\.json"):
        compare(path, [f"m={tmp_path / 'b'}"], SETTINGS)
