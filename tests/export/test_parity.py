"""The comparison itself: it must see every kind of difference that it claims to see."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longserve.export import TOLERANCES, ParityFailed
from longserve.export.checkpoint import Checkpoint, load_checkpoint
from longserve.export.parity import ParityReport, check_parity
from longserve.export.parity_cases import GlobalPattern, default_lengths, make_cases, make_sequences
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import Engine, OnnxRuntimeEngine
from longserve.serving.runtime.manifest import Layout, Precision, Task


class Tampered:
    """An engine whose results are changed afterwards."""

    def __init__(self, engine: Engine, change: Any) -> None:
        self._engine, self._change = engine, change

    @property
    def runs_on(self) -> str:
        return f"tampered {self._engine.runs_on}"

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._change(value) for name, value in self._engine.run(feeds).items()}


@pytest.fixture(scope="module")
def qa(qa_checkpoint: Path, qa_bundle: Path) -> tuple[Checkpoint, Bundle, Engine]:
    bundle = Bundle.open(qa_bundle)
    engine = OnnxRuntimeEngine(bundle.model_path(Layout.PADDED))
    return load_checkpoint(str(qa_checkpoint), Task.QUESTION_ANSWERING), bundle, engine


def _report(qa: tuple[Checkpoint, Bundle, Engine], change: Any) -> ParityReport:
    checkpoint, bundle, engine = qa
    tampered = Tampered(engine, change)
    return check_parity(checkpoint.model, {Layout.PADDED: tampered}, bundle.manifest, lengths=(5, 40))


def test_an_equal_engine_passes(qa: tuple[Checkpoint, Bundle, Engine]) -> None:
    report = _report(qa, lambda value: value)
    assert report.failures == ()
    report.raise_if_failed()
    summary = report.summary()
    assert summary.argmax_agreement == 1.0
    assert 0 < summary.max_relative <= 1e-5
    assert summary.min_cosine > 0.999999
    assert len(report.results) == 2 * (len(GlobalPattern) + 1)


def test_a_model_that_was_told_to_return_tuples(
    qa: tuple[Checkpoint, Bundle, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qa[0].config, "return_dict", False)
    assert _report(qa, lambda value: value).failures == ()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda v: v + np.float32(1e-3), id="shifted"),
        pytest.param(lambda v: v * np.float32(1.01), id="scaled"),
        pytest.param(
            lambda v: np.where(np.arange(v.shape[1]) == 3, v + 1, v).astype(v.dtype), id="one-logit"
        ),
        pytest.param(lambda v: v[:, ::-1].copy(), id="reversed"),
        pytest.param(lambda v: -v, id="negated"),
    ],
)
def test_every_difference_fails_and_names_the_worst_case(
    qa: tuple[Checkpoint, Bundle, Engine], change: Any
) -> None:
    report = _report(qa, change)
    assert report.failures
    with pytest.raises(ParityFailed) as caught:
        report.raise_if_failed()
    assert report.worst.case in str(caught.value)
    assert "allowed 1e-05" in str(caught.value)


def test_a_result_that_is_not_finite_is_the_worst_of_all(qa: tuple[Checkpoint, Bundle, Engine]) -> None:
    def poison(value: Any) -> Any:
        value = value + np.float32(0.5)
        if value.shape[1] > 30:
            value[0, 0] = np.nan
        return value

    report = _report(qa, poison)
    assert not report.worst.finite
    with pytest.raises(ParityFailed, match="not finite"):
        report.raise_if_failed()
    assert json.loads(report.to_json())["summary"]["max_abs"] == float("inf")


def test_every_precision_has_its_own_tolerance() -> None:
    assert set(TOLERANCES) == set(Precision)
    assert TOLERANCES[Precision.FP32].max_relative == 1e-5
    assert len({tolerance.max_relative for tolerance in TOLERANCES.values()}) == len(Precision)


def test_default_lengths_cover_every_edge() -> None:
    lengths = default_lengths((256, 512), 128, 4096)
    for edge in (1, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 4095, 4096):
        assert edge in lengths
    assert max(lengths) == 4096
    assert max(default_lengths((512,), 128, 100)) == 100


def test_cases_cover_every_pattern_and_mixed_padding() -> None:
    cases = make_cases((5, 64, 2048))
    assert len({case.name for case in cases}) == len(cases)
    assert {pattern for case in cases for pattern in case.patterns} == set(GlobalPattern)
    assert any(len(set(case.lengths)) == 3 and len(set(case.patterns)) == 3 for case in cases)


def test_sequences_are_reproducible_free_of_padding_and_within_the_capacity() -> None:
    case = next(c for c in make_cases((64,)) if c.patterns == (GlobalPattern.ALL,))
    settings = {"vocab_size": 50, "pad_token_id": 1, "type_vocab_size": 2}
    first, again = (make_sequences(case, **settings)[0] for _ in range(2))
    assert (first.input_ids == again.input_ids).all()
    assert first.token_type_ids is not None
    assert set(np.unique(first.token_type_ids)) == {0, 1}
    assert 1 not in first.input_ids
    assert first.global_attention_mask.sum() == 64
    assert make_sequences(case, max_global_tokens=3, **settings)[0].global_attention_mask.sum() == 3
