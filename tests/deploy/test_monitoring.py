"""Dashboard, alerts and autoscaler ask only for what a real server gives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
from manifests import DEPLOY, ROOT, adapter_rules, documents
from prometheus import Scrape, scrape
from promql import Selector, aggregation_labels, selectors
from triton_fixture import CLASSIFIER, RunningServer

from longserve.serving.runtime.metrics import METRICS

DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "longserve.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
RULES: list[dict[str, Any]] = [
    rule for group in documents(DEPLOY / "prometheus" / "rules.yml")[0]["groups"] for rule in group["rules"]
]
FROM_PROMETHEUS = {"up"}
"""Series that Prometheus itself makes of a scrape."""
ADDED = {"instance", "job", "namespace", "pod"}
"""Labels that Prometheus adds."""
RUNBOOK = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def queries() -> Iterator[tuple[str, str]]:
    """Every expression, with the name of what asks it."""
    for panel in PANELS:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "5m")
            yield f"panel {panel['title']} {target['refId']}", expression.replace("$model", CLASSIFIER)
    for rule in RULES:
        yield f"alert {rule['alert']}", rule["expr"]
    for rule in adapter_rules():
        yield f"adapter {rule['name']['as']}", rule["seriesQuery"]


QUERIES = dict(queries())


@pytest.fixture(scope="module")
def scraped(triton_server: RunningServer) -> Scrape:
    return scrape(triton_server.urls.metrics)


def fits(labels: dict[str, str], selector: Selector) -> bool:
    """Whether a series is selected, as far as the scrape can tell."""
    for name, operator, value in selector.matchers:
        if name in ADDED:
            continue
        given = labels.get(name, "")
        matches = re.fullmatch(value, given) is not None if operator in ("Re", "NotRe") else given == value
        if matches != (operator in ("Equal", "Re")):
            return False
    return True


@pytest.mark.parametrize("name", QUERIES)
def test_what_is_asked_for_is_there(scraped: Scrape, name: str) -> None:
    asked = [selector for selector in selectors(QUERIES[name]) if selector.name not in FROM_PROMETHEUS]
    for selector in asked:
        series = scraped.labels(selector.name)
        assert series, f"a server gives no {selector.name}"
        known = {label for labels in series for label in labels} | ADDED
        assert {label for label, _, _ in selector.matchers} <= known
        exceptional = {"validated": "false"}  # what the alert waits for
        if ("validated", "Equal", "false") not in selector.matchers:
            assert any(fits(labels, selector) for labels in series), exceptional
    grouped = aggregation_labels(QUERIES[name])
    known = {label for selector in asked for labels in scraped.labels(selector.name) for label in labels}
    assert grouped <= known | ADDED


def test_every_metric_of_ours_is_shown() -> None:
    shown = {selector.name for name in QUERIES for selector in selectors(QUERIES[name])}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert set(METRICS) <= shown


class TestDashboard:
    def test_panels_are_whole(self) -> None:
        assert len({panel["id"] for panel in PANELS}) == len(PANELS)
        for panel in PANELS:
            assert panel["title"]
            if panel["type"] == "row":
                continue
            assert panel["targets"] and panel["datasource"] == {
                "type": "prometheus",
                "uid": "${datasource}",
            }
            assert panel["fieldConfig"]["defaults"]["unit"] or panel["type"] == "table"
            references = [target["refId"] for target in panel["targets"]]
            assert len(references) == len(set(references))

    def test_panels_do_not_overlap(self) -> None:
        places = [panel["gridPos"] for panel in PANELS]
        for place in places:
            assert place["x"] + place["w"] <= 24
        for one, other in combinations(places, 2):
            apart = (
                one["x"] + one["w"] <= other["x"]
                or other["x"] + other["w"] <= one["x"]
                or one["y"] + one["h"] <= other["y"]
                or other["y"] + other["h"] <= one["y"]
            )
            assert apart, (one, other)

    def test_its_variables_are_those_that_are_used(self) -> None:
        names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
        text = json.dumps(PANELS)
        used = set(re.findall(r"\$\{?([a-z_]+)", text)) - {"__rate_interval"}
        assert used == names == {"datasource", "model"}
        (model,) = [v for v in DASHBOARD["templating"]["list"] if v["name"] == "model"]
        assert re.fullmatch(r"label_values\((\w+), model\)", model["definition"])[1] in METRICS  # type: ignore[index]

    def test_legends_name_labels_that_the_query_keeps(self) -> None:
        for panel in PANELS:
            for target in panel.get("targets", []):
                named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                kept = aggregation_labels(QUERIES[f"panel {panel['title']} {target['refId']}"])
                assert named <= kept | ADDED


class TestAlerts:
    @pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
    def test_each_says_how_bad_it_is_and_what_to_read(self, rule: dict[str, Any]) -> None:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert f"### {rule['alert']}\n" in RUNBOOK
        labels = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        kept = aggregation_labels(rule["expr"]) or {"instance", "model"}
        assert labels <= kept

    def test_the_runbook_knows_no_other(self) -> None:
        described = re.findall(r"^### (Longserve\w+)$", RUNBOOK, re.MULTILINE)
        assert described == [rule["alert"] for rule in RULES]
