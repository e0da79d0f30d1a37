"""`longserve serve --log-format json`: every line is an object, every request has one, no text is in any."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from longserve.serving import Client, InvalidInput, RetryPolicy
from longserve.serving.repository import build_repository

LONGSERVE = Path(sys.executable).parent / "longserve"
FREE = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
SECRET = "xyzzyplugh"


def ask_with_secrets(urls: dict[str, Any]) -> None:
    """Requests that are answered and refused, over both protocols; each text holds the secret."""
    for protocol in ("grpc", "http"):
        once = RetryPolicy(attempts=1)
        with Client(urls[protocol], classification_model="letters", timeout=60, retry=once) as client:
            client.classify(f"a {SECRET} " * 400, request_id=f"long-{protocol}")
            client.classify([f"{SECRET} one", f"{SECRET} two"], request_id=f"two-{protocol}")
            for name, text, options in (
                ("nul", f"{SECRET}\0", {}),
                ("big", f"{SECRET} " * 500_000, {}),
                ("option", SECRET, {"stride": 511, "top_k": 1}),
            ):
                try:
                    client.classify(text, request_id=f"{name}-{protocol}", **options)
                except InvalidInput as error:
                    assert SECRET not in str(error)


def test_the_log_of_a_server(classification_bundle: Path, tmp_path: Path) -> None:
    build_repository(classification_bundle, "letters", tmp_path / "repository")
    command = [LONGSERVE, "serve", tmp_path / "repository", *FREE, "--json", "--log-format", "json"]
    with (tmp_path / "log").open("w+") as log:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
            assert process.stdout is not None
            urls = json.loads(process.stdout.readline())
            ask_with_secrets(urls)
            time.sleep(0.3)  # the last lines are on their way through a pipe
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        log.seek(0)
        content = log.read()
    assert SECRET not in content
    entries = [json.loads(line) for line in content.splitlines()]
    assert all({"time", "level", "source"} <= set(entry) for entry in entries)
    messages = [entry["message"] for entry in entries if "message" in entry]
    assert messages[0].startswith("starting Triton on") and messages[-1] == "stopped by SIGTERM"
    requests = {entry["request_id"]: entry for entry in entries if entry.get("event") == "request"}
    for protocol in ("grpc", "http"):
        long = requests[f"long-{protocol}"]
        assert (long["model"], long["version"], long["outcome"], long["reason"]) == (
            "letters",
            "1",
            "answered",
            None,
        )
        assert long["texts"] == 1 and long["tokens"] > 2000 and long["windows"] > 4
        assert 0 < long["encoder_seconds"] <= long["seconds"] < 60
        assert requests[f"two-{protocol}-0"]["outcome"] == requests[f"two-{protocol}-1"]["outcome"]
        assert requests[f"nul-{protocol}"]["reason"] == "not_text"
        assert requests[f"big-{protocol}"]["reason"] == "too_large"
        assert requests[f"option-{protocol}"]["outcome"] == "answered"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_server_that_does_not_start_says_why_in_the_format(tmp_path: Path, log_format: str) -> None:
    command = [LONGSERVE, "serve", tmp_path / "nowhere", *FREE, "--log-format", log_format]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    if log_format == "json":
        assert all(json.loads(line) for line in result.stderr.splitlines())
        assert json.loads(last)["level"] == "fatal"
        last = json.loads(last)["message"]
    assert "nowhere is no directory" in last


@pytest.mark.parametrize(
    ("wrong", "status", "said"),
    [
        (("--host", "0.0.0.0"), 2, "0.0.0.0 is no loopback address"),
        (("--admin-key-file", "key"), 1, "the admin key has 5 characters; give 16 or more"),
        (("--admin-key-file", "nokey"), 1, "the admin key file nokey cannot be read"),
    ],
)
def test_a_refusal_to_start_is_told_in_the_format(
    tmp_path: Path, wrong: tuple[str, str], status: int, said: str
) -> None:
    (tmp_path / "key").write_text("short\n", encoding="utf-8")
    command = [LONGSERVE, "serve", tmp_path, *FREE, *wrong, "--log-format", "json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert result.returncode == status
    (entry,) = [json.loads(line) for line in result.stderr.splitlines()]
    assert entry["level"] == "fatal" and said in entry["message"]
