"""What the pipelines and runs report, and what becomes of it: metrics and the line of a request."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longserve.serving.runtime.engine import encode
from longserve.serving.runtime.errors import EngineError, InvalidInput, Refusal
from longserve.serving.runtime.limits import TextLimits
from longserve.serving.runtime.manifest import Manifest, Task
from longserve.serving.runtime.metrics import METRICS, EncoderMetrics, Kind, TextMetrics
from longserve.serving.runtime.observation import EncoderRun
from longserve.serving.runtime.options import ClassificationOptions, QuestionAnsweringOptions
from longserve.serving.runtime.packing import EncoderOutput, EncoderSequence
from longserve.serving.runtime.pipeline import (
    ClassificationPipeline,
    QuestionAnsweringPipeline,
    make_pipeline,
)
from longserve.serving.runtime.request_record import Failure, Outcome, RequestRecord

MakeManifest = Callable[..., Manifest]
LABELS = {"model": "letters", "version": "1"}


class FakeMetric:
    def __init__(self, labels: dict[str, str], buckets: list[float] | None) -> None:
        self.labels = labels
        self.buckets = buckets
        self.value = 0.0
        self.observed: list[float] = []

    def increment(self, value: float) -> None:
        assert value >= 0
        self.value += value

    def set(self, value: float) -> None:
        self.value = value

    def observe(self, value: float) -> None:
        assert self.buckets
        self.observed.append(value)


class FakeFamily:
    """Stands for `pb_utils.MetricFamily`, with its refusals."""

    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
    made: dict[str, FakeFamily]

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert name not in self.made and description
        self.kind = kind
        self.metrics: list[FakeMetric] = []
        self.made[name] = self

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> FakeMetric:  # noqa: N802
        assert (self.kind == "histogram") == (buckets is not None)
        self.metrics.append(FakeMetric(labels, buckets))
        return self.metrics[-1]


@pytest.fixture
def family() -> Any:
    return type("Family", (FakeFamily,), {"made": {}})


def value(family: Any, name: str, **labels: str) -> float:
    (metric,) = [m for m in family.made[name].metrics if labels.items() <= m.labels.items()]
    return float(metric.value)


def observed(family: Any, name: str) -> list[float]:
    (metric,) = family.made[name].metrics
    assert metric.labels == LABELS
    return list(metric.observed)


@pytest.fixture(scope="module")
def asks(tokenizer_path: Path, make_manifest: MakeManifest) -> QuestionAnsweringPipeline:
    limits = TextLimits(max_text_bytes=2000, max_windows=8)
    pipeline = make_pipeline(make_manifest(max_global_tokens=40), tokenizer_path, limits)
    assert isinstance(pipeline, QuestionAnsweringPipeline)
    return pipeline


@pytest.fixture(scope="module")
def classifies(tokenizer_path: Path, make_manifest: MakeManifest) -> ClassificationPipeline:
    pipeline = make_pipeline(make_manifest(Task.TEXT_CLASSIFICATION), tokenizer_path)
    assert isinstance(pipeline, ClassificationPipeline)
    return pipeline


REFUSED = {
    "empty": ("", "context", {}, Refusal.EMPTY),
    "blank": ("where", " \n", {}, Refusal.EMPTY),
    "NUL": ("where", "a\0b", {}, Refusal.NOT_TEXT),
    "surrogate": ("where", "a\ud800b", {}, Refusal.NOT_TEXT),
    "no string": ("where", b"bytes", {}, Refusal.NOT_TEXT),
    "too large": ("where", "x" * 2001, {}, Refusal.TOO_LARGE),
    "too many windows": ("where", "the key " * 200, {}, Refusal.TOO_MANY_WINDOWS),
    "no room for the context": ("the key and the box " * 20, "key", {}, Refusal.QUESTION_TOO_LONG),
    "too many global tokens": ("q z j x " * 6, "key", {}, Refusal.QUESTION_TOO_LONG),
    "unknown option": ("where", "key", {"topk": 1}, Refusal.OPTION),
    "option out of range": ("where", "key", {"top_k": 0}, Refusal.OPTION),
    "option of a wrong type": ("where", "key", {"stride": "wide"}, Refusal.OPTION),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_says_what_kind_of_input_it_is(asks: QuestionAnsweringPipeline, case: str) -> None:
    question, context, options, reason = REFUSED[case]
    with pytest.raises(InvalidInput) as caught:
        asks.prepare(question, context, QuestionAnsweringOptions.from_parameters(options))  # type: ignore[arg-type]
    assert caught.value.reason is reason


def test_the_stride_of_a_classifier_is_an_option(classifies: ClassificationPipeline) -> None:
    with pytest.raises(InvalidInput, match="stride") as caught:
        classifies.prepare("the key " * 100, ClassificationOptions(stride=63))
    assert caught.value.reason is Refusal.OPTION


def test_the_pipelines_report_each_text(
    asks: QuestionAnsweringPipeline, classifies: ClassificationPipeline
) -> None:
    record = RequestRecord("r")
    question = asks.prepare("where", "the key is here " * 20, QuestionAnsweringOptions(), record)
    text = classifies.prepare("the key", ClassificationOptions(), record)
    assert record.tokens == [question.tokens, text.tokens]
    assert record.windows == [len(question.sequences), 1] and record.windows[0] > 1
    assert len(record.tokenization) == 2 and min(record.tokenization) > 0
    logits = [_spans(sequence) for sequence in question.sequences]
    asks.finish(question, logits, record)
    asks.finish_windows(question, logits, record)
    scores = [EncoderOutput(logits=np.zeros(3, np.float32))]
    classifies.finish(text, scores, record)
    classifies.finish_windows(text, scores, record)
    assert len(record.decoding) == 4 and min(record.decoding) > 0
    with pytest.raises(InvalidInput):
        classifies.prepare("", ClassificationOptions(), record)
    assert len(record.tokens) == 2


def _spans(sequence: EncoderSequence) -> EncoderOutput:
    values = np.zeros(sequence.input_ids.size, np.float32)
    return EncoderOutput(start_logits=values, end_logits=values)


class Engine:
    """Gives zeros of the right shape; `surplus` positions of padding are fed beside the sequences."""

    runs_on = "nothing"

    def run(self, feeds: Any) -> dict[str, Any]:
        return {"logits": np.zeros((feeds["sequence_ends"].size, 3), np.float32)}


class Watcher:
    def __init__(self) -> None:
        self.runs: list[EncoderRun] = []

    def ran(self, run: EncoderRun) -> None:
        self.runs.append(run)


def _sequence(length: int) -> EncoderSequence:
    ids = np.full(length, 7, dtype=np.int64)
    return EncoderSequence(input_ids=ids, global_attention_mask=np.zeros_like(ids))


def test_a_run_is_reported_as_it_was_fed(
    make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_manifest(Task.TEXT_CLASSIFICATION)
    watcher = Watcher()
    encode(Engine(), [_sequence(5), _sequence(30)], manifest, watcher)
    (run,) = watcher.runs
    assert (run.sequences, run.tokens, run.positions) == (2, 35, 35) and run.seconds > 0

    def padded(sequences: Any, manifest: Manifest) -> Any:
        return {
            "input_ids": np.zeros((2, 30), np.int64),
            "sequence_ends": np.zeros(len(sequences), np.int32),
        }

    monkeypatch.setattr("longserve.serving.runtime.engine.pack", padded)
    encode(Engine(), [_sequence(5), _sequence(30)], manifest, watcher)
    assert (watcher.runs[1].tokens, watcher.runs[1].positions) == (35, 60)


def test_a_run_that_fails_is_not_reported(make_manifest: MakeManifest) -> None:
    class Broken(Engine):
        def run(self, feeds: Any) -> dict[str, Any]:
            raise EngineError("no memory")

    watcher = Watcher()
    with pytest.raises(EngineError):
        encode(Broken(), [_sequence(5)], make_manifest(Task.TEXT_CLASSIFICATION), watcher)
    assert watcher.runs == []


def test_runs_are_counted(family: Any) -> None:
    metrics = EncoderMetrics(family, LABELS, {"bundle": "abc", "engine": "onnxruntime"})
    metrics.ran(EncoderRun(sequences=3, tokens=70, positions=70, seconds=0.5))
    metrics.ran(EncoderRun(sequences=1, tokens=10, positions=16, seconds=0.25))
    assert observed(family, "longserve_run_sequences") == [3, 1]
    assert observed(family, "longserve_run_tokens") == [70, 10]
    assert observed(family, "longserve_run_seconds") == [0.5, 0.25]
    assert value(family, "longserve_positions_total", holds="token") == 80
    assert value(family, "longserve_positions_total", holds="padding") == 6
    assert value(family, "longserve_model_info", bundle="abc", engine="onnxruntime", **LABELS) == 1


def test_requests_are_counted(family: Any) -> None:
    metrics = TextMetrics(family, LABELS, {"bundle": "abc"})
    for reason in (*Refusal, *Failure):
        name = "longserve_refusals_total" if isinstance(reason, Refusal) else "longserve_failures_total"
        assert value(family, name, reason=reason.value, **LABELS) == 0
    answered = RequestRecord("a")
    answered.prepared(10, 1, 0.1)
    answered.prepared(5000, 3, 0.2)
    answered.encoded(1.5)
    answered.encoded(2.5)
    answered.decoded(0.01)
    answered.decoded(0.02)
    answered.end(Outcome.ANSWERED)
    refused, overloaded, expired, failed, defect = (RequestRecord(name) for name in "bcdef")
    refused.end(Outcome.REFUSED, Refusal.TOO_LARGE)
    overloaded.end(Outcome.OVERLOADED)
    expired.end(Outcome.EXPIRED)
    failed.end(Outcome.FAILED, Failure.ENCODER)
    for record in (answered, refused, overloaded, expired, failed, defect):
        metrics.count(record)
    counts = {o: value(family, "longserve_requests_total", outcome=o.value) for o in Outcome}
    assert counts == {
        Outcome.ANSWERED: 1,
        Outcome.REFUSED: 1,
        Outcome.OVERLOADED: 1,
        Outcome.EXPIRED: 1,
        Outcome.FAILED: 2,
    }
    assert value(family, "longserve_refusals_total", reason="too_large") == 1
    assert value(family, "longserve_failures_total", reason="encoder") == 1
    assert value(family, "longserve_failures_total", reason="defect") == 1
    assert observed(family, "longserve_text_tokens") == [10, 5000]
    assert observed(family, "longserve_text_windows") == [1, 3]
    assert observed(family, "longserve_tokenization_seconds") == [0.1, 0.2]
    assert observed(family, "longserve_encoder_seconds") == [1.5, 2.5]
    assert observed(family, "longserve_decoding_seconds") == [0.01, 0.02]


def test_a_triton_without_histograms_is_named() -> None:
    old = type("Old", (FakeFamily,), {"made": {}, "HISTOGRAM": None})
    with pytest.raises(EngineError, match=r"no histogram metrics; use Triton 2\.51"):
        TextMetrics(old, LABELS, {})


def test_the_names_are_prometheus() -> None:
    for name, spec in METRICS.items():
        assert name.startswith("longserve_")
        assert (spec.kind is Kind.COUNTER) == name.endswith("_total")
        assert (spec.kind is Kind.HISTOGRAM) == bool(spec.buckets)
        assert list(spec.buckets) == sorted(set(spec.buckets))


def test_the_line_of_a_request_is_one_line_without_its_text() -> None:
    record = RequestRecord('an "id"\nof é lines')
    record.prepared(12, 1, 0.001)
    record.prepared(9000, 3, 0.002)
    record.encoded(0.5)
    record.encoded(0.75)
    record.decoded(0.0000001)
    record.end(Outcome.ANSWERED)
    record.stop()
    line = record.to_json("letters", "1")
    assert line.isascii() and "\n" not in line
    fields = json.loads(line)
    assert fields.pop("seconds") > 0
    assert fields == {
        "event": "request",
        "request_id": 'an "id"\nof é lines',
        "model": "letters",
        "version": "1",
        "outcome": "answered",
        "reason": None,
        "texts": 2,
        "tokens": 9012,
        "windows": 4,
        "tokenization_seconds": 0.003,
        "encoder_seconds": 0.75,
        "decoding_seconds": 0.0,
    }
    refused = RequestRecord("x" * 1000)
    refused.end(Outcome.REFUSED, Refusal.EMPTY)
    fields = json.loads(refused.to_json("letters", "1"))
    assert (fields["outcome"], fields["reason"]) == ("refused", "empty")
    assert len(fields["request_id"]) == 128 and fields["request_id"].endswith("…")
    assert json.loads(RequestRecord("").to_json("m", "1"))["reason"] == "defect"
