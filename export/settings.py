"""How to export."""

from __future__ import annotations

from dataclasses import dataclass

from longserve.serving.runtime.manifest import Precision, Quantization

from .errors import ExportError
from .fused_attention import FUSED_OPSET
from .graph import DEFAULT_OPSET

__all__ = ["ExportSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """How to export.

    Attributes:
        precision: arithmetic of the weights.
        quantization: of the int8 precision; None: dynamic, for ONNX Runtime.
        max_length: longest sequence to allow, in tokens; None: what the checkpoint's positions allow.
        max_global_tokens: fix the number of global slots of the padded graph, for engines that need it;
            None: any number.
        block_size: tokens per block of attention; None: the architecture's choice.
        fused_attention: write the local attention as one operator (`fused_attention`), for GPUs.
        opset: ONNX opset; None: see `graph_opset`.
        validate: compare with PyTorch, and write nothing if the comparison fails.
    """

    precision: Precision = Precision.FP32
    quantization: Quantization | None = None
    max_length: int | None = None
    max_global_tokens: int | None = None
    block_size: int | None = None
    fused_attention: bool = False
    opset: int | None = None
    validate: bool = True

    def __post_init__(self) -> None:
        for name in ("max_length", "max_global_tokens", "block_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ExportError(f"{name} is {value}; give a positive number of tokens")
        if self.fused_attention and self.graph_opset < FUSED_OPSET:
            raise ExportError(
                f"opset is {self.opset}, but the operator of fused_attention came with opset {FUSED_OPSET}; "
                "leave one of the two out"
            )
        if self.fused_attention and self.precision is Precision.INT8:
            raise ExportError(
                "fused_attention is for GPUs, and int8 for CPUs, which gain nothing by it; leave one out"
            )
        if self.precision is Precision.INT8:
            object.__setattr__(self, "quantization", self.quantization or Quantization.DYNAMIC)
        elif self.quantization is not None:
            raise ExportError(
                f"the quantization is {self.quantization.value} but the precision {self.precision.value}; "
                "only int8 is quantized"
            )

    @property
    def graph_opset(self) -> int:
        """The opset that was asked for, else the default, or the first that has the graph's operators."""
        if self.opset is not None:
            return self.opset
        return FUSED_OPSET if self.fused_attention else DEFAULT_OPSET
