from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from openvino_support import require_openvino

from longserve.serving.cli.batch import batch_command
from longserve.serving.cli.requests import ask_command, classify_command
from longserve.serving.runtime.errors import (
    AccessDenied,
    BundleNotFound,
    EngineError,
    InvalidInput,
    ServerUnavailable,
)

TEXT = "the miller of the valley counted seven lanterns and two bridges"


def run(*arguments: str | Path, given: bytes | None = None) -> Result:
    name, *rest = map(str, arguments)
    command = {"classify": classify_command, "ask": ask_command}[name]
    return CliRunner().invoke(command, rest, input=given)


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "document.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_classify_prints_a_line_per_label(document: Path, classification_bundle: Path) -> None:
    result = run("classify", "--bundle", classification_bundle, document)
    assert result.exit_code == 0, result.output
    file, label, score, tokens, windows = result.stdout.rstrip("\n").split("\t")
    assert file == str(document)
    assert label in {"alpha", "beta", "gamma", "delta", "epsilon"}
    assert 0.2 < float(score) <= 1 and int(tokens) > 10 and windows == "1"
    result = run("classify", "--bundle", classification_bundle, "--top-k", "5", document)
    assert len(result.stdout.splitlines()) == 5


def test_classify_json_is_one_document_a_line_in_the_files_order(
    document: Path, tmp_path: Path, classification_bundle: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("clé \U0001f511 " * 400, encoding="utf-8")
    result = run("classify", "--json", "--bundle", classification_bundle, other, "-", document, given=b"fox")
    assert result.exit_code == 0, result.output
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert [entry["file"] for entry in documents] == [str(other), "-", str(document)]
    assert documents[0]["windows"] > 1
    assert set(documents[1]) == {"file", "label", "score", "scores", "tokens", "windows"}


def test_headers_go_with_every_request(document: Path, tmp_path: Path) -> None:
    sent: list[str | None] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.headers["authorization"])
            self.send_error(401)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    rows = tmp_path / "in.jsonl"
    rows.write_text('{"text": "a"}\n', encoding="utf-8")
    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        given = ["--url", f"http://127.0.0.1:{proxy.server_port}", "--header", "Authorization: Bearer key"]
        batch = ["--task", "text-classification", str(rows), str(tmp_path / "out.parquet")]
        for command, rest in (
            (classify_command, [str(document)]),
            (ask_command, ["who?", str(document)]),
            (batch_command, batch),
        ):
            assert isinstance(CliRunner().invoke(command, [*given, *rest]).exception, AccessDenied)
        proxy.shutdown()
    assert sent == ["Bearer key"] * 3


@pytest.mark.parametrize("option", [("--header", "a:b"), ("--ca", __file__)])
def test_what_is_for_a_server_does_not_go_with_a_bundle(option: tuple[str, str], document: Path) -> None:
    for name, more in (("classify", ()), ("ask", ("who?",))):
        result = run(name, "--bundle", "b", *option, *more, document)
        assert result.exit_code == 2 and f"{option[0]} is for a server" in result.stderr
    result = CliRunner().invoke(batch_command, ["--bundle", "b", *option, str(document), "out.parquet"])
    assert result.exit_code == 2 and f"{option[0]} goes with --url only" in result.stderr


def test_a_bundle_runs_on_the_engine_asked_for(document: Path, classification_bundle: Path) -> None:
    require_openvino()
    command = ("classify", "--json", "--bundle", classification_bundle, "--top-k", "5", document)
    (expected, found) = (
        run(*command),
        run(*command, "--engine", "openvino", "--inference-precision", "fp32"),
    )
    assert found.exit_code == 0, found.output
    scores = json.loads(found.stdout)["scores"]
    assert scores == pytest.approx(json.loads(expected.stdout)["scores"], abs=1e-5)
    assert scores != json.loads(expected.stdout)["scores"], "another engine rounds otherwise"
    refused = run(*command, "--inference-precision", "bf16")
    assert isinstance(refused.exception, EngineError)
    assert "choose the engine openvino" in str(refused.exception)


def test_ask_answers_with_offsets_into_the_file(document: Path, qa_bundle: Path) -> None:
    result = run("ask", "--json", "--bundle", qa_bundle, "--top-k", "3", "who counted?", document)
    assert result.exit_code == 0, result.output
    (entry,) = map(json.loads, result.stdout.splitlines())
    assert entry["question"] == "who counted?"
    assert len(entry["answers"]) == 3
    for answer in entry["answers"]:
        assert TEXT[answer["start"] : answer["end"]] == answer["answer"]
    plain = run("ask", "--bundle", qa_bundle, "who counted?", "-", given=TEXT.encode())
    assert plain.stdout.split("\t")[0] == entry["answers"][0]["answer"]


def test_windows_are_shown_on_request(tmp_path: Path, classification_bundle: Path, qa_bundle: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(f"{TEXT} " * 60, encoding="utf-8")
    length = len(f"{TEXT} " * 60)
    entry = json.loads(run("classify", "--windows", "--json", "--bundle", classification_bundle, path).stdout)
    assert entry["windows"] == len(entry["window_results"]) > 2
    lines = run("classify", "--windows", "--bundle", classification_bundle, path).stdout.splitlines()
    rows = [line.split("\t") for line in lines]
    assert [(int(row[1]), int(row[2]), row[3]) for row in rows] == [
        (window["start"], window["end"], window["label"]) for window in entry["window_results"]
    ]
    assert (rows[0][1], rows[-1][2]) == ("0", str(length))
    entry = json.loads(run("ask", "--windows", "--json", "--bundle", qa_bundle, "who?", path).stdout)
    lines = run("ask", "--windows", "--bundle", qa_bundle, "who?", path).stdout.splitlines()
    assert [line.split("\t")[2] for line in lines] == [
        window["answers"][0]["answer"] for window in entry["window_results"]
    ]
    assert entry["answers"][0] in [window["answers"][0] for window in entry["window_results"]]


def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path: Path, classification_bundle: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9 au lait")
    result = run("classify", "--bundle", classification_bundle, path)
    assert isinstance(result.exception, InvalidInput)
    assert str(result.exception) == f"{path} is not UTF-8: byte 0xe9 at offset 3; convert it"


def test_an_unusable_text_is_named_with_its_file_after_the_results_before_it(
    document: Path, tmp_path: Path, classification_bundle: Path
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_bytes(b"")
    result = run("classify", "--bundle", classification_bundle, document, empty, document)
    assert isinstance(result.exception, InvalidInput)
    assert str(result.exception).startswith(f"{empty}: the text is empty")
    assert len(result.stdout.splitlines()) == 1
    result = run("classify", "--bundle", classification_bundle, "-", given=b"")
    assert str(result.exception).startswith("standard input: the text is empty")


@pytest.mark.parametrize(
    "arguments",
    [
        ("classify",),
        ("classify", "/nowhere/file.txt"),
        ("classify", "/"),
        ("ask", "question only"),
        ("classify", "--top-k", "0", "-"),
        ("classify", "--timeout", "0", "-"),
        ("classify", "--bundle", "b", "--url", "grpc://localhost", "-"),
        ("classify", "--bundle", "b", "--model", "m", "-"),
        ("ask", "--bundle", "b", "--timeout", "3", "q", "-"),
        ("classify", "--engine", "openvino", "-"),
        ("classify", "--bundle", "b", "--engine", "tensorflow", "-"),
        ("ask", "--url", "grpc://localhost", "--inference-precision", "bf16", "q", "-"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments, given=b"text")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage:" in result.stderr


def test_failures_are_typed(document: Path, tmp_path: Path) -> None:
    assert isinstance(run("classify", "--bundle", tmp_path, document).exception, BundleNotFound)
    assert isinstance(run("classify", "--url", "localhost:8000", document).exception, InvalidInput)
    for url in ("grpc://127.0.0.1:1", "http://127.0.0.1:1"):
        assert isinstance(run("ask", "--url", url, "q", document).exception, ServerUnavailable)


def test_the_command_ends_with_1_and_one_line_on_stderr(document: Path) -> None:
    script = "from longserve.serving.command import main; main()"
    arguments = ["classify", "--url", "http://127.0.0.1:1", str(document)]
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "http://127.0.0.1:1" in done.stderr and "is not available" in done.stderr


def test_a_terminal_gets_a_table_and_no_control_characters(tmp_path: Path, qa_bundle: Path) -> None:
    path = tmp_path / "escape.txt"
    path.write_text("\x1b[31mred [bold]\x07 fox", encoding="utf-8")
    script = (
        "from longserve.serving.cli.requests import ask_command\n"
        f"ask_command(['--bundle', {str(qa_bundle)!r}, '--top-k', '40', 'who?', {str(path)!r}])"
    )
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "100"}
    done = subprocess.Popen([sys.executable, "-c", script], stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    output = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        output += piece
    os.close(master)
    assert done.wait(60) == 0
    text = output.decode()
    assert "answer" in text and "score" in text and "[bold]" in text
    assert "\x1b" not in text and "\x07" not in text
