"""Which of Triton's lines are passed on and which tell why it ended."""

from __future__ import annotations

import io

from longserve.serving.server.log import ServerLog

LINES = r"""
W1124 19:04:35.341468 5105 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory"
E1124 19:04:35.341742 5105 server.cc:241] "CudaDriverHelper has not been initialized."
I1124 19:04:35.343341 5105 model_lifecycle.cc:472] "loading: echo:1"
Error: Failed to initialize NVML
W1124 19:04:35.900000 5105 model.py:60] "this bundle was not validated"
E1124 19:04:36.000000 5105 lifecycle.cc:642] "failed to load 'echo': ValueError: no\n\nAt:\n  model.py(3)\n"
"""


def read(*, verbose: bool = False) -> tuple[ServerLog, str]:
    sink = io.StringIO()
    log = ServerLog(io.BytesIO(LINES.strip().encode()), sink, verbose=verbose)
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
    log = ServerLog(io.BytesIO(LINES.strip().encode()), sink, verbose=True)
    log.finish(10.0)
    assert len(log.lines()) == 6
