"""Parts of a transformer layer, in the form in which they export, that every architecture uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HeadGroup", "Linear", "TransformerLayer", "frozen", "head_groups", "mask_value"]

_HEADS_AT_A_TIME = 4
"""Most heads whose scores exist at the same time: those are what takes the memory in a long sequence."""


def mask_value(dtype: torch.dtype) -> float:
    """Return the finite value that stands for minus infinity: rows masked whole must not become NaN."""
    return -3.0e4 if dtype == torch.float16 else -1.0e9


def frozen(value: Tensor) -> nn.Parameter:
    """Return a parameter that is not trained, laid out contiguously."""
    return nn.Parameter(value.detach().contiguous(), requires_grad=False)


class Linear(nn.Module):
    """A linear layer whose weight lies as `[in, out]`, so that it exports as a plain MatMul and Add."""

    def __init__(self, stock: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(stock.weight.detach().T.contiguous(), requires_grad=False)
        self.bias = nn.Parameter(stock.bias.detach(), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight + self.bias


class HeadGroup(nn.Module):
    """Some heads' projection to queries, keys and values. *Shape:* `[d, 3 * heads * D]`."""

    def __init__(self, qkv_weight: Tensor, qkv_bias: Tensor) -> None:
        super().__init__()
        self.qkv_weight = frozen(qkv_weight)
        self.qkv_bias = frozen(qkv_bias)


def head_groups(qkv_weight: Tensor, qkv_bias: Tensor, heads: int) -> tuple[nn.ModuleList, int]:
    """Split the projection of all heads into groups of equally many.

    Args:
        qkv_weight: *Shape:* `[d, 3 * H * D]`.
        qkv_bias: *Shape:* `[3 * H * D]`.
        heads: their number H.

    Returns:
        The groups, and the number of heads of each.
    """
    size = max(n for n in range(1, _HEADS_AT_A_TIME + 1) if heads % n == 0)
    groups = nn.ModuleList(
        HeadGroup(
            _columns(qkv_weight, heads, first, size),
            _columns(qkv_bias[None], heads, first, size)[0],
        )
        for first in range(0, heads, size)
    )
    return groups, size


class TransformerLayer(nn.Module):
    """A layer: self-attention, its output projection, the feed-forward layer, normalizations."""

    attention_norm: nn.LayerNorm
    output_norm: nn.LayerNorm

    def __init__(self, stock: Any, attention: nn.Module) -> None:
        """Take the parameters of a stock layer of transformers' BERT family, and the rewritten attention."""
        super().__init__()
        self.attention = attention
        self.attention_output = Linear(stock.attention.output.dense)
        self.attention_norm = stock.attention.output.LayerNorm
        self.intermediate = Linear(stock.intermediate.dense)
        self.activation = stock.intermediate.intermediate_act_fn
        self.output = Linear(stock.output.dense)
        self.output_norm = stock.output.LayerNorm

    def finish(self, attended: Tensor, hidden: Tensor) -> Tensor:
        """Everything after self-attention, for any rows. *Shape:* `[rows, d]`."""
        hidden = self.attention_norm(self.attention_output(attended) + hidden)
        result: Tensor = self.output_norm(self.output(self.activation(self.intermediate(hidden))) + hidden)
        return result


def _columns(qkv: Tensor, heads: int, first: int, count: int) -> Tensor:
    """Pick the columns of some heads from `[rows, 3 * H * D]`. *Shape:* `[rows, 3 * count * D]`."""
    by_head = qkv.reshape(qkv.shape[0], 3, heads, -1)
    return by_head[:, :, first : first + count].reshape(qkv.shape[0], -1)
