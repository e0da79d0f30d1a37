"""Local attention as one ONNX `Attention` operator.

Written as products and a softmax, the scores of a block of queries go to memory and come back several times:
that is most of what a GPU does with a long sequence. `Attention` (opset 23) says the same in one node. ONNX
Runtime's CUDA provider has a kernel for it, one of whose ways keeps the scores on the chip (memory-efficient
attention; onnxruntime's pull requests 27542 and 27831), and every runtime without a kernel may expand it by
the operator's own definition. That way takes a bias only where the columns are a multiple of four; eight also
suits half precision's loads.
"""

from __future__ import annotations

from torch import Tensor
from torch.onnx import ops

__all__ = ["COLUMN_MULTIPLE", "FUSED_OPSET", "attention_operator"]

COLUMN_MULTIPLE = 8
"""What the number of keys that a query may see is filled up to a multiple of."""
FUSED_OPSET = 23
"""The first opset with the operator."""


def attention_operator(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, heads: int) -> Tensor:
    """Put the operator into the graph that is being traced; outside a trace the result holds nothing.

    Args:
        query: already scaled. *Shape:* `[B, Q, d]`.
        key: *Shape:* `[B, C, d]`.
        value: *Shape:* `[B, C, d]`.
        bias: what is added to the scores of all heads. *Shape:* `[B, 1, Q, C]`.
        heads: their number, a divisor of d.

    Returns:
        *Shape:* `[B, Q, d]`.
    """
    return ops.symbolic(
        "Attention",
        (query, key, value, bias),
        {"q_num_heads": heads, "kv_num_heads": heads, "scale": 1.0},
        dtype=query.dtype,
        shape=query.shape,
        version=FUSED_OPSET,
    )
