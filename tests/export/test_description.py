"""What settings a checkpoint takes, and what no reader of its bundle would."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from longserve.export import ExportError, ExportSettings
from longserve.export.checkpoint import Checkpoint, load_checkpoint
from longserve.export.description import check_readable, describe_checkpoint
from longserve.serving.runtime.manifest import Quantization, Task


@pytest.fixture
def checkpoint(originals: dict[Task, Path]) -> Checkpoint:
    """One of 64 positions."""
    return load_checkpoint(str(originals[Task.TEXT_CLASSIFICATION]), Task.TEXT_CLASSIFICATION)


@pytest.mark.parametrize("name", ["max_length", "max_global_tokens", "block_size"])
def test_settings_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(ExportError, match=f"{name} is 0"):
        ExportSettings(**{name: 0})


def test_a_length_beyond_the_positions_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ExportError, match="max_length 65 is more than the checkpoint's 64"):
        describe_checkpoint(checkpoint, ExportSettings(max_length=65))


@pytest.mark.parametrize("max_length", [None, 20])
@pytest.mark.parametrize("name", ["block_size", "max_global_tokens"])
def test_more_tokens_than_the_longest_sequence_are_refused(
    checkpoint: Checkpoint, name: str, max_length: int | None
) -> None:
    longest = max_length or 64
    settings = {
        size: ExportSettings(max_length=max_length, **{name: size}) for size in (longest, longest + 1)
    }
    assert getattr(describe_checkpoint(checkpoint, settings[longest]), name) == longest
    with pytest.raises(ExportError, match=f"{name} is {longest + 1}, but .* {longest} tokens; give at most"):
        describe_checkpoint(checkpoint, settings[longest + 1])


def test_what_no_reader_would_take_is_refused_before_the_work(checkpoint: Checkpoint) -> None:
    manifest = describe_checkpoint(checkpoint, ExportSettings())
    check_readable(manifest)
    for wrong, cause in (
        ({"special_tokens": {"sep": 5000}}, r"special_tokens\.sep is 5000"),
        ({"model_id": "b\udcff"}, "surrogates not allowed"),
    ):
        with pytest.raises(ExportError, match=f"could not be read again: .*{cause}"):
            check_readable(dataclasses.replace(manifest, **wrong))


def test_only_int8_is_quantized() -> None:
    with pytest.raises(ExportError, match="quantization is weights but the precision fp32"):
        ExportSettings(quantization=Quantization.WEIGHTS)
