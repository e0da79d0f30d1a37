"""The two tiny Longformers before training: vocabulary, configuration, initial weights, a faster attention.

What is trained and saved is the stock `transformers` model. Only while training, its self-attention runs as
`prefix_attention`: the same arithmetic on the same parameters, in larger matrix products, for global tokens
that stand first in the row, which is all that the two tasks have. `tests/examples/test_demo_model.py`
compares the two.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from demo_documents import LABELS, write_claim_file, write_minutes
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import (
    LongformerConfig,
    LongformerForQuestionAnswering,
    LongformerForSequenceClassification,
    RobertaTokenizer,
)

__all__ = [
    "MAX_TOKENS",
    "new_classifier",
    "new_reader",
    "train_vocabulary",
    "use_prefix_attention",
]

MAX_TOKENS = 4096
_VOCABULARY = 2048
_SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def train_vocabulary(documents: int = 3000) -> RobertaTokenizer:
    """Train the byte-level BPE vocabulary that both checkpoints share on documents of both kinds."""

    def texts() -> Iterator[str]:
        for number in range(documents):
            minutes = write_minutes(f"vocabulary/{number}", words=300)
            yield minutes.question
            yield minutes.text
            yield write_claim_file(f"vocabulary/{number}", words=300).text

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(_SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    merges: Any = [tuple(pair) for pair in trained["merges"]]
    return RobertaTokenizer(
        vocab=trained["vocab"],
        merges=merges,
        model_max_length=MAX_TOKENS,
    )


def _configuration(**task: Any) -> LongformerConfig:
    return LongformerConfig(
        vocab_size=_VOCABULARY,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        attention_window=[32, 64, 64],
        max_position_embeddings=MAX_TOKENS + 2,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.08,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        sep_token_id=2,
        **task,
    )


def new_classifier() -> LongformerForSequenceClassification:
    """Return the untrained classifier of claim files."""
    names = dict(enumerate(LABELS))
    model = LongformerForSequenceClassification(
        _configuration(
            id2label=names,
            label2id={name: index for index, name in names.items()},
            problem_type="single_label_classification",
        )
    )
    _ease(model)
    return model


def new_reader() -> LongformerForQuestionAnswering:
    """Return the untrained question-answering model for minutes."""
    model = LongformerForQuestionAnswering(_configuration())
    _ease(model)
    return model


def _ease(model: Any) -> None:
    """Start where learning is quick: with sinusoidal positions and heads that match equal tokens.

    Sinusoids (Vaswani et al. 2017, section 3.5), in half of the dimensions, make each of the 4096 positions
    useful from the first step on. Half of the heads of two layers start with equal query and key projections
    that read the other dimensions: a token scores highest with its like, wherever that stands.
    """
    with torch.no_grad():
        table = model.longformer.embeddings.position_embeddings.weight
        positions, width = table.shape
        half = width // 2
        frequency = torch.exp(torch.arange(0, half, 2) * (-math.log(10_000.0) / half))
        angle = torch.arange(positions)[:, None] * frequency
        table.zero_()
        table[:, half::2], table[:, half + 1 :: 2] = angle.sin(), angle.cos()
        table *= model.config.initializer_range
        side = torch.where(torch.arange(positions) < 18, 1.0, -1.0)
        table[:, half:] += side[:, None] * torch.randn(half) * model.config.initializer_range
        model.longformer.embeddings.token_type_embeddings.weight.zero_()
        for layer in model.longformer.encoder.layer[:2]:
            attention = layer.attention.self
            attention.query.weight[:half] *= 2.3
            attention.query.weight[:half, half:] = 0
            attention.key.weight[:half] = attention.query.weight[:half]


def use_prefix_attention(model: Any, enabled: bool = True) -> None:
    """Let a model compute its self-attention by `prefix_attention`, or by the stock code again."""
    for layer in model.longformer.encoder.layer:
        if enabled:
            layer.attention.self.forward = MethodType(prefix_attention, layer.attention.self)
        else:
            layer.attention.self.__dict__.pop("forward", None)


def prefix_attention(
    self: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor,
    is_index_masked: torch.Tensor,
    is_index_global_attn: torch.Tensor,
    is_global_attn: bool = True,
    output_attentions: bool = False,
) -> tuple[torch.Tensor]:
    """Compute `LongformerSelfAttention.forward` where each row's global tokens are its first ones.

    Shapes: `hidden_states` `[batch, sequence, hidden]`, the two boolean masks `[batch, sequence]`, `sequence`
    a multiple of the attention window (the stock model pads to it). Every row has at least one global token.
    """
    batch, length, width = hidden_states.shape
    heads, size, block = self.num_heads, self.head_dim, self.one_sided_attn_window_size
    blocks = length // block
    most = int(is_index_global_attn.sum(1).max())
    lead = is_index_global_attn[:, :most]

    def split(projected: torch.Tensor) -> torch.Tensor:
        return projected.view(batch, -1, heads, size).transpose(1, 2)

    query, key, value = (split(part(hidden_states)) for part in (self.query, self.key, self.value))
    query = query * size**-0.5

    # A block of queries sees its own block and the two around it; in that context, key j of query i is within
    # the window if i <= j <= i + 2 * block.
    def surround(vectors: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(vectors, (0, 0, block, block))
        return padded.unfold(2, 3 * block, block)  # [batch, heads, blocks, size, 3 * block]

    steps = torch.arange(3 * block) - torch.arange(block)[:, None]
    near = (steps >= 0) & (steps <= 2 * block)
    visible = functional.pad(~(is_index_masked | is_index_global_attn), (block, block))
    visible = visible.unfold(1, 3 * block, block)[:, None, :, None, :]
    grouped = query.reshape(batch, heads, blocks, block, size)
    local = (grouped @ surround(key)).masked_fill(~(near & visible), -1e9)
    shared = query @ key[:, :, :most].transpose(2, 3)
    shared = shared.masked_fill(~lead[:, None, None, :], -1e9).view(batch, heads, blocks, block, most)
    weights = torch.cat((shared, local), dim=-1).softmax(dim=-1)
    near_sum = weights[..., most:] @ surround(value).transpose(3, 4)
    lead_sum = weights[..., :most].reshape(batch, heads, length, most) @ value[:, :, :most]
    mixed = near_sum.reshape(batch, heads, length, size) + lead_sum

    global_query = split(self.query_global(hidden_states[:, :most]))
    global_key, global_value = split(self.key_global(hidden_states)), split(self.value_global(hidden_states))
    rows = functional.scaled_dot_product_attention(
        global_query, global_key, global_value, attn_mask=~is_index_masked[:, None, None, :]
    )
    rows = torch.where(lead[:, None, :, None], rows, mixed[:, :, :most])
    mixed = torch.cat((rows, mixed[:, :, most:]), dim=2)
    return (mixed.transpose(1, 2).reshape(batch, length, width),)
