"""The matrix products of one run of the model, and nothing else: the limit of any engine on a machine.

The shapes are those of the exported graph: four linear layers over all tokens, the products of blocks of
queries with their context of keys and of attention weights with values, and those of the global rows. A
classifier's last layer, which computes one row, is left out. Every layer has its own weights, so that
reading them from memory counts as it does for the model.

Per precision: `fp32` and `bf16` run all products so; `int8` runs the linear layers in int8 (int32 sums) and
attention's own products in fp32.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.manifest import Task

from .engines import BenchEngine
from .errors import BenchError
from .matrix import Case, EngineSpec, ProductLibrary

__all__ = [
    "COUNTED_ARCHITECTURE",
    "ModelShape",
    "Product",
    "model_products",
    "open_products",
    "read_shape",
    "run_parts",
]

COUNTED_ARCHITECTURE = "longformer"
"""The architecture whose products `model_products` lists."""

_SETTLE = 0.05
"""Seconds between two parts: ONNX Runtime's threads spin for longer than 5 ms after a run, seen here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of the encoder.

    Attributes:
        hidden: hidden size d.
        intermediate: inner size of the feed-forward layers.
        heads: attention heads.
        windows: attention window of each layer that runs over all tokens.
        block: tokens per block of local attention.
    """

    hidden: int
    intermediate: int
    heads: int
    windows: tuple[int, ...]
    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """`count` products `[batch, m, k] @ [batch, k, n]`; a linear layer has batch 1 and its own weight each.

    Attributes:
        part: `linear` or `attention`.
    """

    part: str
    count: int
    batch: int
    m: int
    k: int
    n: int

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.count * self.batch * self.m * self.k * self.n


def model_products(shape: ModelShape, case: Case) -> list[Product]:
    """List the products of one run of the padded layout (the packed one has the same, batch rows joined)."""
    d, inner, layers, head = shape.hidden, shape.intermediate, len(shape.windows), shape.hidden // shape.heads
    blocks = -(-case.length // shape.block)
    length = blocks * shape.block
    tokens = case.batch * length
    sizes = ((d, 3 * d), (d, d), (d, inner), (inner, d))
    products = [Product(part="linear", count=layers, batch=1, m=tokens, k=k, n=n) for k, n in sizes]
    slots = max(1, case.global_tokens)
    for window in sorted(set(shape.windows)):
        count = shape.windows.count(window)
        columns = (2 * -(-(window // 2) // shape.block) + 1) * shape.block + slots
        many = shape.heads * case.batch * blocks
        for k, n in ((head, columns), (columns, head)):
            products.append(Product(part="attention", count=count, batch=many, m=shape.block, k=k, n=n))
    rows = slots * shape.heads
    for k, n in ((d, length), (length, d)):
        products.append(Product(part="attention", count=layers, batch=case.batch, m=rows, k=k, n=n))
    return products


def run_parts(parts: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Run each part and return its seconds."""
    seconds = {}
    for name, part in parts.items():
        time.sleep(_SETTLE)
        began = time.perf_counter()
        part()
        seconds[name] = time.perf_counter() - began
    return seconds


def read_shape(bundle: Bundle) -> ModelShape:
    """Read the encoder's sizes from a bundle.

    Raises:
        BenchError: its config.json does not tell them, or its architecture's products are not known here.
    """
    architecture = bundle.manifest.architecture
    if architecture != COUNTED_ARCHITECTURE:
        raise BenchError(
            f"{bundle.path} is a {architecture} model, whose matrix products are not listed here; measure "
            "other engines than `products`"
        )
    source = bundle.path / "config.json"
    try:
        config = json.loads(source.read_text(encoding="utf-8"))
        hidden, inner, heads = (
            int(config[name]) for name in ("hidden_size", "intermediate_size", "num_attention_heads")
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{source} does not tell the model's sizes ({error}); export it again") from error
    windows = bundle.manifest.attention_window
    return ModelShape(
        hidden=hidden,
        intermediate=inner,
        heads=heads,
        windows=windows[:-1] if bundle.manifest.task is Task.TEXT_CLASSIFICATION else windows,
        block=bundle.manifest.block_size,
    )


def open_products(bundle: Bundle, spec: EngineSpec) -> BenchEngine:
    """Return the engine that runs the products of a bundle's model in the library of `spec`.

    Raises:
        BenchError: the specification names no library, or the library lacks the precision.
    """
    shape = read_shape(bundle)
    if spec.library is ProductLibrary.TORCH:
        from .torch_products import TorchProducts

        return TorchProducts(shape, spec)
    if spec.library is ProductLibrary.ONNXRUNTIME:
        from .onnxruntime_products import OnnxRuntimeProducts

        return OnnxRuntimeProducts(shape, spec)
    raise BenchError(f"the engine {spec.name} names no library; say whose products to run")
