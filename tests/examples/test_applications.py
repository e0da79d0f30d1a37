"""The examples that someone would copy do what they say, with a real server or a real bundle."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import contract_questions
import pytest
import ticket_routing
from triton_fixture import RunningServer

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_tickets_go_to_queues(
    triton_server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tickets = [{"id": 1, "text": "the fox jumps"}, {"id": 2, "text": ""}, {"id": 3, "text": "silver " * 900}]
    (tmp_path / "tickets.jsonl").write_text("\n".join(map(json.dumps, tickets)), encoding="utf-8")
    arguments = [str(tmp_path / "tickets.jsonl"), "--queues", str(tmp_path / "queues"), "--threshold", "0.1"]
    assert ticket_routing.main([*arguments, "--url", triton_server.urls.grpc]) == 0
    routed = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "queues").iterdir()}
    entries = [json.loads(line) for text in routed.values() for line in text.splitlines()]
    assert sorted(entry["id"] for entry in entries) == [1, 2, 3]
    assert '"why"' in routed["review"] and "is empty" in routed["review"]
    assert "review\t1" in capsys.readouterr().out
    assert (
        ticket_routing.main([*arguments[:-1], "1.1", "--bundle", str(triton_server.classification_bundle)])
        == 0
    )
    assert "review\t3" in capsys.readouterr().out


def test_contracts_are_asked(
    triton_server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "contracts"
    folder.mkdir()
    texts = {
        "a.txt": "the quick brown fox jumps over the lazy dog",
        "b.txt": "seven lanterns " * 400,
        "c.txt": " ",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (tmp_path / "questions.txt").write_text("who jumps\n\nwhat was paid\n", encoding="utf-8")
    arguments = [str(folder), str(tmp_path / "questions.txt")]
    rows = []
    for where in (["--url", triton_server.urls.grpc], ["--bundle", str(triton_server.qa_bundle)]):
        assert contract_questions.main([*arguments, *where]) == 0
        rows.append(list(csv.DictReader(io.StringIO(capsys.readouterr().out))))
    assert [(row["contract"], row["question"]) for row in rows[0]] == [
        ("a.txt", "who jumps"),
        ("a.txt", "what was paid"),
        ("b.txt", "who jumps"),
        ("b.txt", "what was paid"),
        ("c.txt", ""),
    ]
    assert "whitespace" in rows[0][-1]["error"] and int(rows[0][2]["windows"]) > 1
    for here, there in zip(*rows, strict=True):
        assert here["answer"] == there["answer"]
        if here["answer"]:
            assert texts[here["contract"]][int(here["start"]) : int(here["end"])] == here["answer"]


def test_the_service_answers(triton_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="the example is a FastAPI service")
    testing: Any = pytest.importorskip("fastapi.testclient", reason="asks the service in process")
    import fastapi_service

    monkeypatch.setenv("LONGSERVE_URL", triton_server.urls.grpc)
    with testing.TestClient(fastapi_service.app) as service:
        assert service.get("/ready").json() == {"ready": True}
        labelled = service.post("/classify", json={"text": "the fox", "top_k": 2}).json()
        assert len(labelled["scores"]) == 2 and labelled["label"] in labelled["scores"]
        asked = {"question": "who jumps", "context": "the quick fox jumps", "top_k": 2}
        answers = service.post("/answer", json=asked).json()["answers"]
        assert [asked["context"][a["start"] : a["end"]] for a in answers] == [a["answer"] for a in answers]
        refused = service.post("/classify", json={"text": ""})
        assert refused.status_code == 422 and "is empty" in refused.json()["error"]
    monkeypatch.setenv("LONGSERVE_URL", "grpc://127.0.0.1:9")
    with testing.TestClient(fastapi_service.app) as service:
        assert service.get("/ready").status_code == 503


def test_the_notebook_is_clean_and_its_code_compiles() -> None:
    cells = json.loads((EXAMPLES / "long_document.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 4
    for cell in code:
        assert cell["outputs"] == [] and cell["execution_count"] is None
        compile("".join(cell["source"]), "long_document.ipynb", "exec")


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On the bundles of `make demo`, where they are."""
    if not all(
        (EXAMPLES.parent / "bundles" / name).exists()
        for name in ("longformer_qa", "longformer_classification")
    ):
        pytest.skip("the bundles are made by `make demo`")
    monkeypatch.chdir(EXAMPLES)
    names: dict[str, Any] = {}
    for cell in json.loads((EXAMPLES / "long_document.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert "tokens" in capsys.readouterr().out
    assert sys.modules["longserve.serving"]
