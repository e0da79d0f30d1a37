"""The runbook's commands run as they stand, in order, in one shell. Those for a cluster are run by `kubectl`
against a stand-in for its API; of those that need Docker, files are checked."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_api import running_cluster
from doc_pages import blocks
from manifests import DEPLOY, ROOT, documents, parse_serve

from longserve.serving import Bundle
from longserve.serving.runtime.metrics import METRICS
from longserve.serving.runtime.request_record import RequestRecord
from longserve.serving.server import Ports
from longserve.serving.server.journal import request_fields

PAGE = ROOT / "docs" / "operations.md"
CONTENT = PAGE.read_text(encoding="utf-8")
NOT_RUN = ("docker", "kubectl", "python benchmarks", "python -m pytest")
PRELUDE = """
set -euo pipefail
trap 'kill "${server:-}" 2>/dev/null || true' EXIT
longserve() {
  case "$1" in
    serve) exec "$LONGSERVE" "$@" --http-port "$HTTP" --grpc-port "$GRPC" --metrics-port "$METRICS" ;;
    ready | classify | ask) "$LONGSERVE" "$@" --url "grpc://127.0.0.1:$GRPC" ;;
    *) "$LONGSERVE" "$@" ;;
  esac
}
curl() { command curl --noproxy '*' --fail "${@//localhost:8002/127.0.0.1:$METRICS}"; }
"""
"""Free ports in place of the defaults, and nothing else."""

KUBECTL = """
set -euo pipefail
kubectl() {
  local more=()
  [ "$1" = apply ] && more=(--validate=false)  # the stand-in has no schemas
  command kubectl --server "$API" "$@" "${more[@]}"
}
"""

pytestmark = pytest.mark.timeout(300)


def commands(run: bool) -> list[str]:
    return [block.code for block in blocks(PAGE) if block.language == "sh" and (block.why == "") == run]


@pytest.fixture(scope="module")
def room(classification_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two bundles: the second differs from the first in its manifest."""
    room = tmp_path_factory.mktemp("operations")
    for name in ("topics", "topics-v2"):
        shutil.copytree(classification_bundle, room / "bundles" / name)
    manifest = room / "bundles" / "topics-v2" / "manifest.json"
    fields = json.loads(manifest.read_text(encoding="utf-8"))
    fields["revision"] = "v2"
    manifest.write_text(json.dumps(fields), encoding="utf-8")
    return room


@pytest.fixture(scope="module")
def output(room: Path) -> str:
    """What the whole page prints."""
    if shutil.which("curl") is None:
        pytest.skip("the page's commands use curl")
    ports = {
        name.upper(): str(port)
        for name, port in Ports(http=0, grpc=0, metrics=0).resolve("127.0.0.1").items()
    }
    environment = {**os.environ, **ports, "LONGSERVE": str(Path(sys.executable).parent / "longserve")}
    script = PRELUDE + "\n".join(commands(run=True))
    result = subprocess.run(
        ["bash", "-c", script], cwd=room, env=environment, capture_output=True, text=True, timeout=240
    )
    log = (room / "server.log").read_text(encoding="utf-8") if (room / "server.log").exists() else ""
    assert result.returncode == 0, result.stdout + result.stderr + log
    return result.stdout


def test_the_commands_do_what_the_page_says(output: str, room: Path) -> None:
    bundles = [Bundle.open(room / "bundles" / name) for name in ("topics", "topics-v2")]
    first, second = (bundle.fingerprint[:12] for bundle in bundles)
    assert re.search(r"^letter\.txt\t\w+\t[\d.]+\t\d+\t1$", output, re.MULTILINE)
    assert 'longserve_requests_total{model="topics",outcome="answered",version="1"}' in output
    assert f'longserve_model_info{{bundle="{second}"' in output
    assert first != second and f'bundle="{first}"' not in output
    assert json.loads((room / "release-0002.json").read_text())["fingerprint"].startswith(second)
    (readiness,) = [json.loads(line) for line in output.splitlines() if line.startswith('{"ready"')]
    assert readiness["ready"] and readiness["models"][0]["model"] == "topics"


def test_the_log_is_as_the_page_says(output: str, room: Path) -> None:
    entries = [json.loads(line) for line in (room / "server.log").read_text().splitlines()]
    starts = [entry for entry in entries if entry.get("message", "").startswith("starting Triton")]
    assert len(starts) == 2
    requests = [entry for entry in entries if entry.get("event") == "request"]
    assert {entry["outcome"] for entry in requests} == {"answered"}
    assert "longserve-readiness" in {entry["request_id"] for entry in requests}
    (example,) = re.findall(r"^```json\n(.*?)^```$", CONTENT, re.MULTILINE | re.DOTALL)
    assert set(json.loads(example)) == set(requests[0])
    assert set(json.loads(RequestRecord("a").to_json("m", "1"))) <= set(requests[0])
    assert request_fields(example) is not None


def test_the_commands_for_a_cluster_run(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("the commands are kubectl's")
    script = "\n".join(block for block in commands(run=False) if block.startswith("kubectl"))
    with running_cluster() as cluster:
        environment = {**os.environ, "HOME": str(tmp_path), "KUBECONFIG": os.devnull, "API": cluster.url}
        environment |= {"NO_PROXY": "*", "no_proxy": "*"}
        result = subprocess.run(
            ["bash", "-c", KUBECTL + script],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("successfully rolled out") == 2
    kept = {(item["kind"], item["metadata"]["name"]) for item in cluster.objects.values()}
    paths = [*(DEPLOY / "kubernetes").glob("*.yaml"), DEPLOY / "kserve" / "inference-service.yaml"]
    given = [item for path in paths for item in documents(path) if item["kind"] != "Kustomization"]
    assert {(item["kind"], item["metadata"]["name"]) for item in given} <= kept
    (release,) = [
        item["spec"]["template"]["metadata"]["annotations"]["release"]
        for (plural, _), item in cluster.objects.items()
        if plural == "deployments"
    ]
    assert release == "1", "the roll back went to the revision before"
    (metric,) = [path for path in cluster.raw if "custom.metrics" in path]
    assert metric.rpartition("/")[2] in METRICS


@pytest.mark.parametrize("block", commands(run=False))
def test_what_is_not_run_names_what_is_there(block: str) -> None:
    for line in block.splitlines():
        assert line.startswith(NOT_RUN)
        for path in re.findall(r"(?:-f|-k) (\S+)|(\S+\.py)", line):
            assert (ROOT / (path[0] or path[1])).exists(), path


def test_every_command_is_either_run_or_marked() -> None:
    assert len(commands(run=True)) >= 8
    for block in commands(run=True):
        assert not any(line.startswith(NOT_RUN) for line in block.splitlines())


def test_every_metric_is_explained() -> None:
    for name in METRICS:
        assert f"`{name}" in CONTENT, name
    for named in set(re.findall(r"`(longserve_\w+)", CONTENT)):
        base = re.sub(r"_(sum|count|bucket)$", "", named)
        assert base in METRICS, named


def test_options_that_it_names_are_there() -> None:
    helps = " ".join(
        subprocess.run(
            [Path(sys.executable).parent / "longserve", command, "--help"], capture_output=True, text=True
        ).stdout
        for command in ("serve", "repo", "ready", "lint", "export", "validate", "inspect")
    )
    for option in set(re.findall(r"`(--[a-z-]+)", CONTENT)):
        assert option in helps, option
    assert parse_serve(["releases/0001", "--log-format", "json"])["log_format"] == "json"
