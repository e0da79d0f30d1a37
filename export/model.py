"""The exportable Longformer: one core, a `padded` and a `packed` layout, and the heads of two tasks.

Built from a stock transformers model, over the same parameters; see `attention` for what differs in form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from longserve.serving.runtime.manifest import Layout

from .attention import (
    BlockContext,
    GlobalTokens,
    LongformerSelfAttention,
    block_context,
    find_global_tokens,
)
from .fused_attention import COLUMN_MULTIPLE
from .layers import Linear, TransformerLayer

__all__ = ["PackedModel", "PaddedModel", "choose_block_size", "longest_sequence"]


def choose_block_size(attention_window: tuple[int, ...]) -> int:
    """Return the default number of tokens per block for these attention windows (one per layer).

    The largest power of two that is at most the narrowest one-sided window, within 16 to 128.
    """
    one_sided = min(attention_window) // 2
    size = 16
    while size * 2 <= min(one_sided, 128):
        size *= 2
    return size


def longest_sequence(max_position_embeddings: int, pad_token_id: int) -> int:
    """Return the longest sequence in tokens: positions count from `pad_token_id + 1`, as in RoBERTa."""
    return max_position_embeddings - pad_token_id - 1


class _Layer(TransformerLayer):
    attention: LongformerSelfAttention

    def __init__(self, stock: Any, one_sided_window: int, *, fused: bool) -> None:
        super().__init__(stock, LongformerSelfAttention(stock.attention.self, fused=fused))
        self.one_sided_window = one_sided_window


@dataclass(frozen=True, slots=True)
class _Rows:
    """The tokens as the core sees them: R rows of N tokens, N a multiple of the block size."""

    segment: Tensor
    is_global: Tensor
    tokens: GlobalTokens
    contexts: dict[int, BlockContext]


class _Core(nn.Module):
    """Embeddings and encoder."""

    word_embeddings: nn.Embedding
    position_embeddings: nn.Embedding
    token_type_embeddings: nn.Embedding
    embedding_norm: nn.LayerNorm

    def __init__(self, stock: Any, block_size: int, max_global_tokens: int | None, *, fused: bool) -> None:
        super().__init__()
        config = stock.config
        embeddings = stock.embeddings
        self.block_size = block_size
        self.max_global_tokens = max_global_tokens
        self.column_multiple = COLUMN_MULTIPLE if fused else 1
        self.pad_token_id = int(config.pad_token_id)
        self.word_embeddings = embeddings.word_embeddings
        self.position_embeddings = embeddings.position_embeddings
        self.token_type_embeddings = embeddings.token_type_embeddings
        self.embedding_norm = embeddings.LayerNorm
        layers = zip(stock.encoder.layer, config.attention_window, strict=True)
        self.layers = nn.ModuleList(_Layer(layer, window // 2, fused=fused) for layer, window in layers)

    def embed(self, input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Sum and normalise the embeddings. *Shape:* `[R, N]` to `[R * N, d]`."""
        hidden = self.word_embeddings(input_ids) + self.position_embeddings(position_ids)
        if token_type_ids is None:
            hidden = hidden + self.token_type_embeddings.weight[0]
        else:
            hidden = hidden + self.token_type_embeddings(token_type_ids)
        normalised: Tensor = self.embedding_norm(hidden)
        return normalised.flatten(0, 1)

    def layout(self, segment: Tensor, global_attention_mask: Tensor) -> _Rows:
        """Compute what all layers share. *Shape:* `[R, N]`, N a multiple of the block size."""
        is_global = (global_attention_mask > 0) & (segment > 0)
        tokens = find_global_tokens(segment, is_global, self.max_global_tokens)
        dtype = self.embedding_norm.weight.dtype
        contexts = {
            window: block_context(
                segment,
                is_global,
                tokens,
                window,
                self.block_size,
                dtype,
                column_multiple=self.column_multiple,
            )
            for window in sorted({layer.one_sided_window for layer in self._layers()})
        }
        return _Rows(segment, is_global, tokens, contexts)

    def encode(self, hidden: Tensor, rows: _Rows, layers: int) -> Tensor:
        """Run the first `layers` layers. *Shape:* `[T, d]`."""
        for layer in self._layers()[:layers]:
            context = rows.contexts[layer.one_sided_window]
            attended = layer.attention(hidden, rows.segment, rows.tokens, context)
            hidden = layer.finish(attended, hidden)
        return hidden

    def encode_first(self, hidden: Tensor, rows: _Rows, first: Tensor) -> Tensor:
        """Run all layers, the last one for the given tokens only.

        Args:
            hidden: *Shape:* `[T, d]`.
            rows: see `layout`.
            first: flat index of each sequence's first token. *Shape:* `[R, Q]`.

        Returns:
            *Shape:* `[R * Q, d]`.
        """
        hidden = self.encode(hidden, rows, len(self.layers) - 1)
        last = self._layers()[-1]
        attended = last.attention.first_rows(
            hidden, rows.segment, rows.is_global, rows.tokens, first, last.one_sided_window
        )
        return last.finish(attended, torch.index_select(hidden, 0, first.reshape(-1)))

    def refuse_overflow(self, logits: Tensor, rows: _Rows) -> Tensor:
        """Make NaN of the logits of rows with more global tokens than a fixed capacity holds.

        longserve checks the number before it runs a graph; this is for everybody else who runs it.
        *Shape:* `[R, …]`.
        """
        if self.max_global_tokens is None:
            return logits
        overflow = rows.is_global.to(torch.int64).sum(dim=1) > self.max_global_tokens
        return torch.where(overflow[:, None], torch.nan, logits)

    def _layers(self) -> list[_Layer]:
        return [layer for layer in self.layers if isinstance(layer, _Layer)]

    def pad(self, values: Tensor, fill: int = 0) -> Tensor:
        """Pad the last axis to a multiple of the block size."""
        length = values.shape[-1]
        # not the negative form of the same: ONNX's integer Div rounds towards zero, Python's // downwards
        target = (length + self.block_size - 1) // self.block_size * self.block_size
        return nn.functional.pad(values, (0, target - length), value=fill)


class _ClassificationHead(nn.Module):
    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.dense = Linear(stock.classifier.dense)
        self.projection = Linear(stock.classifier.out_proj)

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.projection(torch.tanh(self.dense(hidden.float())))
        return logits


class _Model(nn.Module):
    """What both layouts hold: the core and either head."""

    def __init__(
        self, stock: Any, *, block_size: int, max_global_tokens: int | None = None, fused: bool = False
    ) -> None:
        """Take over a stock model.

        Args:
            stock: transformers' `LongformerForSequenceClassification` or `LongformerForQuestionAnswering`.
            block_size: tokens per block of the local attention.
            max_global_tokens: fixed number of global slots (per row in the padded layout, per run in the
                packed one); None: as many as the input has.
            fused: export the local attention as one operator, see `fused_attention`.
        """
        super().__init__()
        self.core = _Core(stock.longformer, block_size, max_global_tokens, fused=fused)
        self.classifies = hasattr(stock, "classifier")
        self.head = _ClassificationHead(stock) if self.classifies else Linear(stock.qa_outputs)
        self.eval()

    def _spans(self, hidden: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        logits = self.head(hidden.float()).reshape(rows, -1, 2)
        return logits[..., 0], logits[..., 1]


class PaddedModel(_Model):
    """The `padded` layout: the interchange contract of the bundle."""

    layout = Layout.PADDED

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        global_attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the model. All inputs int64 `[batch, sequence]`.

        Returns:
            `logits` float32 `[batch, labels]`, or `start_logits`, `end_logits` float32 `[batch, sequence]`.
        """
        core = self.core
        batch, length = input_ids.shape
        segment = core.pad((attention_mask > 0).to(torch.int64))
        rows = core.layout(segment, core.pad(global_attention_mask))
        ids = core.pad(input_ids, core.pad_token_id)
        written = (ids != core.pad_token_id).to(torch.int64)
        positions = torch.cumsum(written, dim=1) * written + core.pad_token_id
        types = None if token_type_ids is None else core.pad(token_type_ids)
        hidden = core.embed(ids, positions, types)
        if self.classifies:
            first = torch.arange(batch, device=ids.device)[:, None] * ids.shape[1]
            return core.refuse_overflow(self.head(core.encode_first(hidden, rows, first)).float(), rows)
        start, end = self._spans(core.encode(hidden, rows, len(core.layers)), batch)
        return core.refuse_overflow(start[:, :length], rows), core.refuse_overflow(end[:, :length], rows)


class PackedModel(_Model):
    """The `packed` layout: sequences of mixed length end to end, for serving without padding."""

    layout = Layout.PACKED

    def forward(
        self,
        input_ids: Tensor,
        global_attention_mask: Tensor,
        sequence_ends: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the model.

        Args:
            input_ids: int64 `[tokens]`.
            global_attention_mask: int64 `[tokens]`.
            sequence_ends: accumulated lengths, int32 `[batch]`; the last one is the number of tokens.
            token_type_ids: int64 `[tokens]`.

        Returns:
            `logits` float32 `[batch, labels]`, or `start_logits`, `end_logits` float32 `[tokens]`.
        """
        core = self.core
        length = input_ids.shape[0]
        ends = sequence_ends.to(torch.int64)
        starts = nn.functional.pad(ends[:-1], (1, 0))
        ids = core.pad(input_ids, core.pad_token_id)
        time = torch.arange(ids.shape[0], device=ids.device)
        number = (time[:, None] >= ends).to(torch.int64).sum(dim=1)
        inside = number < ends.shape[0]
        segment = torch.where(inside, number + 1, 0)[None]
        rows = core.layout(segment, core.pad(global_attention_mask)[None])
        written = (ids != core.pad_token_id).to(torch.int64)
        total = torch.cumsum(written, dim=0)
        own_start = torch.index_select(starts, 0, torch.where(inside, number, 0))
        before = torch.index_select(total - written, 0, own_start)
        positions = torch.where(inside, (total - before) * written, 0) + core.pad_token_id
        types = None if token_type_ids is None else core.pad(token_type_ids)[None]
        hidden = core.embed(ids[None], positions[None], types)
        if self.classifies:
            logits: Tensor = self.head(core.encode_first(hidden, rows, starts[None])).float()
            return logits
        start, end = self._spans(core.encode(hidden, rows, len(core.layers)), 1)
        return start[0, :length], end[0, :length]
