"""The limit on open files, and what a server does when it is reached."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from longserve.serving.server.descriptors import connections_allowed, raise_limit
from longserve.serving.server.stubs import has_ended


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_becomes_the_hard_one() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    assert connections_allowed() == 256
    raise_limit()
    raised = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert raised == (65536 if hard == resource.RLIM_INFINITY else min(hard, 65536))
    assert connections_allowed() == raised // 4


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_process_that_cannot_be_looked_at_has_not_ended(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, **options: str) -> str:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "read_text", read)
    assert not has_ended(os.getpid())
