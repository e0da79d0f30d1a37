"""The try-it page: what the gateway sends for it, and what a person does with it in a real browser."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import WIDTHS, save_screenshot, serious_findings
from browser import browser as browser
from triton_fixture import CLASSIFIER, QA, RunningServer

from longserve.serving.server import Ports
from longserve.serving.server.access import AccessPolicy
from longserve.serving.server.gateway import Gateway, GatewayLimits
from longserve.serving.server.try_it import PAGE_PATH, TryItPage, model_names
from longserve.serving.server.upstream import Upstream

DOCUMENT = (
    "\N{FOX FACE} <img src=x onerror=window.hacked=1> <script>window.hacked=1</script> & the quick fox. "
    + ("the miller of the valley counted seven lanterns and two bridges. " * 120)
)
NOWHERE = Upstream(9, {})


def opened_gateway(upstream: Upstream, page: TryItPage | None, **limits: Any) -> tuple[Gateway, str]:
    port = Ports(http=0, grpc=0, metrics=0).resolve("127.0.0.1").http
    gateway = Gateway(
        host="127.0.0.1",
        port=port,
        upstream=upstream,
        access=AccessPolicy(),
        limits=GatewayLimits(**limits),
        grace=5.0,
        page=page,
    )
    gateway.start()
    return gateway, f"http://127.0.0.1:{port}"


def close(gateway: Gateway) -> None:
    gateway.begin_stop()
    gateway.join()


@pytest.fixture(scope="module")
def url(triton_server: RunningServer) -> Iterator[str]:
    """A gateway with the page, in front of the session's Triton."""
    page = TryItPage(model_names(triton_server.repository))
    gateway, url = opened_gateway(triton_server.server._upstream, page, max_request_bytes=200_000)
    yield url
    close(gateway)


@pytest.fixture
def tab(browser: Any, url: str) -> Iterator[Any]:
    """The page, ready to be asked; it may fetch from its own server only, and no script may fail."""
    with browser.new_page(viewport={"width": WIDTHS[-1], "height": 900}) as page:
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(url) else problems.append(r.url))
        page.goto(url + PAGE_PATH)
        page.wait_for_selector("#ask:enabled")
        yield page
        assert problems == []


def ask(tab: Any, model: str, document: str, question: str | None = None) -> None:
    tab.select_option("#model", model)
    tab.fill("#document", document)
    if question is not None:
        tab.fill("#question", question)
    tab.click("#ask")
    tab.wait_for_selector("#results:not([hidden])")


def test_the_page_is_sent_with_a_policy_and_only_if_wanted() -> None:
    gateway, url = opened_gateway(NOWHERE, TryItPage(["a", "b"]))
    try:
        for path, kind in (("/", "html"), ("/ui", "html"), ("/ui/", "html"), ("/ui/page.js", "javascript")):
            with urllib.request.urlopen(url + path) as response:
                policy = response.headers["Content-Security-Policy"]
                assert kind in response.headers["Content-Type"] and response.headers["Server"] == "longserve"
                assert "default-src 'none'" in policy and "unsafe" not in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert json.load(urllib.request.urlopen(url + "/ui/models.json")) == {"models": ["a", "b"]}
        for path, status in (("/ui/other.js", 404), ("/ui/../v2", 404), ("/v2/repository/index", 405)):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(url + path)
            assert caught.value.code == status
    finally:
        close(gateway)
    gateway, url = opened_gateway(NOWHERE, None)
    try:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url + PAGE_PATH)
        assert caught.value.code == 404
    finally:
        close(gateway)


def test_scripts_touch_no_markup() -> None:
    folder = Path(__file__).parents[3] / "serving" / "server" / "try_it_page"
    script = (folder / "page.js").read_text(encoding="utf-8")
    for dangerous in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "http:",
        "https:",
    ):
        assert dangerous not in script
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert "style=" not in page and "onclick" not in page and page.count("<script") == 1


def test_an_answer_is_marked_at_its_place_and_markup_stays_text(tab: Any) -> None:
    ask(tab, QA, DOCUMENT, "who counted <b>lanterns</b>")
    answers = tab.locator("#answers button")
    assert answers.count() == 5
    for index in (0, 1):
        answers.nth(index).click()
        answer = tab.locator("#answers button strong").nth(index).text_content()
        assert tab.locator("#place mark").text_content() == answer
        assert answers.nth(index).get_attribute("aria-pressed") == "true"
    assert tab.locator("#place").text_content() == DOCUMENT
    place, mark = tab.locator("#place").bounding_box(), tab.locator("#place mark").bounding_box()
    assert place["y"] <= mark["y"] <= place["y"] + place["height"]
    assert tab.evaluate("window.hacked") is None and tab.locator("#results img").count() == 0
    windows = tab.locator("#windows tbody tr")
    assert windows.count() > 1
    windows.last.get_by_role("button").click()
    assert tab.locator("#place mark.window").text_content().strip() in DOCUMENT
    times = tab.locator("#times tbody tr").all_text_contents()
    assert len(times) == 5 and "of which the encoder computed" in times[-1]


def test_a_document_is_labelled_by_keyboard_alone(tab: Any) -> None:
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "model"
    tab.keyboard.type(CLASSIFIER)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "document"
    tab.keyboard.insert_text("the quick brown fox")
    tab.keyboard.press("Control+Enter")
    tab.wait_for_selector("#results:not([hidden])")
    assert tab.evaluate("document.activeElement.id") == "results"
    scores = [float(text) for text in tab.locator("#labels td.number").all_text_contents()]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)
    assert (
        tab.locator("#status").text_content()
        == f"Best: {tab.locator('#labels tbody th').first.text_content()}"
    )
    assert tab.locator("#windows tbody tr").count() == 1


def test_files_and_failures_are_said(tab: Any, tmp_path: Path) -> None:
    tab.select_option("#model", CLASSIFIER)
    tab.click("#ask")
    assert "Give a document first" in tab.locator("#error").text_content()
    (tmp_path / "good.txt").write_text("the gr\N{LATIN SMALL LETTER O WITH DIAERESIS}up", encoding="utf-8")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    tab.set_input_files("#file", tmp_path / "bad.txt")
    tab.wait_for_selector("#error:has-text('not UTF-8')")
    tab.set_input_files("#file", tmp_path / "good.txt")
    tab.wait_for_selector("#size:has-text('9 characters')")
    tab.fill("#document", "fox " * 60_000)
    tab.click("#ask")
    tab.wait_for_selector("#error:has-text('--max-request-bytes')")
    assert tab.locator("#ask").is_enabled() and tab.locator("#results").is_hidden()


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_accessible_and_fits(tab: Any, width: int) -> None:
    tab.set_viewport_size({"width": width, "height": 900})
    assert serious_findings(tab) == []
    for model, question in ((CLASSIFIER, None), (QA, "who counted")):
        ask(tab, model, DOCUMENT, question)
        assert serious_findings(tab) == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        save_screenshot(tab, f"try-it-{model}-{width}")
