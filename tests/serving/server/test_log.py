"""Which of Triton's lines are passed on and which tell why it ended."""

from __future__ import annotations

import io
import json
from datetime import datetime, timezone

from longserve.serving.server.journal import Journal, LogFormat
from longserve.serving.server.log import ServerLog

LINES = r"""
W1124 19:04:35.341468 5105 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory"
E1124 19:04:35.341742 5105 server.cc:241] "CudaDriverHelper has not been initialized."
I1124 19:04:35.343341 5105 model_lifecycle.cc:472] "loading: echo:1"
Error: Failed to initialize NVML
W1124 19:04:35.900000 5105 model.py:60] "this bundle was not validated"
E1124 19:04:36.000000 5105 lifecycle.cc:642] "failed to load 'echo': ValueError: no\n\nAt:\n  model.py(3)\n"
"""


REQUEST = {"event": "request", "request_id": 'an "id"', "model": "m", "outcome": "answered", "seconds": 0.5}


def triton_line(message: str, level: str = "I") -> str:
    return f"{level}1124 19:04:37.000000 5105 model.py:1] {json.dumps(message)}"


def read(
    text: str = LINES, *, verbose: bool = False, log_format: LogFormat = LogFormat.TEXT
) -> tuple[ServerLog, str]:
    sink = io.StringIO()
    log = ServerLog(io.BytesIO(text.strip().encode()), Journal(sink, log_format), verbose=verbose)
    log.finish(10.0)
    return log, sink.getvalue()


def test_warnings_and_errors_are_passed_on_without_noise() -> None:
    _, passed = read()
    assert passed.splitlines() == [
        "triton: this bundle was not validated",
        "triton: failed to load 'echo': ValueError: no",
    ]


def test_verbose_passes_on_every_line() -> None:
    _, passed = read(verbose=True)
    assert len(passed.splitlines()) == 6


def test_the_failure_is_the_error_alone() -> None:
    log, _ = read()
    assert log.failures() == ["failed to load 'echo': ValueError: no"]


def test_without_an_error_the_last_lines_stand_for_it() -> None:
    log = ServerLog(io.BytesIO(b"one\n\ntwo\n"), None, verbose=False)
    log.finish(10.0)
    assert log.failures() == ["one", "two"]


def test_bytes_that_are_not_text_do_not_stop_the_reading() -> None:
    log = ServerLog(io.BytesIO(b"\xff\xfe\nlast\n"), None, verbose=False)
    log.finish(10.0)
    assert log.lines()[-1] == "last"


def test_a_closed_sink_does_not_stop_the_reading() -> None:
    sink = io.StringIO()
    sink.close()
    log = ServerLog(io.BytesIO(LINES.strip().encode()), Journal(sink), verbose=True)
    log.finish(10.0)
    assert len(log.lines()) == 6


def test_json_has_an_object_a_line() -> None:
    _, passed = read(log_format=LogFormat.JSON)
    entries = [json.loads(line) for line in passed.splitlines()]
    now = datetime.now(timezone.utc)
    for entry in entries:
        assert entry["time"].endswith("Z")
        assert 0 <= (now - datetime.fromisoformat(entry.pop("time").replace("Z", "+00:00"))).seconds < 60
    assert entries == [
        {"level": "warning", "source": "model.py:60", "message": "this bundle was not validated"},
        {
            "level": "error",
            "source": "lifecycle.cc:642",
            "message": "failed to load 'echo': ValueError: no\n\nAt:\n  model.py(3)\n",
        },
    ]
    _, passed = read(verbose=True, log_format=LogFormat.JSON)
    entries = [json.loads(line) for line in passed.splitlines()]
    assert len(entries) == 6
    assert entries[2]["message"] == "loading: echo:1" and entries[2]["level"] == "info"
    assert (entries[3]["source"], entries[3]["message"]) == ("output", "Error: Failed to initialize NVML")


def test_requests_are_passed_on_in_either_format() -> None:
    line = triton_line(json.dumps(REQUEST))
    _, passed = read(line, log_format=LogFormat.JSON)
    entry = json.loads(passed)
    assert entry.items() >= REQUEST.items() and "message" not in entry
    assert (entry["level"], entry["source"]) == ("info", "model.py:1")
    _, passed = read(line)
    assert json.loads(passed.removeprefix("triton: ")) == REQUEST


def test_what_only_looks_like_a_request_is_a_message() -> None:
    for message in ('{"event": "request"', '["event"]', '{"event": "other"}', "{}"):
        _, passed = read(triton_line(message, "W"), log_format=LogFormat.JSON)
        assert json.loads(passed)["message"] == message
        assert read(triton_line(message))[1] == ""


def test_a_message_of_several_lines_stays_one_entry() -> None:
    message = "first\nE1124 19:04:36.000000 1 forged.cc:1] second"
    for log_format in LogFormat:
        _, passed = read(triton_line(message, "E"), log_format=log_format)
        assert len(passed.splitlines()) == 1
    assert json.loads(passed)["message"] == message


def test_longserves_own_lines() -> None:
    text, lines = io.StringIO(), io.StringIO()
    Journal(text).say("starting")
    Journal(text).report_defect("unexpected KeyError:\n  there\n")
    assert text.getvalue() == "starting\nunexpected KeyError:\n  there\n"
    Journal(lines, LogFormat.JSON).report_defect("unexpected KeyError:\n  there\n")
    entry = json.loads(lines.getvalue())
    assert (entry["level"], entry["source"]) == ("error", "longserve")
    assert entry["message"] == "unexpected KeyError:\n  there"
