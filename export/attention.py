"""Longformer's attention as static-shape-friendly tensor algebra.

Beltagy, Peters, Cohan, "Longformer: The Long-Document Transformer" (2020), section 3, as implemented by
transformers' `LongformerSelfAttention`, over the same parameters, with three changes of form and none of
result:

* local attention runs on blocks of `block_size` queries, each with the blocks of keys around it, so a
  sequence is padded to a multiple of the block and not of the attention window;
* the global keys are further columns of the same softmax, gathered in one step with the local ones;
* a global row needs no projection of all tokens. With query q, hidden states h_j and the projections
  W_k, b_k, W_v, b_v of a head, score_j = q·(W_k h_j + b_k) = (W_kᵀ q)·h_j + constant, and softmax ignores
  the constant; Σ_j p_j (W_v h_j + b_v) = W_v (Σ_j p_j h_j) + b_v, because the p_j sum to one.

Tokens of several sequences may share a row: token i sees token j only if both have the same *segment*
number and that number is not 0 (padding). With weights in half precision the scores and means over whole
sequences, which are products with hidden states, are float32 (see `half`).

Shapes below: R rows of N tokens, N a multiple of the block size; T = R·N tokens; M = T / block_size blocks; K
global slots a row; H heads of D values; d = H·D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from .fused_attention import attention_operator
from .layers import GroupedHeads, HeadGroup, frozen, mask_value

__all__ = [
    "BlockContext",
    "GlobalTokens",
    "LongformerSelfAttention",
    "block_context",
    "find_global_tokens",
]

_NO_SEGMENT = -1
"""Segment of a key that nobody may see: it equals no query's segment, 0 (padding) included."""


@dataclass(frozen=True, slots=True)
class GlobalTokens:
    """The global tokens of each row, in the order of their positions.

    Attributes:
        index: flat token index of each slot; an unused slot holds some token. *Shape:* `[R, K]`.
        segment: segment of each slot, -1 where it is unused. *Shape:* `[R, K]`.
        row_source: where each token's result stands in the T local results, followed by the R·K global
            ones and a row of zeros for padding. *Shape:* `[T]`.
    """

    index: Tensor
    segment: Tensor
    row_source: Tensor


def find_global_tokens(segment: Tensor, is_global: Tensor, capacity: int | None) -> GlobalTokens:
    """Gather the global tokens of each row.

    Args:
        segment: *Shape:* `[R, N]`.
        is_global: bool, already False on padding. *Shape:* `[R, N]`.
        capacity: number of slots K; None: as many as the fullest row needs, at least one.
    """
    rows, length = segment.shape
    position = torch.arange(length, device=segment.device)
    flag = is_global.to(torch.int64)
    rank = flag * (length - position)
    if capacity is None:
        # a symbolic integer while the model is traced: no isinstance, or the tracer takes its slow path
        slots = cast(int, torch.clamp(flag.sum(dim=1).amax(dim=0), min=1).item())
        torch._check(slots >= 1)  # type: ignore[no-untyped-call]
        torch._check(slots <= length)  # type: ignore[no-untyped-call]
    else:
        slots = capacity
        rank = nn.functional.pad(rank, (0, capacity))
    ranks, found = torch.topk(rank, slots, dim=1)
    used = ranks > 0
    row_start = torch.arange(rows, device=segment.device)[:, None] * length
    index = torch.where(used, found, 0) + row_start
    slot_segment = torch.where(used, _take(segment, index), _NO_SEGMENT)
    row_slot = torch.arange(rows, device=segment.device)[:, None] * slots
    padding = segment == 0
    tokens = rows * length
    slot = torch.cumsum(flag, dim=1) - 1 + row_slot + tokens
    other = torch.where(padding, tokens + rows * slots, row_start + position)
    source = torch.where(is_global, slot, other)
    return GlobalTokens(index, slot_segment, source.reshape(-1))


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What each block of queries may see: the same for all layers with one attention window.

    Attributes:
        index: flat token index of every key of a block: K global ones, then the blocks around it.
            *Shape:* `[M, K + C]`.
        bias: 0 where the query sees the key, else `mask_value`. *Shape:* `[M, block_size, K + C]`.
    """

    index: Tensor
    bias: Tensor


def block_context(
    segment: Tensor,
    is_global: Tensor,
    global_tokens: GlobalTokens,
    one_sided_window: int,
    block_size: int,
    dtype: torch.dtype,
    *,
    column_multiple: int = 1,
) -> BlockContext:
    """Lay out the keys of each block of queries.

    Query i of a block sees the key at distance at most `one_sided_window`, of the same segment, if that
    key is not global (global keys stand in columns of their own).

    Args:
        segment: *Shape:* `[R, N]`, N a multiple of `block_size`.
        is_global: *Shape:* `[R, N]`.
        global_tokens: see `find_global_tokens`.
        one_sided_window: half the attention window w.
        block_size: any number of tokens; it need not divide w.
        dtype: of the scores that the bias is added to.
        column_multiple: fill the columns up to a multiple of this, with keys that nobody sees.
    """
    rows, length = segment.shape
    blocks = length // block_size
    side = -(-one_sided_window // block_size)
    device = segment.device
    neighbour = (
        torch.arange(blocks, device=device)[:, None] + torch.arange(-side, side + 1, device=device)[None]
    )
    inside = (neighbour >= 0) & (neighbour < blocks)
    first = torch.where(inside, neighbour, 0)[:, :, None] * block_size
    within_row = (first + torch.arange(block_size, device=device)).reshape(blocks, -1)
    row_start = torch.arange(rows, device=device)[:, None, None] * length
    local_index = row_start + within_row

    visible = torch.where(is_global | (segment == 0), _NO_SEGMENT, segment)
    reachable = inside[:, :, None].expand(-1, -1, block_size).reshape(blocks, -1)
    local_segment = torch.where(reachable, _take(visible, local_index), _NO_SEGMENT)

    queries = torch.arange(block_size, device=device)[:, None]
    offset = torch.arange((2 * side + 1) * block_size, device=device)[None] - side * block_size
    band = (offset - queries).abs() <= one_sided_window

    query_segment = segment.reshape(rows, blocks, block_size, 1)
    sees_local = (query_segment == local_segment[:, :, None]) & band
    sees_global = query_segment == global_tokens.segment[:, None, None]
    sees = torch.cat([sees_global, sees_local], dim=-1)
    index = torch.cat([global_tokens.index[:, None].expand(-1, blocks, -1), local_index], dim=-1)
    if column_multiple > 1:
        columns = sees.shape[-1]
        filled = (columns + column_multiple - 1) // column_multiple * column_multiple
        sees, index = (nn.functional.pad(part, (0, filled - columns)) for part in (sees, index))
    bias = torch.where(sees, 0.0, mask_value(dtype)).to(dtype)
    return BlockContext(index.flatten(0, 1), bias.flatten(0, 1))


class LongformerSelfAttention(GroupedHeads):
    """Self-attention of one layer, holding transformed copies of the stock module's parameters."""

    def __init__(self, stock: Any, *, fused: bool = False) -> None:
        """Take the parameters of transformers' `LongformerSelfAttention`.

        Args:
            stock: the stock module.
            fused: export the local attention as one operator, see `fused_attention`.
        """
        heads, head_size = int(stock.num_heads), int(stock.head_dim)
        scale = head_size**-0.5
        query, key, value = stock.query, stock.key, stock.value
        weight = frozen(torch.cat([query.weight * scale, key.weight, value.weight]).T)
        bias = frozen(torch.cat([query.bias * scale, key.bias, value.bias]))
        super().__init__(weight, bias, heads)
        self.head_size, self.fused = head_size, fused
        self.qkv_weight, self.qkv_bias = weight, bias
        self.global_query_weight = frozen((stock.query_global.weight * scale).T)
        self.global_query_bias = frozen(stock.query_global.bias * scale)
        # [H, D, d] turns a head's query into a vector to be multiplied with hidden states;
        # [H, d, D] a head's mean hidden state into its output
        self.global_key_weight = frozen(stock.key_global.weight.reshape(heads, head_size, -1))
        self.global_value_weight = frozen(
            stock.value_global.weight.reshape(heads, head_size, -1).transpose(1, 2)
        )
        self.global_value_bias = frozen(stock.value_global.bias)

    def forward(self, hidden: Tensor, segment: Tensor, tokens: GlobalTokens, context: BlockContext) -> Tensor:
        """Attend from every token.

        Args:
            hidden: *Shape:* `[T, d]`.
            segment: *Shape:* `[R, N]`.
            tokens: the rows' global tokens.
            context: the blocks' keys.

        Returns:
            The attention's result before the output projection. *Shape:* `[T, d]`.
        """
        fused = self.fused and torch.compiler.is_exporting()
        local = self.fused_rows(hidden, context) if fused else self.local_rows(hidden, context)
        rows, slots = tokens.index.shape
        from_global = self.global_rows(
            hidden, segment, tokens.index.reshape(-1), tokens.segment.reshape(rows, slots)
        )
        results = torch.cat([local, from_global, from_global.new_zeros(1, from_global.shape[1])])
        return torch.index_select(results, 0, tokens.row_source)

    def local_rows(self, hidden: Tensor, context: BlockContext) -> Tensor:
        """Local attention with global columns, for all tokens. *Shape:* `[T, d]` to `[T, d]`."""
        heads, size = self.group_size, self.head_size
        blocks, block_size, columns = context.bias.shape
        flat = context.index.reshape(-1)
        results = []
        for module in self.groups:
            group = cast(HeadGroup, module)
            qkv = hidden @ group.qkv_weight + group.qkv_bias
            query, key, value = qkv.reshape(-1, 3, heads, size).permute(1, 2, 0, 3).unbind(0)
            keys = torch.index_select(key, 1, flat).reshape(heads, blocks, columns, size)
            values = torch.index_select(value, 1, flat).reshape(heads, blocks, columns, size)
            scores = query.reshape(heads, blocks, block_size, size) @ keys.transpose(2, 3)
            weights = torch.softmax(scores + context.bias, dim=-1)
            results.append((weights @ values).permute(1, 2, 0, 3).reshape(-1, heads * size))
        return torch.cat(results, dim=1)

    def fused_rows(self, hidden: Tensor, context: BlockContext) -> Tensor:
        """As `local_rows`, as one operator that is there while a graph is traced. *Shape:* as there."""
        blocks, block_size, columns = context.bias.shape
        width = self.heads * self.head_size
        query, key, value = torch.split(hidden @ self.qkv_weight + self.qkv_bias, width, dim=1)
        flat = context.index.reshape(-1)
        keys, values = (
            torch.index_select(part, 0, flat).reshape(blocks, columns, width) for part in (key, value)
        )
        queries = query.reshape(blocks, block_size, width)
        return attention_operator(queries, keys, values, context.bias[:, None], self.heads).reshape(-1, width)

    def global_rows(self, hidden: Tensor, segment: Tensor, index: Tensor, index_segment: Tensor) -> Tensor:
        """Global attention from some tokens to all tokens of their segments.

        Args:
            hidden: *Shape:* `[T, d]`.
            segment: *Shape:* `[R, N]`.
            index: flat indices of the attending tokens, the same number Q for each row. *Shape:* `[R * Q]`.
            index_segment: their segments. *Shape:* `[R, Q]`.

        Returns:
            *Shape:* `[R * Q, d]`.
        """
        heads, size = self.heads, self.head_size
        rows, length = segment.shape
        queries = index_segment.shape[1]
        width = heads * size
        query = torch.index_select(hidden, 0, index) @ self.global_query_weight + self.global_query_bias
        query = query.reshape(-1, heads, size).transpose(0, 1) @ self.global_key_weight
        query = query.transpose(0, 1).reshape(rows, queries * heads, width).float()
        by_row = hidden.reshape(rows, length, width).float()
        scores = (query @ by_row.transpose(1, 2)).reshape(rows, queries, heads, length)
        sees = index_segment[:, :, None, None] == segment[:, None, None]
        scores = scores + torch.where(sees, 0.0, mask_value(scores.dtype))
        weights = torch.softmax(scores, dim=-1).reshape(rows, queries * heads, length)
        mean = (weights @ by_row).to(hidden.dtype).reshape(rows * queries, heads, width).transpose(0, 1)
        result = (mean @ self.global_value_weight).transpose(0, 1).reshape(rows * queries, width)
        return result + self.global_value_bias

    def first_rows(
        self,
        hidden: Tensor,
        segment: Tensor,
        is_global: Tensor,
        tokens: GlobalTokens,
        first: Tensor,
        one_sided_window: int,
    ) -> Tensor:
        """Attend from the first token of each sequence only: all that a classifier's last layer needs.

        Such a token has no neighbour before it in its segment, so its local keys are the
        `one_sided_window` tokens after it, and itself.

        Args:
            hidden: *Shape:* `[T, d]`.
            segment: *Shape:* `[R, N]`.
            is_global: *Shape:* `[R, N]`.
            tokens: the rows' global tokens.
            first: flat index of each sequence's first token, the same number Q for each row.
                *Shape:* `[R, Q]`.
            one_sided_window: half the attention window.

        Returns:
            *Shape:* `[R * Q, d]`.
        """
        heads, size = self.heads, self.head_size
        width = heads * size
        rows, queries = first.shape
        slots = tokens.index.shape[1]
        own_segment = _take(segment, first)

        reach = torch.arange(one_sided_window + 1, device=hidden.device)
        wanted = first[:, :, None] + reach
        row_end = (torch.arange(rows, device=hidden.device)[:, None, None] + 1) * segment.shape[1]
        inside = wanted < row_end
        local_index = torch.where(inside, wanted, 0)
        visible = torch.where(is_global, _NO_SEGMENT, segment)
        local_segment = torch.where(inside, _take(visible, local_index), _NO_SEGMENT)
        index = torch.cat([tokens.index[:, None].expand(-1, queries, -1), local_index], dim=-1)
        key_segment = torch.cat([tokens.segment[:, None].expand(-1, queries, -1), local_segment], dim=-1)
        columns = slots + one_sided_window + 1

        q_weight, k_weight, v_weight = torch.split(self.qkv_weight, width, dim=1)
        q_bias, _, v_bias = torch.split(self.qkv_bias, width)
        query = torch.index_select(hidden, 0, first.reshape(-1)) @ q_weight + q_bias
        query = query.reshape(-1, heads, size).transpose(0, 1) @ _per_head(k_weight, heads).transpose(1, 2)
        keys = torch.index_select(hidden, 0, index.reshape(-1)).reshape(rows * queries, columns, width)
        keys = keys.float()
        scores = query.transpose(0, 1).float() @ keys.transpose(1, 2)
        sees = key_segment.reshape(-1, 1, columns) == own_segment.reshape(-1, 1, 1)
        scores = scores + torch.where(sees, 0.0, mask_value(scores.dtype))
        mean = (torch.softmax(scores, dim=-1) @ keys).to(hidden.dtype).transpose(0, 1)
        local = (mean @ _per_head(v_weight, heads)).transpose(0, 1).reshape(-1, width) + v_bias

        from_global = self.global_rows(hidden, segment, first.reshape(-1), own_segment)
        chosen = torch.index_select(is_global.reshape(-1), 0, first.reshape(-1))[:, None]
        result = torch.where(chosen, from_global, local)
        return torch.where(own_segment.reshape(-1, 1) == 0, 0.0, result)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Pick flat elements of `values`: exports as one Gather. *Shape:* that of `index`."""
    return torch.index_select(values.reshape(-1), 0, index.reshape(-1)).reshape(index.shape)


def _per_head(weight: Tensor, heads: int) -> Tensor:
    """Split a weight `[d, H * D]` by heads. *Shape:* `[H, d, D]`."""
    return weight.reshape(weight.shape[0], heads, -1).transpose(0, 1)
