"""The page of a comparison says what was found, fetches nothing, and can be read by anybody, anywhere."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("jinja2", reason="the page needs the extra [report]")
pytest.importorskip("matplotlib", reason="the page needs the extra [report]")

from browser import WIDTHS, save_screenshot, serious_findings
from browser import browser as browser
from click.testing import CliRunner

from longserve.serving import Task
from longserve.serving.cli.compare import compare_command
from longserve.serving.compare import Comparison, GroupScore, ModelResult
from longserve.serving.compare.evidence import Place, Reach
from longserve.serving.compare.page import render_page
from longserve.serving.compare.recommendation import Recommendation
from longserve.serving.compare.uncertainty import Difference
from longserve.serving.measurement import Machine, Spread

LENGTHS = {"1 to 128": 40, "129 to 512": 60, "513 to 1024": 60, "1025 to 2048": 40}


def model(name: str, quality: float, behind: Difference | None, split: float) -> ModelResult:
    return ModelResult(
        name=name,
        bundle=f"bundles/{name}",
        fingerprint="0123456789abcdef",
        architecture="longformer",
        precision="fp32",
        max_length=4096,
        runs_on="onnxruntime CPUExecutionProvider",
        load_seconds=0.5,
        metrics={"macro-F1": quality, "accuracy": quality},
        behind=behind,
        latency={
            length: Spread(median=0.01 * 2**power, p10=0.009 * 2**power, p90=0.013 * 2**power, samples=40)
            for power, length in enumerate(LENGTHS)
        },
        all_latency=Spread(median=0.02, p10=0.01, p90=0.08, samples=200),
        documents_per_second=40.0 / (1 + quality),
        tokens_per_second=12345.6,
        mean_windows=1.5,
        windowed=60,
        loaded_bytes=90_000_000,
        peak_bytes=120_000_000,
        by_length={length: GroupScore(documents=count, score=quality) for length, count in LENGTHS.items()},
        by_place={
            Place.LAST: GroupScore(documents=90, score=quality),
            Place.SPREAD: GroupScore(documents=90, score=split),
        },
        by_reach={Reach.FIRST_WINDOW: GroupScore(documents=110, score=quality)}
        | ({Reach.NO_WINDOW: GroupScore(documents=70, score=split)} if behind else {}),
    )


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    behind = Difference(value=0.3, low=0.21, high=0.39, p_value=1e-6)
    return Comparison(
        date="2026-11-25T10:00:00+00:00",
        machine=Machine(cpu="A CPU", flags=(), cores=2, memory_bytes=None, system="Linux"),
        versions={"numpy": "1.26.4"},
        source="letters.jsonl",
        task=Task.TEXT_CLASSIFICATION,
        documents=200,
        unknown_evidence=20,
        without_answer=0,
        labels=("covered", "not covered"),
        lengths=LENGTHS,
        rounds=1,
        models=(model("longformer", 0.975, None, 0.97), model("chunked-bert", 0.675, behind, 0.513)),
        recommendation=Recommendation(
            model="longformer",
            firm=True,
            reasons=("longformer has the best macro-F1, 97.5 %, at 20 documents a second.",),
            cautions=(),
        ),
    )


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> str:
    return render_page(comparison)


def test_it_says_what_was_found(page: str) -> None:
    for wanted in (
        "Take longformer.",
        "longformer has the best macro-F1",
        "21.0 to 39.0 points",
        "51.3 % of 70",
        "10 (9 to 13)",
        "Of 20 documents it is not known",
        "12,346",
        "A CPU, 2 cores",
    ):
        assert wanted in page, wanted


def test_it_fetches_nothing_and_its_drawings_are_whole(page: str) -> None:
    assert not re.search(r'(?:src|href)="(?!#)[^"]', page.replace("http://www.w3.org", ""))
    assert "<script" not in page and "default-src 'none'" in page
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    identities = re.findall(r'\bid="([^"]+)"', page)
    assert len(identities) == len(set(identities))


def test_an_open_question_is_not_told_as_an_answer(comparison: Comparison) -> None:
    advice = dataclasses.replace(comparison.recommendation, firm=False, cautions=("Too few <b>",))
    page = render_page(dataclasses.replace(comparison, recommendation=advice))
    assert "For all that these documents show, take longformer." in page
    assert "<strong>Too few &lt;b&gt;</strong>" in page


def test_without_evidence_it_says_so(comparison: Comparison) -> None:
    models = [dataclasses.replace(one, by_place={}, by_reach={}) for one in comparison.models]
    page = render_page(dataclasses.replace(comparison, models=tuple(models), unknown_evidence=200))
    assert "Not known: no row has the field" in page and len(re.findall("<svg", page)) == 3


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_accessible_and_fits(browser: Any, page: str, tmp_path: Path, width: int) -> None:
    address = (tmp_path / "compare.html").as_uri()
    (tmp_path / "compare.html").write_text(page, encoding="utf-8")
    with browser.new_page(viewport={"width": width, "height": 900}) as tab:
        problems: list[str] = []
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("request", lambda request: problems.append(request.url))
        tab.goto(address)
        assert problems == [address]
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert serious_findings(tab) == []
        save_screenshot(tab, f"compare-{width}")


def test_the_command_writes_it(
    classification_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": "the fox", "label": "alpha"}, {"text": "seven lanterns", "label": "beta"}]
    Path("d.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    arguments = ["d.jsonl", "--models", f"m={classification_bundle}", "--threads", "1", "--html", "c.html"]
    CliRunner().invoke(compare_command, arguments, standalone_mode=False, catch_exceptions=False)
    assert "m is the only model" in Path("c.html").read_text(encoding="utf-8")
