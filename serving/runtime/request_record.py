"""What became of one request to a text model: its measures and its outcome, without a word of its texts."""

from __future__ import annotations

import json
import time
from enum import Enum

from .errors import Refusal

__all__ = ["Failure", "LOG_REQUESTS", "Outcome", "PROBE_ID", "REQUEST_EVENT", "RequestRecord"]

LOG_REQUESTS = "LONGSERVE_LOG_REQUESTS"
"""Environment variable; where it is 1, a text model writes one line per request into Triton's log."""
REQUEST_EVENT = "request"
"""Value of `event` in such a line."""
PROBE_ID = "longserve-readiness"
"""Request id of the questions that only ask whether a model answers: a log tells them from callers' by it."""
_LONGEST_ID = 128
_MICROSECOND = 6


class Outcome(str, Enum):
    """How a request ended."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """The caller's mistake."""
    OVERLOADED = "overloaded"
    """The model held as many requests as it may."""
    EXPIRED = "expired"
    """Its time was over before the answer was there."""
    FAILED = "failed"


class Failure(str, Enum):
    """Whose failure it was."""

    ENCODER = "encoder"
    """The encoder did not answer, or with an error."""
    RESULT = "result"
    """The encoder's outputs cannot be used."""
    DEFECT = "defect"
    """A defect of the text model."""


class RequestRecord:
    """Collects the measures of one request. It is a `TextObserver`.

    Attributes:
        request_id: what the client called it; "" if it gave no name.
        outcome: how it ended. Until it has ended: failed, by a defect.
        reason: why it was not answered; None if it was, or if the encoder was overloaded.
        tokens: tokens of each text that was tokenized.
        windows: windows of each of them.
        tokenization: seconds that tokenizing each of them took.
        encoder: seconds from sending each text's windows to the last one's answer, queues included.
        decoding: seconds that making each result took.
        seconds: from the start of the request in the model to its end.
    """

    def __init__(self, request_id: str) -> None:
        """Start the clock."""
        self.request_id = request_id
        self.outcome = Outcome.FAILED
        self.reason: Refusal | Failure | None = Failure.DEFECT
        self.tokens: list[int] = []
        self.windows: list[int] = []
        self.tokenization: list[float] = []
        self.encoder: list[float] = []
        self.decoding: list[float] = []
        self.seconds = 0.0
        self._started = time.perf_counter()

    def prepared(self, tokens: int, windows: int, seconds: float) -> None:
        """See `TextObserver.prepared`."""
        self.tokens.append(tokens)
        self.windows.append(windows)
        self.tokenization.append(seconds)

    def encoded(self, seconds: float) -> None:
        """All windows of a text came back from the encoder after `seconds`."""
        self.encoder.append(seconds)

    def decoded(self, seconds: float) -> None:
        """See `TextObserver.decoded`."""
        self.decoding.append(seconds)

    def end(self, outcome: Outcome, reason: Refusal | Failure | None = None) -> None:
        """Set how the request ended."""
        self.outcome = outcome
        self.reason = reason

    def stop(self) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self._started

    @property
    def shown_id(self) -> str:
        """The request's id, shortened where it is longer than our clients make one."""
        if len(self.request_id) <= _LONGEST_ID:
            return self.request_id
        return self.request_id[: _LONGEST_ID - 1] + "…"

    def to_json(self, model: str, version: str) -> str:
        """Return the record as one line of ASCII JSON. Of the request it holds the id and numbers, no text.

        Args:
            model: the text model's name.
            version: its version.
        """
        return json.dumps(
            {
                "event": REQUEST_EVENT,
                "request_id": self.shown_id,
                "model": model,
                "version": version,
                "outcome": self.outcome.value,
                "reason": None if self.reason is None else self.reason.value,
                "texts": len(self.tokens),
                "tokens": sum(self.tokens),
                "windows": sum(self.windows),
                "tokenization_seconds": round(sum(self.tokenization), _MICROSECOND),
                "encoder_seconds": round(max(self.encoder, default=0.0), _MICROSECOND),
                "decoding_seconds": round(sum(self.decoding), _MICROSECOND),
                "seconds": round(self.seconds, _MICROSECOND),
            }
        )
