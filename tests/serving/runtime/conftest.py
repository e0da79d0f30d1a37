"""A small tokenizer of the real kind (byte-level BPE, RoBERTa's special tokens) and manifests for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from longserve.serving.runtime.manifest import (
    SCHEMA_VERSION,
    GlobalAttention,
    Manifest,
    Precision,
    ProblemType,
    Task,
)

SPECIAL_TOKENS = {"cls": 0, "bos": 0, "pad": 1, "sep": 2, "eos": 2, "unk": 3, "mask": 4}
CORPUS = [
    "The red key is in the wooden box near the old mill, and nobody knows who put it there.",
    "Where is the key? Who wrote the letter? When did the ship leave the harbour of Antwerp?",
    "Großmutter hörte naïve Züge; la clé est à côté; ключ в коробке.",
]


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `tokenizer.json` whose file turns truncation and padding on, as some checkpoints' files do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def make_manifest() -> Callable[..., Manifest]:
    """Make a manifest for a task, with any field replaced."""

    def make(task: Task = Task.QUESTION_ANSWERING, **fields: Any) -> Manifest:
        asks = task is Task.QUESTION_ANSWERING
        values: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "task": task,
            "model_id": "test",
            "revision": None,
            "architecture": "longformer",
            "attention_window": (16,),
            "max_length": 64,
            "block_size": 8,
            "max_global_tokens": None,
            "vocab_size": 420,
            "type_vocab_size": 1,
            "graphs": (),
            "labels": () if asks else ("sports", "politics", "weather"),
            "problem_type": None if asks else ProblemType.SINGLE_LABEL,
            "special_tokens": SPECIAL_TOKENS,
            "global_attention": GlobalAttention.QUESTION if asks else GlobalAttention.FIRST_TOKEN,
            "precision": Precision.FP32,
            "opset": 20,
            "tools": {},
            "files": (),
            "parity": None,
        }
        return Manifest(**{**values, **fields})

    return make
