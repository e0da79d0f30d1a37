"""Which inputs a run measures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from longserve.export.bench import BenchError, BenchSettings
from longserve.serving.runtime.bundle import Bundle


@pytest.fixture
def bundle(classification_bundle: Path) -> Bundle:
    return Bundle.open(classification_bundle, verify=False)


class TestCases:
    def test_the_usual_lengths_as_far_as_the_model_goes(self, bundle: Bundle) -> None:
        cases = BenchSettings(batches=(1, 4)).cases(bundle.manifest)
        assert [(c.batch, c.length, c.global_tokens) for c in cases] == [
            (1, 128, 1),
            (1, 512, 1),
            (4, 128, 1),
            (4, 512, 1),
        ]

    def test_a_short_model_is_measured_at_its_longest(self, bundle: Bundle) -> None:
        manifest = dataclasses.replace(bundle.manifest, max_length=64)
        assert [case.length for case in BenchSettings().cases(manifest)] == [64]

    def test_questions_have_global_tokens(self, qa_bundle: Path) -> None:
        manifest = Bundle.open(qa_bundle, verify=False).manifest
        cases = BenchSettings(lengths=(8, 100)).cases(manifest)
        assert [case.global_tokens for case in cases] == [8, 20]

    def test_a_length_beyond_the_model_is_refused(self, bundle: Bundle) -> None:
        with pytest.raises(BenchError, match=r"length of 513 tokens .* at most 512"):
            BenchSettings(lengths=(100, 513)).cases(bundle.manifest)

    def test_more_globals_than_the_graph_takes_are_refused(self, bundle: Bundle) -> None:
        manifest = dataclasses.replace(bundle.manifest, max_global_tokens=4)
        with pytest.raises(BenchError, match=r"5 global tokens .* at most 4"):
            BenchSettings(global_tokens=5).cases(manifest)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lengths": (128, 0)}, r"lengths is \[128, 0\]"),
        ({"batches": (2, 2)}, r"batches is \[2, 2\]"),
        ({"layouts": ()}, "no layout"),
        ({"engines": ()}, "no engine"),
        ({"rounds": 0}, "rounds is 0; give 1"),
        ({"warmup": 0}, "warmup is 0; give 1"),
        ({"threads": -1}, "threads is -1"),
        ({"global_tokens": -1}, "global_tokens is -1"),
        ({"timeout": 0.0}, "timeout is 0"),
        ({"at_once": 1}, "at_once is 1; give 2"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        BenchSettings(**wrong)  # type: ignore[arg-type]
