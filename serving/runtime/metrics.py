"""The Prometheus metrics of the text models and of the encoder, and how they are filled.

The metrics themselves belong to whoever serves them: Triton's python backend gives its `MetricFamily` (User
Guide, "Custom Metrics"). Several models and instances share a family; the labels `model` and `version` tell
them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .errors import EngineError, Refusal
from .observation import EncoderRun
from .request_record import Failure, Outcome, RequestRecord

__all__ = ["EncoderMetrics", "Kind", "METRICS", "MetricSpec", "TextMetrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKENS = (16.0, 64.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 65536.0, 262144.0, 1048576.0)
_WINDOWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_SEQUENCES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class Kind(str, Enum):
    """Prometheus' metric types that are used here."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One metric family.

    Attributes:
        kind: its type.
        description: what it counts, for people.
        buckets: upper bounds of a histogram's buckets.
    """

    kind: Kind
    description: str
    buckets: tuple[float, ...] = ()


def _histogram(description: str, buckets: tuple[float, ...]) -> MetricSpec:
    return MetricSpec(kind=Kind.HISTOGRAM, description=description, buckets=buckets)


METRICS: Mapping[str, MetricSpec] = {
    "longserve_model_info": MetricSpec(
        kind=Kind.GAUGE, description="What is served: always 1, the labels say it"
    ),
    "longserve_requests_total": MetricSpec(
        kind=Kind.COUNTER,
        description="Requests to a text model, by outcome: answered, refused, overloaded, expired, failed",
    ),
    "longserve_requests_held": MetricSpec(
        kind=Kind.GAUGE, description="Requests that a text model holds: waiting, or being answered"
    ),
    "longserve_refusals_total": MetricSpec(
        kind=Kind.COUNTER, description="Requests refused for the caller's mistake, by reason"
    ),
    "longserve_failures_total": MetricSpec(
        kind=Kind.COUNTER, description="Requests that failed on the server, by whose failure it was"
    ),
    "longserve_text_tokens": _histogram("Tokens of a text, each counted once", _TOKENS),
    "longserve_text_windows": _histogram("Windows that a text was cut into", _WINDOWS),
    "longserve_tokenization_seconds": _histogram("Time to tokenize a text and cut it into windows", _SECONDS),
    "longserve_encoder_seconds": _histogram(
        "Time from sending a text's windows to the encoder until the last came back, queues included",
        _SECONDS,
    ),
    "longserve_decoding_seconds": _histogram("Time to make a text's result from the logits", _SECONDS),
    "longserve_run_seconds": _histogram("Time of one run of the encoder's graph", _SECONDS),
    "longserve_run_sequences": _histogram("Sequences in one run of the encoder's graph", _SEQUENCES),
    "longserve_run_tokens": _histogram("Tokens in one run of the encoder's graph", _TOKENS),
    "longserve_positions_total": MetricSpec(
        kind=Kind.COUNTER,
        description="Positions fed to the encoder's graph, by what they hold: token or padding",
    ),
}
"""Every metric of ours, by name."""


class TextMetrics:
    """The metrics of a text model."""

    def __init__(self, family: Any, labels: Mapping[str, str], described: Mapping[str, str]) -> None:
        """Create the metrics; counters start at 0, so that their rates are known from the first event on.

        Args:
            family: makes metric families: `pb_utils.MetricFamily`.
            labels: of every metric, `model` and `version`.
            described: further labels of `longserve_model_info`.

        Raises:
            EngineError: this Triton's python backend has no histograms.
        """
        made = _Families(family, labels)
        made.info(described)
        self._requests = {
            outcome: made.metric("longserve_requests_total", outcome=outcome.value) for outcome in Outcome
        }
        self._reasons: dict[Refusal | Failure, Any] = {
            **{why: made.metric("longserve_refusals_total", reason=why.value) for why in Refusal},
            **{whose: made.metric("longserve_failures_total", reason=whose.value) for whose in Failure},
        }
        self._held = made.metric("longserve_requests_held")
        self._held.increment(0)
        self._tokens = made.metric("longserve_text_tokens")
        self._windows = made.metric("longserve_text_windows")
        self._tokenization = made.metric("longserve_tokenization_seconds")
        self._encoder = made.metric("longserve_encoder_seconds")
        self._decoding = made.metric("longserve_decoding_seconds")
        self._families = made

    def hold(self, change: int) -> None:
        """Note that this many requests were taken, or if negative, let go of."""
        self._held.increment(change)

    def turn_away(self, count: int) -> None:
        """Add requests that were turned away as overload before they reached the model."""
        self._requests[Outcome.OVERLOADED].increment(count)

    def count(self, record: RequestRecord) -> None:
        """Add a request that has ended."""
        self._requests[record.outcome].increment(1)
        if record.reason is not None:
            self._reasons[record.reason].increment(1)
        for metric, values in (
            (self._tokens, record.tokens),
            (self._windows, record.windows),
            (self._tokenization, record.tokenization),
            (self._encoder, record.encoder),
            (self._decoding, record.decoding),
        ):
            for value in values:
                metric.observe(value)


class EncoderMetrics:
    """The metrics of an encoder. It is a `RunObserver`."""

    def __init__(self, family: Any, labels: Mapping[str, str], described: Mapping[str, str]) -> None:
        """Create the metrics; see `TextMetrics`."""
        made = _Families(family, labels)
        made.info(described)
        self._seconds = made.metric("longserve_run_seconds")
        self._sequences = made.metric("longserve_run_sequences")
        self._tokens = made.metric("longserve_run_tokens")
        self._positions = {
            held: made.metric("longserve_positions_total", holds=held) for held in ("token", "padding")
        }
        self._families = made

    def ran(self, run: EncoderRun) -> None:
        """See `RunObserver.ran`."""
        self._seconds.observe(run.seconds)
        self._sequences.observe(run.sequences)
        self._tokens.observe(run.tokens)
        self._positions["token"].increment(run.tokens)
        self._positions["padding"].increment(run.positions - run.tokens)


class _Families:
    """Makes metrics, and keeps what they belong to: a family that goes takes its metrics with it."""

    def __init__(self, family: Any, labels: Mapping[str, str]) -> None:
        self._make = family
        self._labels = dict(labels)
        self._kept: dict[str, Any] = {}

    def metric(self, name: str, **labels: str) -> Any:
        """Return a metric of the family `name` with these labels and the model's."""
        spec = METRICS[name]
        if name not in self._kept:
            self._kept[name] = self._make(name=name, description=spec.description, kind=self._kind(spec.kind))
        chosen = {"labels": {**self._labels, **labels}}
        if spec.kind is Kind.HISTOGRAM:
            return self._kept[name].Metric(**chosen, buckets=list(spec.buckets))
        return self._kept[name].Metric(**chosen)

    def info(self, described: Mapping[str, str]) -> None:
        """Set `longserve_model_info`."""
        self._info = self.metric("longserve_model_info", **described)
        self._info.set(1)

    def _kind(self, kind: Kind) -> Any:
        found = getattr(self._make, kind.name, None)
        if found is None:
            raise EngineError(
                f"this Triton's python backend has no {kind.value} metrics; "
                "use Triton 2.51 (NVIDIA's container 24.10) or later"
            )
        return found
