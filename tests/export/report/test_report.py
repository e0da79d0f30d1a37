"""A report says what the bundle's own files say, fetches nothing, and can be read by anybody, anywhere."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest
from click.testing import CliRunner

pytest.importorskip("jinja2", reason="the report needs the extra [report]")
pytest.importorskip("matplotlib", reason="the report needs the extra [report]")

from browser import WIDTHS, save_screenshot, serious_findings
from browser import browser as browser

from longserve.export.errors import ReportError
from longserve.export.report import ReportData, gather, render_card, render_page
from longserve.export.report.cli import report_command

BENCH = Path(__file__).parents[3] / "benchmarks" / "results" / "cpu_base_classification.json"


@pytest.fixture(scope="module")
def report(classification_bundle: Path) -> ReportData:
    return gather(classification_bundle, beside=[classification_bundle], bench=BENCH)


@pytest.fixture(scope="module")
def page(report: ReportData) -> str:
    return render_page(report)


def altered(bundle: Path, target: Path, **fields: Any) -> Path:
    """A copy of a bundle with other manifest fields."""
    shutil.copytree(bundle, target)
    manifest = target / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({**content, **fields}), encoding="utf-8")
    return target


def test_it_holds_what_the_bundle_says(report: ReportData, page: str, classification_bundle: Path) -> None:
    parity = json.loads((classification_bundle / "parity.json").read_text(encoding="utf-8"))
    assert len(report.points) == parity["summary"]["cases"] == len(parity["results"])
    assert report.drifts[0].worst == parity["summary"]["max_relative"]
    assert report.drifts[0].tolerance == parity["tolerance"]["max_relative"] == report.tolerance
    assert {point.pattern for point in report.points} >= {"none", "first", "scattered", "mixed"}
    for wanted in (
        *report.manifest.labels,
        report.bundle.fingerprint,
        parity["summary"]["worst_case"],
        *(file.sha256 for file in report.manifest.files),
        "longserve repo",
        "LocalClient",
    ):
        assert wanted in page
    assert {operator.name for operator in report.operators} >= {"MatMul", "Softmax"}
    assert list(report.domains) == ["ai.onnx"]


def test_speed_is_the_benchmarks(report: ReportData, page: str) -> None:
    assert report.speed is not None
    data = json.loads(BENCH.read_text(encoding="utf-8"))
    assert report.speed.baseline == data["baseline"] == report.speed.engines[0].name
    names = [engine.name for engine in report.speed.engines]
    assert not [name for name in names if "products" in name or "padded" in name]
    for engine in report.speed.engines:
        for length, seconds in engine.seconds.items():
            (result,) = [r for r in data["results"] if (r["engine"], r["length"]) == (engine.name, length)]
            assert seconds == result["seconds"]["median"]
            assert engine.ratios[length] == result["ratio"]["median"]
            assert f"{1000 * seconds:.1f} ({engine.ratios[length]:.1f}\N{MULTIPLICATION SIGN})" in page


def test_it_fetches_nothing_and_its_drawings_are_whole(page: str) -> None:
    assert not re.search(r'(?:src|href)="(?!#)[^"]', page.replace("http://www.w3.org", ""))
    assert "<script" not in page and "@import" not in page and "default-src 'none'" in page
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    identities = re.findall(r'\bid="([^"]+)"', page)
    assert len(identities) == len(set(identities))
    for target in re.findall(r'(?:href="#|url\(#)([^")]+)', page):
        assert target in identities
    assert not re.search(r"\bnan\b", page)


def test_names_that_look_like_markup_are_text(classification_bundle: Path, tmp_path: Path) -> None:
    labels = ["<script>alert(1)</script>", "a|b", "{{ 7 * 7 }}", "d", "e"]
    bundle = altered(classification_bundle, tmp_path / "b", labels=labels, model_id='"><img src=x>')
    data = gather(bundle)
    page = render_page(data)
    assert "<script>alert" not in page and "&lt;script&gt;" in page and "<img" not in page
    assert "{{ 7 * 7 }}" in page and "a\\|b" in render_card(data)


def test_a_bundle_that_nobody_compared_says_so(classification_bundle: Path, tmp_path: Path) -> None:
    data = gather(altered(classification_bundle, tmp_path / "b", parity=None))
    assert "Not validated" in render_page(data) and "Not validated" in render_card(data)
    assert "Not measured" in render_page(data)


def test_the_card(report: ReportData) -> None:
    yaml = pytest.importorskip("yaml")
    card = render_card(report)
    _, front, body = card.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["pipeline_tag"] == "text-classification" and fields["library_name"] == "onnx"
    rows = [line for line in body.splitlines() if line.startswith("| torch eager fp32")]
    assert len(rows) == 1 and rows[0].count("|") == 7
    assert f"{report.drifts[0].worst:.2g}" in body


def test_what_cannot_be_read_is_named(classification_bundle: Path, qa_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="give bundles of one model"):
        gather(classification_bundle, beside=[qa_bundle])
    for content, cause in (
        ("no", "as JSON"),
        ("{}", "no benchmark"),
        ('{"format": "longserve-bench 1"}', "damaged"),
    ):
        (tmp_path / "bench.json").write_text(content)
        with pytest.raises(ReportError, match=cause):
            gather(classification_bundle, bench=tmp_path / "bench.json")


def test_the_command(qa_bundle: Path, tmp_path: Path) -> None:
    arguments = [str(qa_bundle), "-o", str(tmp_path / "r.html"), "--card", str(tmp_path / "README.md")]
    result = CliRunner().invoke(report_command, arguments, catch_exceptions=False)
    assert result.stdout.split() == [arguments[2], arguments[4]]
    assert "longserve ask" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "client.answer" in (tmp_path / "README.md").read_text(encoding="utf-8")
    with pytest.raises(click.UsageError, match="either --bench or --measure"):
        CliRunner().invoke(
            report_command,
            [str(qa_bundle), "--bench", str(BENCH), "--measure", "m"],
            standalone_mode=False,
            catch_exceptions=False,
        )


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_accessible_and_fits(browser: Any, page: str, tmp_path: Path, width: int) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    with browser.new_page(viewport={"width": width, "height": 900}) as tab:
        problems: list[str] = []
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("request", lambda request: problems.append(request.url))
        tab.goto((tmp_path / "report.html").as_uri())
        assert problems == [(tmp_path / "report.html").as_uri()]
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert serious_findings(tab) == []
        save_screenshot(tab, f"report-{width}")


def test_it_prints(browser: Any, page: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    with browser.new_page() as tab:
        tab.goto((tmp_path / "report.html").as_uri())
        printed = tab.pdf(format="A4")
        assert printed.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type /Page\b", printed)) <= 12
