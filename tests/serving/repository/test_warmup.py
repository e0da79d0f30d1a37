"""Warm-up samples are requests that the model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longserve.serving import EncoderSequence, Task
from longserve.serving.repository.warmup import warmup_samples
from longserve.serving.runtime.packing import check_sequence

from .conftest import make_manifest


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_length": 6},
        {"max_length": 1},
        {"type_vocab_size": 2},
        {"max_global_tokens": 1},
        {"max_global_tokens": 3, "max_length": 2},
        {"vocab_size": 6},
        {"special_tokens": {}},
    ],
    ids=str,
)
def test_samples_are_fit_for_the_model(task: Task, changes: dict[str, Any]) -> None:
    manifest = make_manifest(task, **changes)
    samples = warmup_samples(manifest)
    assert len(samples) == 2
    for sample in samples:
        sequence = EncoderSequence(**sample.tensors)
        check_sequence(sequence, manifest)
        assert sequence.global_attention_mask.any()


def test_ids_are_ordinary_tokens_between_the_special_ones() -> None:
    manifest = make_manifest()
    for sample in warmup_samples(manifest):
        ids = sample.tensors["input_ids"]
        assert (ids[0], ids[-1]) == (0, 2)
        assert not np.isin(ids[1:-1], list(manifest.special_tokens.values())).any()


def test_files_hold_the_elements(tmp_path: Path) -> None:
    for sample in warmup_samples(make_manifest(Task.QUESTION_ANSWERING)):
        sample.write(tmp_path)
        for name, array in sample.tensors.items():
            assert (np.fromfile(tmp_path / sample.file_name(name), "<i8") == array).all()
