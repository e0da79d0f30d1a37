"""Runs commands of `longserve` in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from longserve.serving.command import main

Ended = tuple[object, str, str]


@pytest.fixture
def longserve(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a command; return its exit status and what it printed to stdout and stderr.

    What the command does not expect is no exit status but the exception itself.
    """

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["longserve", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run
