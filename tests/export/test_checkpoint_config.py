"""Configurations that have no exact export, or none that anyone could read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longserve.export.checkpoint import load_checkpoint
from longserve.export.errors import UnsupportedModel
from longserve.serving.runtime.manifest import Task

CLASSIFY = Task.TEXT_CLASSIFICATION
Variant = Callable[..., Path]


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "torchao", "quant_type": "int8_weight_only"}}, "torchao"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantization_config"),
        ({"compression_config": {"format": "dense"}}, "compression_config"),
    ],
    ids=str,
)
def test_quantized_weights(variant: Variant, field: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModel, match=rf"is quantized \({named}\); .* was made from"):
        load_checkpoint(str(variant(**field)), CLASSIFY)


@pytest.mark.parametrize("number", [-1, 320, 5000])
def test_a_padding_token_outside_of_the_vocabulary(variant: Variant, number: int) -> None:
    with pytest.raises(UnsupportedModel, match=f"has pad_token_id {number}, but the ids .* are 0 to 319; "):
        load_checkpoint(str(variant(pad_token_id=number)), CLASSIFY)


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"sep_token_id": 5000}, "has sep_token_id 5000, but the ids"),
        ({"eos_token_id": -1}, "has eos_token_id -1, but the ids"),
        ({"eos_token_id": [2, 3], "sep_token_id": None}, r"has eos_token_id \[2, 3\]; only one"),
    ],
    ids=str,
)
def test_special_tokens_matter_where_no_tokenizer_names_them(
    variant: Variant, fields: dict[str, Any], cause: str
) -> None:
    directory = variant(**fields)
    assert load_checkpoint(str(directory), CLASSIFY).special_tokens["sep"] == 2
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (directory / name).unlink()
    with pytest.raises(UnsupportedModel, match=cause):
        load_checkpoint(str(directory), CLASSIFY)


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"num_hidden_layers": 0, "attention_window": []}, "has num_hidden_layers 0; it must be at least 1"),
        ({"num_attention_heads": 0}, "has num_attention_heads 0; "),
        ({"vocab_size": -3}, "has vocab_size -3; "),
        ({"id2label": {}}, "has no labels"),
        ({"id2label": {"0": "\ud83d", "1": "bad"}}, r"has the label '\\ud83d', which is no Unicode text; "),
    ],
    ids=ascii,
)
def test_degenerate_values(variant: Variant, fields: dict[str, Any], cause: str) -> None:
    with pytest.raises(UnsupportedModel, match=cause):
        load_checkpoint(str(variant(**fields)), CLASSIFY)


def test_no_position_is_left_for_a_token(tmp_path: Path) -> None:
    from checkpoints import TINY, make_checkpoint

    source = make_checkpoint(tmp_path / "none", CLASSIFY.value, **{**TINY, "max_position_embeddings": 2})
    with pytest.raises(
        UnsupportedModel, match="max_position_embeddings 2 with pad_token_id 1, which leaves no"
    ):
        load_checkpoint(str(source), CLASSIFY)
