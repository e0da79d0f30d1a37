from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from longserve.serving import (
    AccessDenied,
    Client,
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    RequestError,
    RetryPolicy,
    ServerUnavailable,
    ServingError,
)
from longserve.serving.client.calls import InferenceCall, Outputs
from longserve.serving.client.inquiries import Inquiry

from .facade import BlockingAsyncClient

FAST = RetryPolicy(attempts=4, initial_backoff=0.001, max_backoff=0.002)
OUTPUTS: Outputs = {
    "LABEL": np.array([[b"weather"]], dtype=np.object_),
    "SCORE": np.array([[0.5]], dtype=np.float32),
    "TOKENS": np.array([[3]], dtype=np.int32),
    "WINDOWS": np.array([[1]], dtype=np.int32),
}


class Script:
    """A transport that fails as it is told, then answers; remembers the timeouts that it was given."""

    def __init__(self, failures: Sequence[ServingError | bool]) -> None:
        self.failures = list(failures)
        self.timeouts: list[float] = []
        self.identities: list[str] = []

    def infer(self, call: InferenceCall, timeout: float) -> Outputs:
        self.identities.append(call.request_id)
        self._next(timeout)
        return OUTPUTS

    def ask(self, inquiry: Inquiry, timeout: float) -> Any:
        return self._next(timeout)

    def close(self) -> None:
        pass

    def _next(self, timeout: float) -> bool:
        self.timeouts.append(timeout)
        if not self.failures:
            return True
        outcome = self.failures.pop(0)
        if isinstance(outcome, ServingError):
            raise outcome
        return outcome


class AsyncScript:
    def __init__(self, script: Script) -> None:
        self._script = script

    async def infer(self, call: InferenceCall, timeout: float) -> Outputs:
        return self._script.infer(call, timeout)

    async def ask(self, inquiry: Inquiry, timeout: float) -> Any:
        return self._script.ask(inquiry, timeout)

    async def close(self) -> None:
        pass


Start = Callable[..., Any]


@pytest.fixture(params=["Client", "AsyncClient"])
def start(request: pytest.FixtureRequest) -> Start:
    """Make either client over a script."""

    def make(script: Script, **options: Any) -> Any:
        options = {"retry": FAST, **options}
        if request.param == "Client":
            return Client("grpc://nowhere:1", transport=script, **options)
        return BlockingAsyncClient("grpc://nowhere:1", transport=AsyncScript(script), **options)

    return make


@pytest.mark.parametrize("error", [ServerUnavailable("gone"), Overloaded("full")])
def test_what_the_server_did_not_take_is_sent_again(start: Start, error: ServingError) -> None:
    script = Script([error, error, error])
    with start(script) as client:
        assert client.classify("a").label == "weather"
    assert len(script.timeouts) == 4
    assert len(set(script.identities)) == 1, "an attempt got another request id"


def test_attempts_are_counted_and_named(start: Start) -> None:
    script = Script([Overloaded("full")] * 9)
    with start(script) as client, pytest.raises(Overloaded, match=r"^full \(given up after 4 attempts\)$"):
        client.classify("a")
    assert len(script.timeouts) == 4
    script = Script([Overloaded("full")] * 9)
    with (
        start(script, retry=RetryPolicy(attempts=1)) as client,
        pytest.raises(Overloaded, match=r"^full$"),
    ):
        client.classify("a")
    assert len(script.timeouts) == 1


@pytest.mark.parametrize(
    "kind", [InvalidInput, DeadlineExceeded, ModelNotFound, AccessDenied, InferenceFailed, RequestError]
)
def test_no_other_failure_is_sent_again(start: Start, kind: type[ServingError]) -> None:
    script = Script([kind("no"), kind("no")])
    with start(script) as client, pytest.raises(kind, match=r"^no$"):
        client.classify("a")
    assert len(script.identities) == 1  # of a model that is not there the others are asked for, once


def test_one_deadline_covers_all_attempts(start: Start) -> None:
    script = Script([ServerUnavailable("gone")] * 1000)
    patient = RetryPolicy(attempts=1000, initial_backoff=0.05, max_backoff=0.1)
    began = time.monotonic()
    with start(script, retry=patient) as client, pytest.raises(ServerUnavailable, match="attempts"):
        client.classify("a", timeout=0.5)
    assert time.monotonic() - began < 1.5
    assert script.timeouts[0] == 0.5
    assert script.timeouts == sorted(script.timeouts, reverse=True)
    assert 0 < script.timeouts[-1] < 0.5


def test_a_wait_that_would_outlast_the_deadline_is_not_begun(start: Start) -> None:
    slow = RetryPolicy(attempts=9, initial_backoff=1e9, max_backoff=1e9)
    began = time.monotonic()
    with start(Script([Overloaded("full")] * 9), retry=slow) as client, pytest.raises(Overloaded):
        client.classify("a", timeout=30)
    assert time.monotonic() - began < 5


def test_inquiries_are_sent_again_too(start: Start) -> None:
    script = Script([ServerUnavailable("gone")])
    with start(script) as client, pytest.raises(InferenceFailed, match="cannot be read"):
        client.labels("m")
    assert len(script.timeouts) == 2


def test_waiting_until_the_server_is_ready(start: Start) -> None:
    script = Script([ServerUnavailable("refused"), DeadlineExceeded("late"), False, Overloaded("full")])
    with start(script) as client:
        client.wait_until_ready(20)
    assert len(script.timeouts) == 5


@pytest.mark.parametrize(
    ("outcome", "cause"), [(ServerUnavailable("refused"), "refused"), (False, "it says that it is not ready")]
)
def test_a_server_that_never_gets_ready(start: Start, outcome: Any, cause: str) -> None:
    began = time.monotonic()
    with (
        start(Script([outcome] * 1000)) as client,
        pytest.raises(ServerUnavailable, match=rf"model 'm' at grpc://nowhere:1 .* within 0\.3 s: {cause}"),
    ):
        client.wait_until_ready(0.3, model="m")
    assert time.monotonic() - began < 2


def test_what_waiting_cannot_mend_is_raised_at_once(start: Start) -> None:
    script = Script([AccessDenied("no key")] * 2)
    with start(script) as client, pytest.raises(AccessDenied, match=r"^no key$"):
        client.wait_until_ready(20)
    assert len(script.timeouts) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"attempts": True},
        {"initial_backoff": -1},
        {"max_backoff": float("nan")},
        {"max_backoff": "1"},
    ],
)
def test_bad_policies_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=f"^{next(iter(options))} is "):
        RetryPolicy(**options)


def test_a_policy_of_another_type_is_refused(start: Start) -> None:
    with pytest.raises(InvalidInput, match="give a RetryPolicy"):
        start(Script([]), retry=3)


def test_waits_are_random_and_bounded() -> None:
    import tenacity

    state = tenacity.RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    wait = RetryPolicy(initial_backoff=0.1, max_backoff=1).settings(60)["wait"]
    for attempt, bound in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (50, 1.0)):
        state.attempt_number = attempt
        waits = [wait(state) for _ in range(200)]
        assert 0 <= min(waits) < bound / 4 and bound * 3 / 4 < max(waits) <= bound
