"""When a request is sent again: only if the server did not take it, and only while there is time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NoReturn

from ..runtime.errors import DeadlineExceeded, InvalidInput, Overloaded, RequestError, ServerUnavailable

__all__ = ["DEFAULT_RETRY", "RETRIED", "RetryPolicy", "import_tenacity", "readiness_settings"]

RETRIED: tuple[type[RequestError], ...] = (ServerUnavailable, Overloaded)
"""The errors after which a request is sent again. Every other one would come again, or the time is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and when a request that met `ServerUnavailable` or `Overloaded` is sent again.

    Sending again is safe: an inference changes nothing on the server, so a request that was answered into a
    broken connection costs its computation twice and can give no other answer. The waits grow exponentially,
    each a random time between 0 and the bound ("full jitter": Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015), so that clients that failed together do not come back together. A request's
    deadline covers all its attempts: no wait begins that would outlast it.

    Attributes:
        attempts: most times that a request is sent; 1: never again.
        initial_backoff: bound of the first wait, in seconds; each further one is twice the last.
        max_backoff: bound of any wait, in seconds.

    Raises:
        InvalidInput: a value out of range.
    """

    attempts: int = 4
    initial_backoff: float = 0.1
    max_backoff: float = 5.0

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or isinstance(self.attempts, bool) or self.attempts < 1:
            raise InvalidInput(f"attempts is {self.attempts!r}; give a whole number, 1 or more")
        for name in ("initial_backoff", "max_backoff"):
            seconds = getattr(self, name)
            number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
            if not number or not math.isfinite(seconds) or seconds < 0:
                raise InvalidInput(f"{name} is {seconds!r}; give a number of seconds, 0 or more")

    def settings(self, timeout: float) -> dict[str, Any]:
        """Return the arguments of tenacity's `Retrying` and `AsyncRetrying` for a request.

        Args:
            timeout: seconds until the answer must be there.
        """
        tenacity = import_tenacity()
        return {
            "stop": tenacity.stop_after_attempt(self.attempts) | tenacity.stop_before_delay(timeout),
            "wait": tenacity.wait_random_exponential(self.initial_backoff, self.max_backoff),
            "retry": tenacity.retry_if_exception_type(RETRIED),
            "retry_error_callback": _give_up,
        }


def import_tenacity() -> Any:
    """Return tenacity.

    Raises:
        RequestError: it is not installed.
    """
    try:
        import tenacity
    except ImportError as error:
        raise RequestError(f"tenacity cannot be imported ({error}); install 'longserve[client]'") from error
    return tenacity


def readiness_settings(timeout: float, where: str) -> dict[str, Any]:
    """Return the arguments of tenacity's `Retrying` and `AsyncRetrying` for waiting until True is returned.

    Args:
        timeout: seconds to wait, after which `ServerUnavailable` is raised.
        where: names what is waited for.
    """

    def give_up(state: Any) -> NoReturn:
        error = state.outcome.exception()
        cause = "it says that it is not ready" if error is None else str(error)
        raise ServerUnavailable(f"{where} was not ready within {timeout:g} s: {cause}") from error

    tenacity = import_tenacity()
    waited_out = (ServerUnavailable, Overloaded, DeadlineExceeded)
    return {
        "stop": tenacity.stop_before_delay(timeout),
        "wait": tenacity.wait_exponential(multiplier=0.05, max=1.0),
        "retry": tenacity.retry_if_exception_type(waited_out) | tenacity.retry_if_result(_is_false),
        "retry_error_callback": give_up,
    }


def _is_false(ready: object) -> bool:
    return ready is False


def _give_up(state: Any) -> NoReturn:
    """Raise the last attempt's error, saying how many there were."""
    error: BaseException = state.outcome.exception()
    if state.attempt_number == 1 or not isinstance(error, RETRIED):
        raise error
    raise type(error)(f"{error} (given up after {state.attempt_number} attempts)") from error


DEFAULT_RETRY = RetryPolicy()
