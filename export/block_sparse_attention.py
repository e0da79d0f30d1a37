"""BigBird's block-sparse attention, in evaluation mode.

Zaheer et al., "Big Bird: Transformers for Longer Sequences" (2020), as transformers' `modeling_big_bird.py`
computes it when the model is not being trained. A sequence of n blocks of `block_size` tokens, the last one
filled up with padding:

* up to `5 + 2 * num_random_blocks` blocks every token sees every other;
* beyond that, the first and the last block see all; another block sees itself, its two neighbours, the first
  and the last block, and `num_random_blocks` random ones, each of which is block 0. So the keys of the first
  block count `1 + num_random_blocks` times in the softmax: here the logarithm of that is added to their
  scores.

Shapes below: see `document_blocks`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .document_blocks import DocumentBlocks, Documents, KeyBlocks, keys_at, whole_number
from .full_attention import FullAttention, merge_heads, see_blocks

__all__ = ["BlockSparseAttention", "GlobalRows", "full_blocks", "global_rows", "sparse_keys"]

_COLUMNS = 5
"""Blocks that a block of queries sees: the first, the last, itself and its two neighbours."""


def full_blocks(random_blocks: int) -> int:
    """Return the number of blocks up to which attention is full."""
    return 5 + 2 * random_blocks


@dataclass(frozen=True, slots=True)
class GlobalRows:
    """The first and the last block of each of the W documents with sparse attention, which see all of it.

    Attributes:
        query: the blocks. *Shape:* `[2 * W]`.
        keys: what each document's two blocks see. *Shapes:* `[W, N]` and `[W, 1, N * block_size]`.
        source: where each token's result stands in the S sparse results, followed by the 2 · W · block_size
            global ones. *Shape:* `[T]`.
    """

    query: Tensor
    keys: KeyBlocks
    source: Tensor


def sparse_keys(blocks: DocumentBlocks, random_blocks: int, dtype: torch.dtype) -> KeyBlocks:
    """Let every block see what it may; the first and last of a sparse document see all in `global_rows`."""
    most = full_blocks(random_blocks)
    needed = torch.where(blocks.count > most, _COLUMNS, blocks.count)
    columns = whole_number(needed.amax(dim=0), max(most, _COLUMNS))
    column = torch.arange(columns, device=needed.device)[None]
    count = torch.index_select(blocks.count, 0, blocks.document)[:, None]
    sparse = count > most
    neighbour = blocks.place[:, None] + column - 3
    ends = torch.where(column == 0, 0, count - 1)
    place = torch.where(sparse, torch.where(column < 2, ends, neighbour), column)
    inner = (neighbour > 0) & (neighbour < count - 1) & (column < _COLUMNS)
    # no `where` over bools, for which ONNX Runtime has no kernel
    seen = (sparse & ((column < 2) | inner)) | (~sparse & (column < count))
    index = torch.index_select(blocks.first, 0, blocks.document)[:, None] + torch.where(seen, place, 0)
    extra = (sparse & (column == 0)).to(torch.float32) * math.log(1 + random_blocks)
    return keys_at(blocks, index, seen, dtype, extra)


def global_rows(
    blocks: DocumentBlocks, documents: Documents, random_blocks: int, dtype: torch.dtype
) -> GlobalRows:
    """Lay out what the global blocks of sparse documents see."""
    most = full_blocks(random_blocks)
    sparse = (blocks.count > most).to(torch.int64)
    total = sparse.shape[0]
    device = sparse.device
    number = whole_number(torch.clamp(sparse.sum(dim=0), min=1), total)
    # in order; where no document is sparse, one that is not stands in, and its rows go nowhere
    so_far = torch.cumsum(sparse, dim=0)
    wanted = torch.arange(number, device=device)[:, None]
    chosen = torch.clamp((so_far <= wanted).to(torch.int64).sum(dim=1), max=total - 1)
    first = torch.index_select(blocks.first, 0, chosen)
    count = torch.index_select(blocks.count, 0, chosen)
    columns = whole_number(torch.clamp((blocks.count * sparse).amax(dim=0), min=1), documents.number.shape[0])
    column = torch.arange(columns, device=device)[None]
    seen = column < count[:, None]
    keys = keys_at(blocks, first[:, None] + torch.where(seen, column, 0), seen, dtype)

    block = blocks.slot // blocks.size
    place = torch.index_select(blocks.place, 0, block)
    own_count = torch.index_select(blocks.count, 0, documents.number)
    is_last = place == own_count - 1
    in_global = (own_count > most) & ((place == 0) | is_last)
    turn = torch.index_select(so_far - 1, 0, documents.number)
    offset = blocks.slot - block * blocks.size
    row = (2 * turn + is_last.to(torch.int64)) * blocks.size + offset + blocks.token.shape[0]
    query = torch.stack([first, first + count - 1], dim=1).reshape(-1)
    return GlobalRows(query, keys, torch.where(in_global, row, blocks.slot))


class BlockSparseAttention(FullAttention):
    """Self-attention of one layer."""

    def attend(self, hidden: Tensor, blocks: DocumentBlocks, keys: KeyBlocks, rows: GlobalRows) -> Tensor:
        """Attend from every token. *Shape:* `[T, d]` to `[T, d]`."""
        results = []
        for query, key, value in self.projected_blocks(hidden, blocks):
            sparse = see_blocks(query, key, value, keys)
            chosen = torch.index_select(query, 1, rows.query)
            pairs = chosen.reshape(self.group_size, -1, 2 * blocks.size, self.head_size)
            whole = see_blocks(pairs, key, value, rows.keys)
            results.append(merge_heads(torch.cat([sparse, whole], dim=1)))
        return torch.index_select(torch.cat(results, dim=1), 0, rows.source)
