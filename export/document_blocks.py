"""Documents end to end as blocks of queries, each with the blocks of keys that it sees.

Attention within documents needs neither a mask over all pairs of tokens of a batch, which would be quadratic
in the batch, nor rows padded to the longest document. Each document is cut into blocks of `block_size`
tokens, its last one filled up with unused slots; a block of queries is multiplied with the blocks of keys of
its own document only. All blocks have as many columns as the one that sees most.

Shapes below: B documents, T tokens, M blocks of all documents together, S = M · block_size slots, C columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from .layers import mask_value

__all__ = [
    "DocumentBlocks",
    "Documents",
    "KeyBlocks",
    "cut_documents",
    "documents_of",
    "keys_at",
    "see_own_document",
    "whole_number",
]


@dataclass(frozen=True, slots=True)
class Documents:
    """Documents laid end to end.

    Attributes:
        starts: first token of each. *Shape:* `[B]`.
        lengths: tokens of each. *Shape:* `[B]`.
        number: which document each token is of. *Shape:* `[T]`.
    """

    starts: Tensor
    lengths: Tensor
    number: Tensor

    @property
    def position(self) -> Tensor:
        """Place of each token in its document, from 0. *Shape:* `[T]`."""
        time = torch.arange(self.number.shape[0], device=self.number.device)
        return time - torch.index_select(self.starts, 0, self.number)


def documents_of(sequence_ends: Tensor, tokens: int) -> Documents:
    """Read accumulated lengths `[B]` of documents that together are `tokens` long."""
    ends = sequence_ends.to(torch.int64)
    starts = torch.nn.functional.pad(ends[:-1], (1, 0))
    time = torch.arange(tokens, device=ends.device)
    number = (time[:, None] >= ends).to(torch.int64).sum(dim=1)
    # a token past the last end is of no document; the caller promises that there is none
    return Documents(starts, ends - starts, torch.clamp(number, max=ends.shape[0] - 1))


@dataclass(frozen=True, slots=True)
class DocumentBlocks:
    """How the documents' tokens lie in blocks.

    Attributes:
        size: tokens per block.
        document: which document each block is of. *Shape:* `[M]`.
        place: place of each block in its document, from 0. *Shape:* `[M]`.
        first: first block of each document. *Shape:* `[B]`.
        count: blocks of each document. *Shape:* `[B]`.
        most: blocks of the document that has most.
        token: token in each slot; an unused slot names some token. *Shape:* `[S]`.
        used: whether the slot holds a token. *Shape:* `[M, block_size]`.
        slot: slot of each token. *Shape:* `[T]`.
    """

    size: int
    document: Tensor
    place: Tensor
    first: Tensor
    count: Tensor
    most: int
    token: Tensor
    used: Tensor
    slot: Tensor


def cut_documents(documents: Documents, block_size: int) -> DocumentBlocks:
    """Cut each document into blocks."""
    tokens = documents.number.shape[0]
    device = documents.number.device
    count = (documents.lengths + (block_size - 1)) // block_size
    ends = torch.cumsum(count, dim=0)
    first = ends - count
    blocks, most = whole_number(ends[-1], tokens), whole_number(count.amax(dim=0), tokens)
    block = torch.arange(blocks, device=device)
    document = (block[:, None] >= ends).to(torch.int64).sum(dim=1)
    place = block - torch.index_select(first, 0, document)
    within = place[:, None] * block_size + torch.arange(block_size, device=device)
    used = within < torch.index_select(documents.lengths, 0, document)[:, None]
    token = torch.where(used, torch.index_select(documents.starts, 0, document)[:, None] + within, 0)
    slot = torch.index_select(first, 0, documents.number) * block_size + documents.position
    return DocumentBlocks(block_size, document, place, first, count, most, token.reshape(-1), used, slot)


def whole_number(value: Tensor, most: int) -> int:
    """Return a number of the data, 1 to `most`, as a size: a symbolic integer while the model is traced."""
    number = cast(int, value.item())
    torch._check(number >= 1)  # type: ignore[no-untyped-call]
    torch._check(number <= most)  # type: ignore[no-untyped-call]
    return number


@dataclass(frozen=True, slots=True)
class KeyBlocks:
    """The blocks of keys of each block of queries.

    Attributes:
        index: *Shape:* `[M, C]`.
        bias: 0 where the queries of the block see the key, else `mask_value`; any other number is added to
            the score. *Shape:* `[M, 1, C * block_size]`.
    """

    index: Tensor
    bias: Tensor


def see_own_document(blocks: DocumentBlocks, dtype: torch.dtype) -> KeyBlocks:
    """Let every block see all blocks of its document."""
    count = torch.index_select(blocks.count, 0, blocks.document)[:, None]
    column = torch.arange(blocks.most, device=count.device)[None]
    seen = column < count
    index = torch.where(seen, torch.index_select(blocks.first, 0, blocks.document)[:, None] + column, 0)
    return keys_at(blocks, index, seen, dtype)


def keys_at(
    blocks: DocumentBlocks, index: Tensor, seen: Tensor, dtype: torch.dtype, extra: Tensor | None = None
) -> KeyBlocks:
    """Let rows of queries see some blocks.

    Args:
        blocks: the documents' blocks.
        index: the blocks of each row. *Shape:* `[X, C]`.
        seen: whether the row sees the block at all. *Shape:* `[X, C]`.
        dtype: of the scores that the bias is added to.
        extra: what to add to the scores of a seen block. *Shape:* `[X, C]`.
    """
    used = torch.index_select(blocks.used, 0, index.reshape(-1)).reshape(*index.shape, blocks.size)
    shown = torch.zeros_like(index, dtype=torch.float32) if extra is None else extra
    bias = torch.where(used & seen[:, :, None], shown[:, :, None], mask_value(dtype)).to(dtype)
    return KeyBlocks(index, bias.flatten(1, 2)[:, None])
