"""Parts of a transformer layer, in the form in which they export, that every architecture uses."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = [
    "FeedForward",
    "GroupedHeads",
    "HeadGroup",
    "Linear",
    "TransformerLayer",
    "compute_in_pieces",
    "frozen",
    "mask_value",
]


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
        self.weight = frozen(stock.weight.T)
        self.bias = nn.Parameter(stock.bias.detach(), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight + self.bias


class HeadGroup(nn.Module):
    """Some heads' projection to queries, keys and values. *Shape:* `[d, 3 * heads * D]`."""

    def __init__(self, qkv_weight: Tensor, qkv_bias: Tensor) -> None:
        super().__init__()
        self.qkv_weight = frozen(qkv_weight)
        self.qkv_bias = frozen(qkv_bias)


class GroupedHeads(nn.Module):
    """An attention's projection to queries, keys and values, in groups of heads.

    Only one group's scores exist at a time: those are what takes the memory in a long sequence.

    Attributes:
        heads: their number H.
        groups: of equally many heads, in order; each a `HeadGroup`.
    """

    def __init__(self, qkv_weight: Tensor, qkv_bias: Tensor, heads: int) -> None:
        """Hold all heads in one group.

        Args:
            qkv_weight: *Shape:* `[d, 3 * H * D]`.
            qkv_bias: *Shape:* `[3 * H * D]`.
            heads: their number H.
        """
        super().__init__()
        self.heads = heads
        self.groups = nn.ModuleList([HeadGroup(qkv_weight, qkv_bias)])

    @property
    def group_size(self) -> int:
        """Heads of each group."""
        return self.heads // len(self.groups)

    def split_heads(self, most: int) -> None:
        """Make groups of at most so many heads."""
        (whole,) = (cast(HeadGroup, group) for group in self.groups)
        size = max(n for n in range(1, most + 1) if self.heads % n == 0)
        self.groups = nn.ModuleList(
            HeadGroup(
                _columns(whole.qkv_weight, self.heads, first, size),
                _columns(whole.qkv_bias[None], self.heads, first, size)[0],
            )
            for first in range(0, self.heads, size)
        )


class _Features(nn.Module):
    """Some features of a feed-forward layer."""

    def __init__(self, weight: Tensor, bias: Tensor, output_weight: Tensor) -> None:
        super().__init__()
        self.intermediate = nn.ParameterDict({"weight": frozen(weight), "bias": frozen(bias)})
        self.output = nn.ParameterDict({"weight": frozen(output_weight)})


class FeedForward(nn.Module):
    """Two linear layers with an activation between, in pieces of the features between them.

    Only one piece's features exist at a time; the pieces' results are summed.
    """

    def __init__(self, inner: nn.Linear, activation: Any, outer: nn.Linear) -> None:
        """Hold all features in one piece."""
        super().__init__()
        self.activation = activation
        self.pieces = nn.ModuleList([_Features(inner.weight.T, inner.bias, outer.weight.T)])
        self.output_bias = frozen(outer.bias)

    def split_features(self) -> None:
        """Make pieces as wide as the layer's input, so that a piece takes no more room than that.

        A layer whose features are no multiple of that width stays whole.
        """
        (whole,) = (cast(_Features, piece) for piece in self.pieces)
        width, features = whole.intermediate["weight"].shape
        if features % width:
            return
        self.pieces = nn.ModuleList(
            _Features(
                whole.intermediate["weight"][:, first : first + width],
                whole.intermediate["bias"][first : first + width],
                whole.output["weight"][first : first + width],
            )
            for first in range(0, features, width)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """*Shape:* `[rows, d]` to `[rows, d]`."""
        total: Tensor | None = None
        for module in self.pieces:
            piece = cast(_Features, module)
            features = self.activation(inputs @ piece.intermediate["weight"] + piece.intermediate["bias"])
            part = features @ piece.output["weight"]
            total = part if total is None else total + part
        assert total is not None
        return total + self.output_bias


def compute_in_pieces(module: nn.Module, *, heads: int, features: bool) -> None:
    """Make a layout's module compute its layers piece by piece.

    Args:
        module: made by `Architecture.make_module`.
        heads: most heads at a time.
        features: whether feed-forward layers are split too.
    """
    for part in list(module.modules()):
        if isinstance(part, GroupedHeads):
            part.split_heads(heads)
        elif isinstance(part, FeedForward) and features:
            part.split_features()


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
        self.feed_forward = FeedForward(
            stock.intermediate.dense, stock.intermediate.intermediate_act_fn, stock.output.dense
        )
        self.output_norm = stock.output.LayerNorm

    def finish(self, attended: Tensor, hidden: Tensor) -> Tensor:
        """Everything after self-attention, for any rows. *Shape:* `[rows, d]`."""
        hidden = self.attention_norm(self.attention_output(attended) + hidden)
        result: Tensor = self.output_norm(self.feed_forward(hidden) + hidden)
        return result


def _columns(qkv: Tensor, heads: int, first: int, count: int) -> Tensor:
    """Pick the columns of some heads from `[rows, 3 * H * D]`. *Shape:* `[rows, 3 * count * D]`."""
    by_head = qkv.reshape(qkv.shape[0], 3, heads, -1)
    return by_head[:, :, first : first + count].reshape(qkv.shape[0], -1)
