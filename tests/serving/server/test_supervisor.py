"""What ends a watch. That it restarts a server is shown with real ones, by the tests of the commands."""

from __future__ import annotations

from typing import cast

import pytest

from longserve.serving.server import TritonServer
from longserve.serving.server.supervisor import Supervisor


class Stop(BaseException):
    """What the check raises."""


class Healthy:
    """A server that nothing ails."""

    waits = 0

    def ailment(self) -> None:
        """Nothing."""

    def wait(self, timeout: float) -> None:
        """Count instead."""
        self.waits += 1


def test_the_check_is_called_all_the_time_and_ends_the_watch() -> None:
    server = Healthy()

    def check() -> None:
        if server.waits == 3:
            raise Stop

    with pytest.raises(Stop):
        Supervisor(cast(TritonServer, server), print).watch(check)
    assert server.waits == 3
