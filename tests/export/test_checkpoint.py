"""What `load_checkpoint` takes, and what it says of what it does not take."""

from __future__ import annotations

import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import TINY, train_tokenizer
from safetensors.torch import load_file, save_file

from longserve.export.checkpoint import load_checkpoint
from longserve.export.errors import CheckpointError, CheckpointNotFound, TaskMismatch, UnsupportedModel
from longserve.serving.runtime.manifest import ProblemType, Task

CLASSIFY, ASK = Task.TEXT_CLASSIFICATION, Task.QUESTION_ANSWERING
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
Variant = Callable[..., Path]


def remove(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).unlink()


def test_a_classifier_loads_with_all_that_the_manifest_needs(variant: Variant) -> None:
    directory = variant(
        id2label={"0": "good", "1": "bad"}, problem_type="multi_label_classification", attention_window=8
    )
    checkpoint = load_checkpoint(str(directory), CLASSIFY)
    assert checkpoint.labels == ("good", "bad")
    assert checkpoint.problem_type is ProblemType.MULTI_LABEL
    assert tuple(checkpoint.config.attention_window) == (8, 8)
    assert checkpoint.special_tokens == {
        "cls": 0, "bos": 0, "pad": 1, "sep": 2, "eos": 2, "unk": 3, "mask": 4,
    }  # fmt: skip
    assert (checkpoint.model_id, checkpoint.revision) == ("variant", None)
    assert not checkpoint.model.training
    assert {parameter.dtype for parameter in checkpoint.model.parameters()} == {torch.float32}


def test_a_question_answering_model_has_no_labels(originals: dict[Task, Path]) -> None:
    checkpoint = load_checkpoint(str(originals[ASK]), ASK)
    assert checkpoint.labels == ()
    assert checkpoint.problem_type is None
    assert tuple(checkpoint.config.attention_window) == (4, 8)


def test_half_precision_weights_become_float32(variant: Variant) -> None:
    directory = variant(dtype="float16")
    weights = load_file(directory / "model.safetensors")
    save_file(
        {name: value.half() for name, value in weights.items()},
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    model = load_checkpoint(str(directory), CLASSIFY).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_home_directory_is_known_by_its_sign(
    variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_checkpoint("~/variant", CLASSIFY).model_id == "variant"


def test_a_relative_directory_is_taken_before_a_hub_id(
    variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant()
    monkeypatch.chdir(tmp_path)
    assert load_checkpoint("variant", CLASSIFY).revision is None


class TestSource:
    def test_a_directory_that_is_no_checkpoint(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointNotFound, match=r"is no checkpoint: it has no config\.json"):
            load_checkpoint(str(tmp_path), CLASSIFY)

    def test_a_file(self, originals: dict[Task, Path]) -> None:
        with pytest.raises(CheckpointNotFound, match=r"model\.safetensors is a file; give the check"):
            load_checkpoint(str(originals[CLASSIFY] / "model.safetensors"), CLASSIFY)

    def test_a_revision_of_a_directory(self, originals: dict[Task, Path]) -> None:
        source = str(originals[CLASSIFY])
        with pytest.raises(
            CheckpointNotFound, match="is a local directory, which has no revision v99; leave"
        ):
            load_checkpoint(source, CLASSIFY, revision="v99")
        assert load_checkpoint(source, CLASSIFY, default_revision="v99").revision is None

    def test_a_bundle(self, variant: Variant) -> None:
        directory = variant()
        remove(directory, "model.safetensors", *TOKENIZER_FILES)
        (directory / "manifest.json").write_text("{}")
        with pytest.raises(
            CheckpointNotFound, match="variant is a longserve bundle, no checkpoint; give the "
        ):
            load_checkpoint(str(directory), CLASSIFY)

    @pytest.mark.parametrize("source", ["/nowhere/model", "./nowhere", "../nowhere/x", "~/nowhere", "a/b/c"])
    def test_a_path_that_is_not_there_is_not_asked_of_the_hub(self, source: str) -> None:
        with pytest.raises(CheckpointNotFound, match=f"^there is no directory {source}; "):
            load_checkpoint(source, CLASSIFY)

    @pytest.mark.parametrize("source", ["nobody/nothing-at-all", "nothing-at-all"])
    def test_a_hub_id_without_a_connection_fails_at_once(self, source: str) -> None:
        begin = time.monotonic()
        with pytest.raises(CheckpointNotFound, match=f"^{source} is no local directory and .*hub: .*; "):
            load_checkpoint(source, CLASSIFY)
        assert time.monotonic() - begin < 10

    @pytest.mark.parametrize("source", ["two words", "a\0b", "né"])
    def test_what_is_no_hub_id_either(self, source: str) -> None:
        with pytest.raises(CheckpointNotFound, match="is no local directory"):
            load_checkpoint(source, CLASSIFY)


class TestHub:
    """The hub's cache stands for the hub: the same code reads both."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    @pytest.fixture
    def publish(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
        cache = tmp_path / "hub"
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))

        def publish(directory: Path) -> str:
            repository = cache / "models--someone--model"
            shutil.copytree(directory, repository / "snapshots" / self.COMMIT)
            (repository / "refs").mkdir()
            (repository / "refs" / "main").write_text(self.COMMIT)
            return "someone/model"

        return publish

    @pytest.mark.parametrize("revision", [None, "main", COMMIT])
    def test_the_commit_is_recorded(
        self, originals: dict[Task, Path], publish: Callable[[Path], str], revision: str | None
    ) -> None:
        checkpoint = load_checkpoint(publish(originals[CLASSIFY]), CLASSIFY, revision=revision)
        assert (checkpoint.model_id, checkpoint.revision) == ("someone/model", self.COMMIT)
        assert checkpoint.tokenizer is not None

    def test_a_revision_that_is_not_there(
        self, originals: dict[Task, Path], publish: Callable[[Path], str]
    ) -> None:
        with pytest.raises(CheckpointNotFound, match="someone/model at revision v9 "):
            load_checkpoint(publish(originals[CLASSIFY]), CLASSIFY, revision="v9")

    def test_the_default_revision(self, originals: dict[Task, Path], publish: Callable[[Path], str]) -> None:
        source = publish(originals[CLASSIFY])
        assert load_checkpoint(source, CLASSIFY, default_revision=self.COMMIT).revision == self.COMMIT
        with pytest.raises(CheckpointNotFound, match="someone/model at revision v9 "):
            load_checkpoint(source, CLASSIFY, default_revision="v9")

    def test_a_repository_with_an_adapter(self, variant: Variant, publish: Callable[[Path], str]) -> None:
        directory = variant()
        (directory / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        with pytest.raises(CheckpointError, match="someone/model holds an adapter"):
            load_checkpoint(publish(directory), CLASSIFY)

    def test_a_repository_without_tokenizer(self, variant: Variant, publish: Callable[[Path], str]) -> None:
        directory = variant()
        remove(directory, *TOKENIZER_FILES)
        assert load_checkpoint(publish(directory), CLASSIFY).tokenizer is None

    def test_a_repository_without_weights(self, variant: Variant, publish: Callable[[Path], str]) -> None:
        directory = variant()
        remove(directory, "model.safetensors")
        with pytest.raises(CheckpointNotFound, match=r"someone/model .* model\.safetensors"):
            load_checkpoint(publish(directory), CLASSIFY)


class TestConfiguration:
    def test_another_architecture(self, tmp_path: Path) -> None:
        from transformers import DistilBertConfig, DistilBertForSequenceClassification

        config = DistilBertConfig(vocab_size=32, dim=8, n_layers=1, n_heads=2, hidden_dim=8)
        DistilBertForSequenceClassification(config).save_pretrained(tmp_path)
        with pytest.raises(UnsupportedModel, match=r"is a distilbert model; longserve exports .*longformer"):
            load_checkpoint(str(tmp_path), CLASSIFY)

    @pytest.mark.parametrize("model_type", ["unheard-of", ...])
    def test_no_architecture_that_transformers_knows(self, variant: Variant, model_type: Any) -> None:
        with pytest.raises(CheckpointNotFound, match=r"cannot be read: .*model"):
            load_checkpoint(str(variant(model_type=model_type)), CLASSIFY)

    def test_code_in_a_checkpoint_is_neither_run_nor_asked_about(
        self, variant: Variant, capsys: pytest.CaptureFixture[str]
    ) -> None:
        directory = variant(model_type="own", auto_map={"AutoConfig": "configuration_own.OwnConfig"})
        (directory / "configuration_own.py").write_text("raise SystemExit('run')\n")
        with pytest.raises(CheckpointNotFound, match=r"cannot be read: .*custom code"):
            load_checkpoint(str(directory), CLASSIFY)
        assert "[y/N]" not in capsys.readouterr().out

    @pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\xff"])
    def test_no_json_object(self, variant: Variant, text: str) -> None:
        directory = variant()
        (directory / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(CheckpointNotFound, match=f"the checkpoint {directory} cannot be read: "):
            load_checkpoint(str(directory), CLASSIFY)

    @pytest.mark.parametrize(
        "fields",
        [
            {"attention_window": "wide"},
            {"attention_window": None},
            {"attention_window": ["4", "8"]},
            {"hidden_size": "large"},
            {"id2label": ["good", "bad"]},
            {"id2label": {"first": "good"}},
        ],
        ids=str,
    )
    def test_a_field_of_the_wrong_type(self, variant: Variant, fields: dict[str, Any]) -> None:
        with pytest.raises(CheckpointError, match=r"variant (cannot be read: .*\w|has attention_window)"):
            load_checkpoint(str(variant(**fields)), CLASSIFY)

    @pytest.mark.parametrize(
        ("window", "cause"),
        [
            ([4], r"attention_window \[4\] for 2 layers"),
            ([4, 4, 4], "for 2 layers"),
            ([], r"attention_window \[\] for 2 layers"),
            ([4, 0], "positive even number"),
            ([4, 5], "positive even number"),
            (-4, "positive even number"),
            (7, "positive even number"),
            ([2, 4], "at least 4"),
            ([8, 12], r"\[8, 12\]; the stock model runs only where each .* divides the largest, 12"),
        ],
    )
    def test_attention_windows(self, variant: Variant, window: Any, cause: str) -> None:
        with pytest.raises(UnsupportedModel, match=cause):
            load_checkpoint(str(variant(attention_window=window)), CLASSIFY)

    @pytest.mark.parametrize(
        ("names", "cause"),
        [
            ({"0": "same", "1": "same"}, r"\['same', 'same'\]"),
            ({"1": "good", "2": "bad"}, r"the indices \[1, 2\]; .* 0 to 1"),
        ],
    )
    def test_labels(self, variant: Variant, names: dict[str, str], cause: str) -> None:
        with pytest.raises(UnsupportedModel, match=cause):
            load_checkpoint(str(variant(id2label=names)), CLASSIFY)

    def test_an_unknown_problem_type(self, variant: Variant) -> None:
        with pytest.raises(CheckpointError, match="problem_type 'ranking'"):
            load_checkpoint(str(variant(problem_type="ranking")), CLASSIFY)

    def test_no_padding_token(self, variant: Variant) -> None:
        with pytest.raises(UnsupportedModel, match="no pad_token_id"):
            load_checkpoint(str(variant(pad_token_id=None)), CLASSIFY)


class TestHead:
    @pytest.mark.parametrize(("held", "wanted"), [(CLASSIFY, ASK), (ASK, CLASSIFY)])
    def test_the_other_task(self, originals: dict[Task, Path], held: Task, wanted: Task) -> None:
        with pytest.raises(TaskMismatch, match=f"the task {wanted.value} needs Longformer.*; choose"):
            load_checkpoint(str(originals[held]), wanted)

    @pytest.mark.parametrize(("held", "wanted"), [(CLASSIFY, ASK), (ASK, CLASSIFY)])
    def test_the_other_task_in_a_checkpoint_that_does_not_say(
        self, variant: Variant, held: Task, wanted: Task
    ) -> None:
        with pytest.raises(TaskMismatch, match=f"no weights for the head of {wanted.value}"):
            load_checkpoint(str(variant(held, architectures=...)), wanted)

    def test_a_pretrained_model_without_head(self, tmp_path: Path) -> None:
        from transformers import LongformerConfig, LongformerForMaskedLM

        LongformerForMaskedLM(LongformerConfig(**TINY, vocab_size=32)).save_pretrained(tmp_path)
        with pytest.raises(TaskMismatch, match=r"holds LongformerForMaskedLM, .* or a fine-tuned checkpoint"):
            load_checkpoint(str(tmp_path), CLASSIFY)

    def test_three_question_answering_outputs(self, variant: Variant) -> None:
        with pytest.raises(UnsupportedModel, match="3 question-answering outputs"):
            load_checkpoint(str(variant(ASK, id2label={"0": "a", "1": "b", "2": "c"})), ASK)


class TestWeights:
    def test_no_file(self, variant: Variant) -> None:
        directory = variant()
        remove(directory, "model.safetensors")
        with pytest.raises(CheckpointNotFound, match=r"cannot be read: .*model\.safetensors"):
            load_checkpoint(str(directory), CLASSIFY)

    @pytest.mark.parametrize("kept", [0, 5, 100, -100], ids=str)
    def test_a_cut_file(self, variant: Variant, kept: int) -> None:
        path = variant() / "model.safetensors"
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(CheckpointNotFound, match=f"the checkpoint {path.parent} cannot be read: "):
            load_checkpoint(str(path.parent), CLASSIFY)

    @pytest.mark.parametrize(
        "content", [b"", b"junk" * 9, pickle.dumps({"a": open})], ids=["", "junk", "code"]
    )
    def test_an_unreadable_pickle(self, variant: Variant, content: bytes) -> None:
        directory = variant()
        remove(directory, "model.safetensors")
        (directory / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(CheckpointNotFound, match=f"the checkpoint {directory} cannot be read: "):
            load_checkpoint(str(directory), CLASSIFY)

    def test_a_readable_pickle(self, variant: Variant) -> None:
        directory = variant()
        torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
        remove(directory, "model.safetensors")
        assert load_checkpoint(str(directory), CLASSIFY).labels == ("LABEL_0", "LABEL_1")

    def test_a_missing_tensor(self, variant: Variant) -> None:
        path = variant() / "model.safetensors"
        weights = load_file(path)
        name = "longformer.encoder.layer.1.attention.self.key_global.weight"
        del weights[name]
        save_file(weights, path, metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=rf"lacks weights: {name}; get the checkpoint again"):
            load_checkpoint(str(path.parent), CLASSIFY)

    @pytest.mark.parametrize(
        ("fields", "cause"),
        [
            ({"vocab_size": 999}, r"word_embeddings\.weight is \[320, 8\], its configuration .* \[999, 8\]"),
            ({"id2label": {"0": "a", "1": "b", "2": "c"}}, r"classifier\.out_proj\.bias is \[2\], .* \[3\]"),
        ],
    )
    def test_shapes_that_are_not_the_configurations(
        self, variant: Variant, fields: dict[str, Any], cause: str
    ) -> None:
        with pytest.raises(CheckpointError, match=cause):
            load_checkpoint(str(variant(**fields)), CLASSIFY)


class TestTokenizer:
    TEXTS = ("the lazy dog", " Seven lanterns,\nand two bridges ", "Großmutter 🦊")

    def test_none(self, variant: Variant) -> None:
        directory = variant(cls_token_id=0)
        remove(directory, *TOKENIZER_FILES)
        checkpoint = load_checkpoint(str(directory), CLASSIFY)
        assert checkpoint.tokenizer is None
        assert checkpoint.special_tokens == {"cls": 0, "bos": 0, "pad": 1, "sep": 2, "eos": 2}

    def test_the_files_of_a_slow_one_give_the_same_ids(self, variant: Variant) -> None:
        """Longformer's own checkpoints on the hub come without `tokenizer.json`."""
        directory = variant()
        slow = load_checkpoint(str(directory), CLASSIFY).tokenizer
        assert slow is not None
        slow.backend_tokenizer.save(str(directory / "tokenizer.json"))
        remove(directory, *TOKENIZER_FILES)
        fast = load_checkpoint(str(directory), CLASSIFY).tokenizer
        assert fast is not None
        for text in self.TEXTS:
            ids = slow(text)["input_ids"]
            assert fast(text)["input_ids"] == ids
            assert slow.decode(ids, skip_special_tokens=True) == text
            assert max(ids) < 320 and 3 not in ids
            assert slow(text, text)["input_ids"] == [*ids, 2, *ids[1:]]

    def test_more_ids_than_the_model(self, originals: dict[Task, Path], variant: Variant) -> None:
        directory = variant()
        train_tokenizer(directory, vocab_size=340)
        with pytest.raises(UnsupportedModel, match="has ids up to 339, but the model's vocabulary has 320"):
            load_checkpoint(str(directory), CLASSIFY)

    def test_fewer_ids_than_the_model(self, variant: Variant) -> None:
        """Embedding tables are often rounded up."""
        directory = variant()
        train_tokenizer(directory, vocab_size=300)
        assert load_checkpoint(str(directory), CLASSIFY).tokenizer is not None

    def bert(self, directory: Path) -> Path:
        remove(directory, *TOKENIZER_FILES)
        (directory / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwhat\nthis\n")
        (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
        return directory

    def test_another_framing(self, variant: Variant) -> None:
        directory = self.bert(variant(ASK, pad_token_id=0))
        with pytest.raises(UnsupportedModel, match=r"frames question and context as .*, not .*, 3, 3, "):
            load_checkpoint(str(directory), ASK)

    def test_one_text_is_framed_alike_by_either(self, variant: Variant) -> None:
        checkpoint = load_checkpoint(str(self.bert(variant(pad_token_id=0))), CLASSIFY)
        assert (checkpoint.special_tokens["cls"], checkpoint.special_tokens["sep"]) == (2, 3)

    def test_another_padding_token(self, variant: Variant) -> None:
        with pytest.raises(UnsupportedModel, match="pads with 0, its model with 1"):
            load_checkpoint(str(self.bert(variant())), CLASSIFY)

    def test_a_file_that_its_class_does_not_read(self, variant: Variant) -> None:
        """transformers then makes a tokenizer of the special tokens alone, to which all text is unknown."""
        directory = self.bert(variant(pad_token_id=0))
        remove(directory, "tokenizer_config.json")
        with pytest.raises(CheckpointError, match=r"has no token .*vocab\.txt"):
            load_checkpoint(str(directory), CLASSIFY)

    def test_no_merges(self, variant: Variant) -> None:
        directory = variant()
        remove(directory, "merges.txt")
        with pytest.raises(CheckpointError, match=r"the tokenizer of .* cannot be loaded"):
            load_checkpoint(str(directory), CLASSIFY)

    @pytest.mark.parametrize("name", ["vocab.json", "tokenizer.json", "tokenizer_config.json"])
    @pytest.mark.parametrize("text", ["", "{", "{}"])
    def test_damaged_files(self, variant: Variant, name: str, text: str) -> None:
        directory = variant()
        (directory / name).write_text(text)
        if (name, text) == ("tokenizer_config.json", "{}"):
            assert load_checkpoint(str(directory), CLASSIFY).tokenizer is not None
            return
        with pytest.raises(CheckpointError, match=f"the tokenizer of {directory} "):
            load_checkpoint(str(directory), CLASSIFY)
