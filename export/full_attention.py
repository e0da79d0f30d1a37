"""BERT's self-attention: every token sees every token of its document.

Vaswani et al., "Attention Is All You Need" (2017), section 3.2, as in transformers' `BertSelfAttention`, over
the same parameters. Shapes below: T tokens, H heads of D values, d = H · D; see `document_blocks` for B, M, S
and C.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from .document_blocks import DocumentBlocks, KeyBlocks
from .layers import GroupedHeads, HeadGroup, frozen, mask_value

__all__ = ["FirstTokenAttention", "FullAttention", "merge_heads", "see_blocks"]


class FullAttention(GroupedHeads):
    """Self-attention of one layer, holding transformed copies of the stock module's parameters."""

    def __init__(self, stock: Any) -> None:
        """Take the parameters of a stock self-attention: `query`, `key` and `value`."""
        head_size = int(stock.attention_head_size)
        scale = head_size**-0.5
        query, key, value = stock.query, stock.key, stock.value
        weight = torch.cat([query.weight * scale, key.weight, value.weight]).T
        bias = torch.cat([_bias(query) * scale, _bias(key), _bias(value)])
        super().__init__(weight, bias, int(stock.num_attention_heads))
        self.head_size = head_size

    def in_rows(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Attend in rows of one length.

        Args:
            hidden: *Shape:* `[R * N, d]`.
            bias: 0 for keys to be seen, else `mask_value`. *Shape:* `[R, N]`.

        Returns:
            The attention's result before the output projection. *Shape:* `[R * N, d]`.
        """
        rows, length = bias.shape
        results = []
        for query, key, value in self._projected(hidden):
            query, key, value = (
                part.reshape(self.group_size, rows, length, self.head_size) for part in (query, key, value)
            )
            weights = torch.softmax(query @ key.transpose(2, 3) + bias[:, None], dim=-1)
            results.append(merge_heads((weights @ value).reshape(self.group_size, -1, self.head_size)))
        return torch.cat(results, dim=1)

    def in_blocks(self, hidden: Tensor, blocks: DocumentBlocks, keys: KeyBlocks) -> Tensor:
        """Attend in documents of mixed length. *Shape:* `[T, d]` to `[T, d]`."""
        results = [
            merge_heads(see_blocks(query, key, value, keys))
            for query, key, value in self.projected_blocks(hidden, blocks)
        ]
        return torch.index_select(torch.cat(results, dim=1), 0, blocks.slot)

    def projected_blocks(self, hidden: Tensor, blocks: DocumentBlocks) -> list[tuple[Tensor, ...]]:
        """Each group's queries, keys and values in blocks. *Shape:* `[heads, M, block_size, D]` each."""
        return [
            tuple(part.reshape(self.group_size, -1, blocks.size, self.head_size) for part in parts)
            for parts in self._projected(hidden, blocks.token)
        ]

    def _projected(self, hidden: Tensor, token: Tensor | None = None) -> list[tuple[Tensor, ...]]:
        """Each group's queries, keys and values, picked by `token`. *Shape:* `[heads, rows, D]` each."""
        made = []
        for module in self.groups:
            group = cast(HeadGroup, module)
            qkv = hidden @ group.qkv_weight + group.qkv_bias
            if token is not None:
                qkv = torch.index_select(qkv, 0, token)
            made.append(qkv.reshape(-1, 3, self.group_size, self.head_size).permute(1, 2, 0, 3).unbind(0))
        return made


def see_blocks(query: Tensor, key: Tensor, value: Tensor, keys: KeyBlocks) -> Tensor:
    """Attend from rows of queries to the blocks of keys that each sees.

    Args:
        query: X rows of Q queries. *Shape:* `[heads, X, Q, D]`.
        key: *Shape:* `[heads, M, block_size, D]`.
        value: *Shape:* as `key`.
        keys: the blocks that each row sees, X for M in its shapes.

    Returns:
        *Shape:* `[heads, X * Q, D]`.
    """
    rows, index = keys.index.shape[0], keys.index.reshape(-1)
    seen_keys, seen_values = (
        torch.index_select(part, 1, index).reshape(part.shape[0], rows, -1, part.shape[-1])
        for part in (key, value)
    )
    weights = torch.softmax(query @ seen_keys.transpose(2, 3) + keys.bias, dim=-1)
    return (weights @ seen_values).flatten(1, 2)


class FirstTokenAttention(nn.Module):
    """Self-attention of the first token of each document only: all that a classifier's last layer needs."""

    def __init__(self, stock: Any) -> None:
        """Take the parameters of a stock self-attention: `query`, `key` and `value`."""
        super().__init__()
        self.heads, self.head_size = int(stock.num_attention_heads), int(stock.attention_head_size)
        query, key, value = stock.query, stock.key, stock.value
        self.query_weight = frozen((query.weight * self.head_size**-0.5).T)
        self.query_bias = frozen(_bias(query) * self.head_size**-0.5)
        self.kv_weight = frozen(torch.cat([key.weight, value.weight]).T)
        self.kv_bias = frozen(torch.cat([_bias(key), _bias(value)]))

    def in_rows(self, hidden: Tensor, first: Tensor, bias: Tensor) -> Tensor:
        """Attend in rows of one length.

        Args:
            hidden: *Shape:* `[R * N, d]`.
            first: the first token of each row. *Shape:* `[R]`.
            bias: 0 for keys to be seen, else `mask_value`. *Shape:* `[R, N]`.

        Returns:
            *Shape:* `[R, d]`.
        """
        rows, length = bias.shape
        query = self._queries(hidden, first)
        key, value = self._keys(hidden)
        scores = query[:, :, None] @ key.reshape(rows, length, self.heads, -1).permute(0, 2, 3, 1)
        weights = torch.softmax(scores + bias[:, None, None], dim=-1)
        values = value.reshape(rows, length, self.heads, -1).transpose(1, 2)
        return (weights @ values).reshape(rows, -1)

    def in_blocks(self, hidden: Tensor, first: Tensor, blocks: DocumentBlocks) -> Tensor:
        """Attend in documents of mixed length, in time linear in the tokens.

        Each block of keys gives a part of its document's softmax, relative to the block's largest score; the
        parts are joined as in Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018).

        Args:
            hidden: *Shape:* `[T, d]`.
            first: the first token of each document. *Shape:* `[B]`.
            blocks: the documents' blocks, without regard to what the blocks see.

        Returns:
            *Shape:* `[B, d]`.
        """
        key, value = (
            torch.index_select(part, 0, blocks.token)
            .reshape(-1, blocks.size, self.heads, self.head_size)
            .transpose(1, 2)
            for part in self._keys(hidden)
        )
        query = torch.index_select(self._queries(hidden, first), 0, blocks.document)
        scores = (query[:, :, None] @ key.transpose(2, 3)).float()
        scores = scores + torch.where(blocks.used, 0.0, mask_value(scores.dtype))[:, None, None]
        largest = scores.amax(dim=-1, keepdim=True)
        parts = torch.exp(scores - largest)
        means = parts @ value.float()
        joined = _join(largest[:, :, 0], parts.sum(dim=-1), means[:, :, 0], blocks)
        return joined.to(hidden.dtype)

    def _queries(self, hidden: Tensor, first: Tensor) -> Tensor:
        query = torch.index_select(hidden, 0, first) @ self.query_weight + self.query_bias
        return query.reshape(-1, self.heads, self.head_size)

    def _keys(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        key, value = torch.split(hidden @ self.kv_weight + self.kv_bias, self.heads * self.head_size, dim=1)
        return key, value


def _join(largest: Tensor, weight: Tensor, value: Tensor, blocks: DocumentBlocks) -> Tensor:
    """Join the parts of each document's softmax.

    Args:
        largest: each block's largest score. *Shape:* `[M, H, 1]`.
        weight: sum of the exponentials relative to it. *Shape:* `[M, H, 1]`.
        value: sum of the values, so weighted. *Shape:* `[M, H, D]`.
        blocks: the documents' blocks.

    Returns:
        *Shape:* `[B, H * D]`.
    """
    column = torch.arange(blocks.most, device=largest.device)[None]
    there = column < blocks.count[:, None]
    index = torch.where(there, blocks.first[:, None] + column, 0)
    largest, weight, value = (
        torch.index_select(part, 0, index.reshape(-1)).reshape(-1, blocks.most, *part.shape[1:])
        for part in (largest, weight, value)
    )
    largest = torch.where(there[:, :, None, None], largest, mask_value(largest.dtype))
    share = torch.exp(largest - largest.amax(dim=1, keepdim=True))
    share = torch.where(there[:, :, None, None], share, 0.0)
    return ((share * value).sum(dim=1) / (share * weight).sum(dim=1)).flatten(1, 2)


def merge_heads(result: Tensor) -> Tensor:
    """Lay the heads' results side by side. *Shape:* `[heads, rows, D]` to `[rows, heads * D]`."""
    return result.transpose(0, 1).flatten(1, 2)


def _bias(linear: nn.Linear) -> Tensor:
    """The bias of a projection that may have none."""
    return linear.weight.new_zeros(linear.weight.shape[0]) if linear.bias is None else linear.bias
