"""Half precision: what a half-precision graph stores in it, and PyTorch computing as a GPU does with it.

In half are the weights, the products, the residual sums and the softmax of the local attention. In float32
are the heads and whatever sums over a whole sequence: the scores and means of the global rows, which are
products with hidden states, whose outliers (a constant in every token) cancel in the softmax and would cost
the scores their digits before. Everything else that is delicate is float32 inside an operator:
LayerNormalization by its `stash_type`, and the sums of products and softmax in every GPU library. Computing
the local scores in float32 was tried and gained nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from longserve.serving.runtime.engine_settings import Arrays
from longserve.serving.runtime.manifest import Layout, Manifest, Precision

from .architectures import architecture_of
from .errors import GraphError
from .layers import compute_in_pieces

__all__ = ["HALF_TYPES", "HalfEngine", "half_engines", "layout_module", "to_half"]

HALF_TYPES: Mapping[Precision, torch.dtype] = {
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
}
"""The element type of each half precision."""
_FLOAT32 = ("head.",)
_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)


def to_half(module: nn.Module, precision: Precision) -> nn.Module:
    """Return a copy of a layout's module with its weights in half precision; its head stays float32.

    Args:
        module: made by `Architecture.make_module`; it is left as it is.
        precision: fp16 or bf16.

    Raises:
        GraphError: a weight is beyond the range of the precision.
    """
    dtype = HALF_TYPES[precision]
    stored: dict[int, Any] = {}
    for name, parameter in module.named_parameters():
        if name.startswith(_FLOAT32):
            continue
        value = parameter.detach().to(dtype)
        if not torch.isfinite(value).all():
            raise GraphError(
                f"the weight {name} reaches {float(parameter.detach().abs().max()):.3g}, beyond "
                f"{precision.value}'s largest number {torch.finfo(dtype).max:.3g}; export with bf16 or fp32"
            )
        stored[id(parameter)] = nn.Parameter(value, requires_grad=False)
    return copy.deepcopy(module, stored)


def layout_module(model: PreTrainedModel, manifest: Manifest, layout: Layout) -> nn.Module:
    """Return the module of a layout, its weights in the bundle's precision, its layers computed in pieces.

    Small pieces keep the peak of memory low on a CPU, and cost a CPU nothing (`docs/performance.md`). Half
    precision is for GPUs, which small products leave idle: there the pieces are large.

    Args:
        model: the stock model, which is left as it is.
        manifest: what the bundle says of itself.
        layout: `padded` or `packed`.

    Raises:
        GraphError: see `to_half`.
    """
    module = architecture_of(model.config.model_type).make_module(model, manifest, layout)
    if manifest.precision in HALF_TYPES:
        if not manifest.fused_attention:  # whose scores take no memory
            compute_in_pieces(module, heads=4, features=False)
        return to_half(module, manifest.precision)
    compute_in_pieces(module, heads=2, features=True)
    return module


def half_engines(model: PreTrainedModel, manifest: Manifest) -> dict[Layout, HalfEngine]:
    """Return for each layout what PyTorch computes in a half-precision bundle's arithmetic."""
    return {
        graph.layout: HalfEngine(
            layout_module(model, manifest, graph.layout),
            manifest.precision,
            tuple(tensor.name for tensor in graph.outputs),
        )
        for graph in manifest.graphs
    }


class HalfEngine:
    """A layout's module, run by PyTorch on the CPU in half precision: an `Engine` for the comparison.

    Every intermediate value is stored in half precision, so that one that overflows becomes infinite, as on a
    GPU. Products take half-precision numbers and sum in float32, as tensor cores do; the CPU's own products
    in float16 are a hundred times slower.
    """

    def __init__(self, module: nn.Module, precision: Precision, outputs: tuple[str, ...]) -> None:
        """Take a module that `to_half` made, and the names of its outputs in order."""
        self._module, self._precision, self._outputs = module, precision, outputs

    @property
    def runs_on(self) -> str:
        """`pytorch CPU fp16` or `pytorch CPU bf16`."""
        return f"pytorch CPU {self._precision.value}"

    def run(self, feeds: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Run the module once. Keys and values are the tensors' names and arrays."""
        given = {name: torch.from_numpy(array) for name, array in feeds.items()}
        with torch.inference_mode(), _FloatSums():  # type: ignore[no-untyped-call]
            result = self._module(**given)
        values = (result,) if isinstance(result, Tensor) else result
        return {name: value.numpy() for name, value in zip(self._outputs, values, strict=True)}


class _FloatSums(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Compute products of half-precision matrices in float32 and round their results."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _PRODUCTS and args[0].dtype in HALF_TYPES.values():
            return func(args[0].float(), args[1].float()).to(args[0].dtype)
        return func(*args, **(kwargs or {}))
