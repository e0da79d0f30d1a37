"""The model's matrix products in PyTorch: `mm` and `bmm` in fp32 and bf16, `_int_mm` in int8."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .engines import Prepared
from .errors import BenchError
from .matrix import Case, EngineSpec
from .products import ModelShape, Product, model_products, run_parts

__all__ = ["TorchProducts"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


class TorchProducts:
    """The products of a model with random weights."""

    note = None

    def __init__(self, shape: ModelShape, spec: EngineSpec) -> None:
        if spec.precision not in _DTYPES:
            raise BenchError(f"the precision is {spec.precision!r}; give one of {', '.join(_DTYPES)}")
        torch.set_num_threads(spec.threads)
        self._shape, self._dtype = shape, _DTYPES[spec.precision]
        self._weights: dict[tuple[int, int], list[Tensor]] = {}

    @property
    def runs_on(self) -> str:
        return f"torch {torch.__version__} CPU {torch.backends.cpu.get_cpu_capability()}"

    def prepare(self, case: Case, seed: int) -> Prepared:
        torch.manual_seed(seed)
        parts: dict[str, list[Callable[[], object]]] = {"linear": [], "attention": []}
        for product in model_products(self._shape, case):
            make = self._linear if product.part == "linear" else self._attention
            parts[product.part] += make(product)

        def run_all(calls: list[Callable[[], object]]) -> Callable[[], None]:
            def run() -> None:
                with torch.inference_mode():
                    for call in calls:
                        call()

            return run

        runs = {name: run_all(calls) for name, calls in parts.items()}
        return Prepared(run=lambda: run_parts(runs), logits=None)

    def _linear(self, product: Product) -> list[Callable[[], object]]:
        """A weight each, because a model reads as many; one output, which is overwritten."""
        left = _random((product.m, product.k), self._dtype)
        weights = self._weights.setdefault((product.k, product.n), [])
        while len(weights) < product.count:
            weights.append(_random((product.k, product.n), self._dtype))
        if self._dtype is torch.int8:
            return [lambda w=weight: torch._int_mm(left, w) for weight in weights]  # type: ignore[misc]
        target = torch.empty(product.m, product.n, dtype=self._dtype)
        return [lambda w=weight: torch.mm(left, w, out=target) for weight in weights]  # type: ignore[misc]

    def _attention(self, product: Product) -> list[Callable[[], object]]:
        dtype = torch.bfloat16 if self._dtype is torch.bfloat16 else torch.float32
        left = _random((product.batch, product.m, product.k), dtype)
        right = _random((product.batch, product.k, product.n), dtype)
        target = torch.empty(product.batch, product.m, product.n, dtype=dtype)
        return [lambda: torch.bmm(left, right, out=target)] * product.count


def _random(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if dtype is torch.int8:
        return torch.randint(-63, 64, size, dtype=dtype)
    return torch.randn(size).to(dtype)
