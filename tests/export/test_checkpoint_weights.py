"""Weights that a checkpoint holds beside those of its model: refused, or named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from checkpoints import make_small
from safetensors.torch import load_file, save_file

from longserve.export.checkpoint import load_checkpoint
from longserve.export.errors import CheckpointError, TaskMismatch
from longserve.serving.runtime.manifest import Task

CLASSIFY, ASK = Task.TEXT_CLASSIFICATION, Task.QUESTION_ANSWERING
Variant = Callable[..., Path]
Weights = Mapping[str, torch.Tensor]


def rewrite(directory: Path, change: Callable[[Weights], Weights]) -> str:
    path = directory / "model.safetensors"
    save_file(dict(change(load_file(path))), path, metadata={"format": "pt"})
    return str(directory)


def beside(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, **{name: torch.zeros(2) for name in names}}


def test_more_layers_than_the_configuration_says(variant: Variant) -> None:
    directory = variant(num_hidden_layers=1, attention_window=[8])
    with pytest.raises(CheckpointError, match=r"no place: longformer\.encoder\.layer\.1\..* and 19 more; an"):
        load_checkpoint(str(directory), CLASSIFY)


def test_more_layers_in_a_checkpoint_of_the_encoders_own_names(variant: Variant) -> None:
    source = rewrite(
        variant(num_hidden_layers=1, attention_window=[8]),
        lambda weights: {name.removeprefix("longformer."): weight for name, weight in weights.items()},
    )
    with pytest.raises(CheckpointError, match=r"no place: encoder\.layer\.1\."):
        load_checkpoint(source, CLASSIFY)


@pytest.mark.parametrize(
    "name", ["classifier.more.weight", "longformer.new.weight", "longformer.embeddings.norm.weight"]
)
def test_a_weight_of_the_model_that_has_no_place(variant: Variant, name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"no place: {name}; "):
        load_checkpoint(rewrite(variant(), beside(name)), CLASSIFY)


@pytest.mark.parametrize(
    "name", ["lora_A.default.weight", "lora_B.default.weight", "adapters.a.down.weight", "base_layer.bias"]
)
def test_adapters_that_are_not_merged(variant: Variant, name: str) -> None:
    name = f"longformer.encoder.layer.0.attention.self.query.{name}"
    with pytest.raises(CheckpointError, match=rf"adapter's weights beside .* {name}; merge them"):
        load_checkpoint(rewrite(variant(), beside(name)), CLASSIFY)


def test_layers_that_peft_has_wrapped(variant: Variant) -> None:
    source = rewrite(
        variant(),
        lambda weights: {name.replace(".query.", ".query.base_layer."): w for name, w in weights.items()},
    )
    with pytest.raises(CheckpointError, match=r"adapter's weights .* and 1 more"):
        load_checkpoint(source, CLASSIFY)


@pytest.mark.parametrize("whole", [True, False], ids=["beside a model", "alone"])
def test_a_directory_with_an_adapter(variant: Variant, whole: bool) -> None:
    directory = variant()
    (directory / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    shutil.copy(directory / "model.safetensors", directory / "adapter_model.safetensors")
    if not whole:
        (directory / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"variant holds an adapter \(adapter_config\.json\)"):
        load_checkpoint(str(directory), CLASSIFY)


@pytest.mark.parametrize("prefix", ["base_model.model.", "module.", "_orig_mod."])
@pytest.mark.parametrize("task", Task)
def test_the_names_of_a_wrapper(variant: Variant, task: Task, prefix: str) -> None:
    source = rewrite(variant(task), lambda weights: {prefix + name: w for name, w in weights.items()})
    with pytest.raises(
        CheckpointError, match=rf"with {prefix} in front, as in {prefix}.*; save that"
    ) as caught:
        load_checkpoint(source, task)
    assert not isinstance(caught.value, TaskMismatch)


@pytest.mark.parametrize(
    "names",
    [
        ("longformer.pooler.dense.bias", "longformer.pooler.dense.weight"),
        ("lm_head.bias", "lm_head.dense.weight"),
        ("qa_outputs.weight",),
    ],
    ids=str,
)
def test_what_the_task_does_not_use_is_named(variant: Variant, names: tuple[str, ...]) -> None:
    assert load_checkpoint(rewrite(variant(), beside(*names)), CLASSIFY).unused == names


def test_saved_position_ids_are_no_weights(variant: Variant) -> None:
    assert (
        load_checkpoint(rewrite(variant(), beside("longformer.embeddings.position_ids")), CLASSIFY).unused
        == ()
    )


def test_a_pretrained_head_and_a_pooler_beside_the_tasks_head(tmp_path: Path) -> None:
    pretrained = make_small("BertForPreTraining").state_dict()
    make_small("BertForQuestionAnswering").save_pretrained(tmp_path)
    kept = {
        name: value.clone() for name, value in pretrained.items() if name.startswith(("cls", "bert.pool"))
    }
    source = rewrite(tmp_path, lambda weights: {**kept, **weights})
    unused = load_checkpoint(source, ASK).unused
    assert {name.rpartition(".")[0] for name in unused} >= {"bert.pooler.dense", "cls.seq_relationship"}


def test_the_command_names_what_is_not_used(
    longserve: Callable[..., tuple[object, str, str]], variant: Variant, tmp_path: Path
) -> None:
    source, target = rewrite(variant(), beside("lm_head.bias")), tmp_path / "bundle"
    status, _, errors = longserve(
        "export", source, "--task", CLASSIFY.value, "-o", target, "--max-length", 1000
    )
    assert "variant also holds weights that text-classification does not use: lm_head.bias\n" in errors
    assert status == 1 and "max_length 1000" in errors
