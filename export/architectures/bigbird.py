"""BigBird: block-sparse attention with global blocks, in evaluation mode.

See `longserve.export.block_sparse_attention` for what sees what.

The last block is that of the *padded* length. In a batch of the stock model it is the batch's, so that a
row's logits depend on the longest row; the padded layout does the same. In the packed layout every sequence
is read as if alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from longserve.serving.runtime.manifest import GlobalAttention, Layout, Manifest, Task

from ..block_sparse_attention import BlockSparseAttention, full_blocks, global_rows, sparse_keys
from ..document_blocks import Documents, cut_documents, documents_of
from ..errors import ExportError, UnsupportedModel
from ..full_attention import FirstTokenAttention
from ..layers import Linear, TransformerLayer
from .architecture import Architecture, AttentionShape

__all__ = ["BigBird", "PackedBigBird", "PaddedBigBird"]

_QUESTION_PENALTY = 1e6
"""What the stock question-answering model takes off the logits of the question's tokens."""


class BigBird(Architecture):
    """BigBird with `attention_type` `block_sparse`."""

    name = "bigbird"
    model_types = ("big_bird",)
    reads_separators = True
    depends_on_batch = True
    default_context_type = 1

    def head_class(self, model_type: str, task: Task) -> str:
        classifies = task is Task.TEXT_CLASSIFICATION
        return f"BigBirdFor{'SequenceClassification' if classifies else 'QuestionAnswering'}"

    def check(self, config: PretrainedConfig, source: str, task: Task) -> None:
        if config.attention_type != "block_sparse":
            raise UnsupportedModel(
                f"{source} has attention_type {config.attention_type}; longserve exports block_sparse, "
                "because full attention over thousands of tokens is what it is there to avoid"
            )
        if config.is_decoder:
            raise UnsupportedModel(f"{source} is a decoder (is_decoder is true); longserve exports encoders")
        if config.block_size < 1 or config.num_random_blocks < 1:
            raise UnsupportedModel(
                f"{source} has block_size {config.block_size} and num_random_blocks "
                f"{config.num_random_blocks}; the stock model runs with at least 1 of each"
            )
        if task is Task.QUESTION_ANSWERING and (config.sep_token_id is None or config.type_vocab_size < 2):
            raise UnsupportedModel(
                f"{source} has sep_token_id {config.sep_token_id} and {config.type_vocab_size} token types; "
                "the stock model finds the question by the separator and gives it a type of its own"
            )

    def attention_shape(self, config: PretrainedConfig, task: Task, block_size: int | None) -> AttentionShape:
        if block_size not in (None, config.block_size):
            raise ExportError(
                f"block_size is {block_size}, but this checkpoint was trained with {config.block_size}; "
                "leave it out"
            )
        return AttentionShape(
            attention_window=(3 * config.block_size,) * config.num_hidden_layers,
            longest=_longest(config),
            block_size=config.block_size,
            global_attention=GlobalAttention.NONE,
            random_blocks=config.num_random_blocks,
        )

    def make_module(self, model: PreTrainedModel, manifest: Manifest, layout: Layout) -> nn.Module:
        return (PaddedBigBird if layout is Layout.PADDED else PackedBigBird)(model)

    def parity_lengths(self, manifest: Manifest) -> tuple[int, ...]:
        return self._lengths(manifest, manifest.max_length)

    def parity_lengths_in_half(self, manifest: Manifest) -> tuple[int, ...]:
        """Up to a few blocks beyond the switch: longer sequences meet no other arithmetic."""
        longest = (full_blocks(manifest.random_blocks or 0) + 2) * manifest.block_size + 1
        return self._lengths(manifest, min(manifest.max_length, longest))

    def reset_reference(self, model: PreTrainedModel) -> None:
        """A short input leaves the stock model with full attention for good."""
        base: Any = model.base_model
        base.set_attention_type(model.config.attention_type)

    @staticmethod
    def _lengths(manifest: Manifest, longest: int) -> tuple[int, ...]:
        block = manifest.block_size
        switch = full_blocks(manifest.random_blocks or 0) * block
        wanted = {1, 2, 3, 37, 1000, 1024, longest - 1, longest}
        for edge in (block, 2 * block, 5 * block, switch, switch + block):
            wanted.update((edge - 1, edge, edge + 1))
        return tuple(sorted(length for length in wanted if 1 <= length <= longest))


def _longest(config: PretrainedConfig) -> int:
    """Return the longest sequence: beyond the switch its padded length must have positions, too."""
    positions, block = int(config.max_position_embeddings), int(config.block_size)
    return min(positions, max(full_blocks(config.num_random_blocks) * block, positions // block * block))


class _Layer(TransformerLayer):
    attention: BlockSparseAttention

    def __init__(self, stock: Any) -> None:
        super().__init__(stock, BlockSparseAttention(stock.attention.self))


class _LastLayer(TransformerLayer):
    """A classifier's last layer: only the first token feeds the head, and it sees all, sparse or not."""

    attention: FirstTokenAttention

    def __init__(self, stock: Any) -> None:
        super().__init__(stock, FirstTokenAttention(stock.attention.self))


class _Core(nn.Module):
    """Embeddings and layers."""

    word_embeddings: nn.Embedding
    position_embeddings: nn.Embedding
    token_type_embeddings: nn.Embedding
    embedding_norm: nn.LayerNorm

    def __init__(self, stock: Any, classifies: bool) -> None:
        super().__init__()
        config, embeddings = stock.config, stock.embeddings
        self.block_size = int(config.block_size)
        self.random_blocks = int(config.num_random_blocks)
        self.scale = float(config.hidden_size) ** 0.5 if config.rescale_embeddings else 1.0
        self.word_embeddings = embeddings.word_embeddings
        self.position_embeddings = embeddings.position_embeddings
        self.token_type_embeddings = embeddings.token_type_embeddings
        self.embedding_norm = embeddings.LayerNorm
        layers = list(stock.encoder.layer)
        self.layers = nn.ModuleList(_Layer(layer) for layer in (layers[:-1] if classifies else layers))
        self.last = _LastLayer(layers[-1]) if classifies else None

    def encode(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        documents: Documents,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Run embeddings and layers.

        Args:
            input_ids: *Shape:* `[T]`.
            token_type_ids: *Shape:* `[T]`.
            documents: the documents that the tokens are of.
            attention_mask: False for tokens that nobody sees. *Shape:* `[T]`.

        Returns:
            *Shape:* `[T, d]`; of a classifier `[B, d]`, the first token of each document.
        """
        hidden = self.word_embeddings(input_ids) * self.scale + self.position_embeddings(documents.position)
        types = self.token_type_embeddings
        hidden = hidden + (types.weight[0] if token_type_ids is None else types(token_type_ids))
        hidden = self.embedding_norm(hidden)
        blocks = cut_documents(documents, self.block_size)
        if attention_mask is not None:
            used = torch.index_select(attention_mask, 0, blocks.token).reshape(blocks.used.shape)
            blocks = dataclasses.replace(blocks, used=blocks.used & used)
        keys = sparse_keys(blocks, self.random_blocks, hidden.dtype)
        rows = global_rows(blocks, documents, self.random_blocks, hidden.dtype)
        shown = None
        if self.last is not None and attention_mask is not None:
            # as the stock model: beyond full attention, a token that nobody sees is given nothing to add
            sparse = torch.index_select(blocks.count, 0, documents.number) > full_blocks(self.random_blocks)
            shown = (attention_mask | ~sparse).to(hidden.dtype)[:, None]
        for layer in self.layers:
            assert isinstance(layer, _Layer)
            attended = layer.attention.attend(hidden, blocks, keys, rows)
            hidden = layer.finish(attended if shown is None else attended * shown, hidden)
        if self.last is not None:
            attended = self.last.attention.in_blocks(hidden, documents.starts, blocks)
            if shown is not None:
                attended = attended * torch.index_select(shown, 0, documents.starts)
            hidden = self.last.finish(attended, torch.index_select(hidden, 0, documents.starts))
        result: Tensor = hidden
        return result


class _ClassificationHead(nn.Module):
    def __init__(self, stock: Any, activation: nn.Module) -> None:
        super().__init__()
        self.dense = Linear(stock.dense)
        self.activation = activation
        self.projection = Linear(stock.out_proj)

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.projection(self.activation(self.dense(hidden.float())))
        return logits


class _SpanHead(nn.Module):
    """A feed-forward layer with its normalization, and the projection to start and end."""

    norm: nn.LayerNorm

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.dense = Linear(stock.intermediate.dense)
        self.activation = stock.intermediate.intermediate_act_fn
        self.back = Linear(stock.output.dense)
        self.norm = stock.output.LayerNorm
        self.projection = Linear(stock.qa_outputs)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden.float()
        logits: Tensor = self.projection(self.norm(self.back(self.activation(self.dense(hidden))) + hidden))
        return logits


class _Model(nn.Module):
    layout: Layout

    def __init__(self, stock: Any) -> None:
        """Take over transformers' `BigBirdForSequenceClassification` or `BigBirdForQuestionAnswering`."""
        super().__init__()
        self.classifies = hasattr(stock, "classifier")
        self.core = _Core(stock.bert, self.classifies)
        self.separator = stock.config.sep_token_id
        activation = stock.bert.encoder.layer[0].intermediate.intermediate_act_fn
        self.head: nn.Module = (
            _ClassificationHead(stock.classifier, activation)
            if self.classifies
            else _SpanHead(stock.qa_classifier)
        )
        self.eval()

    def read(
        self, ids: Tensor, types: Tensor | None, documents: Documents, mask: Tensor | None = None
    ) -> Tensor:
        """Return the logits: `[B, labels]`, or `[T, 2]` with the question's tokens out of the competition."""
        hidden = self.core.encode(ids, types, documents, mask)
        logits: Tensor = self.head(hidden)
        if not self.classifies:
            logits = logits - self._in_question(ids, documents)[:, None] * _QUESTION_PENALTY
        return logits

    def _in_question(self, ids: Tensor, documents: Documents) -> Tensor:
        """1 for the tokens after the first of a document up to its first separator, if it has one, else 0.

        As `prepare_question_mask` of the stock model. *Shape:* `[T]`.
        """
        found = (ids == self.separator).to(torch.int64)
        total = torch.cumsum(found, dim=0)
        before = torch.index_select(total - found, 0, documents.starts)
        last = documents.starts + documents.lengths - 1
        separators = torch.index_select(total, 0, last) - before
        passed = total - found - torch.index_select(before, 0, documents.number)
        there = torch.index_select(separators, 0, documents.number) > 0
        inside: Tensor = there & (passed == 0) & (documents.position > 0)
        return inside.to(torch.float32)


class PaddedBigBird(_Model):
    """The `padded` layout: the interchange contract of the bundle."""

    layout = Layout.PADDED

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the model. All inputs int64 `[batch, sequence]`.

        Returns:
            `logits` float32 `[batch, labels]`, or `start_logits`, `end_logits` float32 `[batch, sequence]`.
        """
        batch, length = input_ids.shape
        row = torch.arange(batch, device=input_ids.device)
        number = row[:, None].expand(batch, length).reshape(-1)
        documents = Documents(row * length, torch.full_like(row, 1) * length, number)
        types = None if token_type_ids is None else token_type_ids.reshape(-1)
        logits = self.read(input_ids.reshape(-1), types, documents, attention_mask.reshape(-1) > 0)
        if self.classifies:
            return logits
        spans = logits.reshape(batch, length, 2)
        return spans[..., 0], spans[..., 1]


class PackedBigBird(_Model):
    """The `packed` layout: sequences of mixed length end to end, for serving without padding."""

    layout = Layout.PACKED

    def forward(
        self, input_ids: Tensor, sequence_ends: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the model.

        Args:
            input_ids: int64 `[tokens]`.
            sequence_ends: accumulated lengths, int32 `[batch]`; the last one is the number of tokens.
            token_type_ids: int64 `[tokens]`.

        Returns:
            `logits` float32 `[batch, labels]`, or `start_logits`, `end_logits` float32 `[tokens]`.
        """
        documents = documents_of(sequence_ends, input_ids.shape[0])
        logits = self.read(input_ids, token_type_ids, documents)
        if self.classifies:
            return logits
        return logits[:, 0], logits[:, 1]
