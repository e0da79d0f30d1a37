"""Random checkpoints for tests: any size, window, label count; weights with the spread of trained ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = (
    "the quick brown fox jumps over the lazy dog while every invoice of the northern harbour was paid in "
    "silver by the miller of the valley who counted seven lanterns and two bridges before the winter came"
)
TINY: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 66,
    "attention_window": [4, 8],
}
"""Sizes of the smallest Longformer whose layers have two windows."""


def train_tokenizer(directory: Path, *, vocab_size: int = 320) -> int:
    """Write a byte-level BPE tokenizer with Longformer's special tokens; return its vocabulary's size."""
    from tokenizers import ByteLevelBPETokenizer

    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        [WORDS] * 20,
        vocab_size=vocab_size,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        show_progress=False,
    )
    tokenizer.save_model(str(directory))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LongformerTokenizer", "model_max_length": 4096}), encoding="utf-8"
    )
    return int(tokenizer.get_vocab_size())


def make_model(task: str, *, seed: int = 0, **config: Any) -> Any:
    """Return a stock model with random weights, wide enough that attention is far from uniform."""
    import torch
    from transformers import (
        LongformerConfig,
        LongformerForQuestionAnswering,
        LongformerForSequenceClassification,
    )

    settings: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 514,
        "attention_window": [16, 32],
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "sep_token_id": 2,
    }
    settings.update(config)
    kinds = {
        "text-classification": LongformerForSequenceClassification,
        "question-answering": LongformerForQuestionAnswering,
    }
    torch.manual_seed(seed)
    model = kinds[task](LongformerConfig(**settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.0 / parameter.shape[-1] ** 0.5)
            elif "LayerNorm" not in name:
                parameter.normal_(0, 0.05)
    return model


def make_checkpoint(directory: Path, task: str, *, seed: int = 0, **config: Any) -> Path:
    """Write a random checkpoint with a tokenizer, as `save_pretrained` writes it."""
    size = train_tokenizer(directory)
    config.setdefault("vocab_size", size)
    make_model(task, seed=seed, **config).save_pretrained(directory)
    return directory


def train_wordpiece(directory: Path, *, vocab_size: int = 200) -> int:
    """Write BERT's uncased WordPiece tokenizer, trained on a few words; return its vocabulary's size."""
    from tokenizers import BertWordPieceTokenizer

    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator([WORDS] * 20, vocab_size=vocab_size, min_frequency=1, show_progress=False)
    tokenizer.save_model(str(directory))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}), encoding="utf-8"
    )
    return int(tokenizer.get_vocab_size())


def train_unigram(directory: Path, *, vocab_size: int = 120) -> int:
    """Write BigBird's tokenizer over pieces of a few words; return its vocabulary's size."""
    from tokenizers import SentencePieceUnigramTokenizer
    from transformers import BigBirdTokenizer

    special = ["<pad>", "</s>", "<s>", "[CLS]", "[SEP]", "[MASK]", "<unk>"]
    trained = SentencePieceUnigramTokenizer()
    trained.train_from_iterator(
        [WORDS, "what this"] * 20,
        vocab_size=vocab_size,
        special_tokens=special,
        unk_token="<unk>",
        show_progress=False,
    )
    pieces = json.loads(trained.to_str())["model"]["vocab"]
    BigBirdTokenizer(vocab=[tuple(piece) for piece in pieces]).save_pretrained(directory)
    return len(pieces)


def randomize(model: Any, *, seed: int = 0) -> Any:
    """Give a stock model weights with the spread of trained ones, LayerNorm's and biases too; return it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.0 / parameter.shape[-1] ** 0.5, generator=generator)
            elif name.endswith("LayerNorm.weight"):
                parameter.uniform_(0.6, 1.4, generator=generator)
            else:
                parameter.normal_(0, 0.1, generator=generator)
    return model.eval()


def make_small(class_name: str, *, seed: int = 0, **config: Any) -> Any:
    """Return a small stock model of any class of transformers that has BERT's names of sizes."""
    import transformers

    settings: dict[str, Any] = {
        "vocab_size": 200,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
    }
    settings.update(config)
    kind = getattr(transformers, class_name)
    return randomize(kind(kind.config_class(**settings)), seed=seed)


def make_bert_checkpoint(directory: Path, task: str, *, seed: int = 0, **config: Any) -> Path:
    """Write a small random BERT with an uncased tokenizer, as `save_pretrained` writes it."""
    kinds = {"text-classification": "SequenceClassification", "question-answering": "QuestionAnswering"}
    size = train_wordpiece(directory)
    make_small(f"BertFor{kinds[task]}", seed=seed, vocab_size=size, **config).save_pretrained(directory)
    return directory


def add_outliers(model: Any, *, seed: int = 5) -> Any:
    """Give a random model what makes half precision hard in trained ones; return it.

    Two hidden dimensions that are large in every token (in RoBERTa, from which Longformer was made,
    dimensions 77 and 588: Kovaleva et al., "BERT Busters", 2021), one output of each feed-forward layer
    twenty times the others, and one dimension of the embeddings eight times.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("LayerNorm.weight"):
                parameter.uniform_(0.6, 1.1, generator=generator)
                parameter[7], parameter[20] = 2.5, -2.0
            elif name.endswith("LayerNorm.bias"):
                parameter.normal_(0, 0.1, generator=generator)
                parameter[7], parameter[20] = 14.0, -9.0
            elif name.endswith("output.dense.weight") and "attention" not in name:
                parameter[11] *= 20
            elif name.endswith("word_embeddings.weight"):
                parameter[:, 3] *= 8
    return model
