"""The model's matrix products in ONNX Runtime: `MatMul` in fp32, `MatMulInteger` in int8."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from .engines import Prepared
from .errors import BenchError
from .matrix import Case, EngineSpec
from .products import ModelShape, Product, model_products, run_parts

__all__ = ["OnnxRuntimeProducts"]

_OPSET = 20


class OnnxRuntimeProducts:
    """The products of a model with random weights: one graph of the linear layers, one of attention's."""

    note = None

    def __init__(self, shape: ModelShape, spec: EngineSpec) -> None:
        if spec.precision not in ("fp32", "int8"):
            raise BenchError(
                f"the precision is {spec.precision!r}; ONNX Runtime has products in fp32 and int8"
            )
        self._shape, self._threads, self._int8 = shape, spec.threads, spec.precision == "int8"
        # how many tokens go through the linear layers is no property of their graph: it is loaded once
        self._linear = self._open(self._products(Case(length=1, batch=1, global_tokens=0))["linear"])

    @property
    def runs_on(self) -> str:
        return f"onnxruntime {self._linear.get_providers()[0]}"

    def prepare(self, case: Case, seed: int) -> Prepared:
        random = np.random.default_rng(seed)
        products = self._products(case)
        runs = {
            "linear": self._bind(self._linear, products["linear"], random),
            "attention": self._bind(self._open(products["attention"]), products["attention"], random),
        }
        return Prepared(run=lambda: run_parts(runs), logits=None)

    def _products(self, case: Case) -> dict[str, list[Product]]:
        products = model_products(self._shape, case)
        return {part: [p for p in products if p.part == part] for part in ("linear", "attention")}

    def _open(self, products: Sequence[Product]) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # else equal products of equal inputs would be computed once
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        with tempfile.TemporaryDirectory() as room:
            path = Path(room, "products.onnx")
            model = _graph(products, int8=self._int8)
            onnx.save_model(model, path, save_as_external_data=True, location="products.data")
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def _bind(
        self, session: Any, products: Sequence[Product], random: np.random.Generator
    ) -> Callable[[], object]:
        """Bind the inputs, and one output for all products of a kind: it is overwritten, not allocated."""
        import onnxruntime

        binding = session.io_binding()
        held = []  # the binding does not keep them alive
        for index, product in enumerate(products):
            quantizes = self._quantizes(product)
            for name, size in _inputs(product, index).items():
                value = _draw(random, size, "uint8" if quantizes else "float32")
                held.append(onnxruntime.OrtValue.ortvalue_from_numpy(value))
                binding.bind_ortvalue_input(name, held[-1])
            output = np.zeros(_output_size(product), "int32" if quantizes else "float32")
            held.append(onnxruntime.OrtValue.ortvalue_from_numpy(output))
            for copy in range(product.count):
                binding.bind_ortvalue_output(f"out{index}_{copy}", held[-1])

        def run(_held: object = held) -> None:
            session.run_with_iobinding(binding)

        return run

    def _quantizes(self, product: Product) -> bool:
        return self._int8 and product.part == "linear"


def _inputs(product: Product, index: int) -> dict[str, tuple[int, ...]]:
    """Name the inputs of a product: a linear layer's weight is in the graph."""
    if product.part == "linear":
        return {f"left{index}": (product.m, product.k)}
    return {
        f"left{index}": (product.batch, product.m, product.k),
        f"right{index}": (product.batch, product.k, product.n),
    }


def _output_size(product: Product) -> tuple[int, ...]:
    rows = (product.m, product.n)
    return rows if product.part == "linear" else (product.batch, *rows)


def _graph(products: Sequence[Product], *, int8: bool) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    nodes, inputs, outputs, weights = [], [], [], []
    for index, product in enumerate(products):
        quantized = int8 and product.part == "linear"
        for name, size in _inputs(product, index).items():
            kind = TensorProto.UINT8 if quantized else TensorProto.FLOAT
            free = [None, *size[1:]] if product.part == "linear" else size
            inputs.append(helper.make_tensor_value_info(name, kind, free))
        for copy in range(product.count):
            right = f"right{index}"
            if product.part == "linear":
                right = f"weight{index}_{copy}"
                weight = _draw(random, (product.k, product.n), "int8" if quantized else "float32")
                weights.append(numpy_helper.from_array(weight, right))
            output = f"out{index}_{copy}"
            operator = "MatMulInteger" if quantized else "MatMul"
            nodes.append(helper.make_node(operator, [f"left{index}", right], [output]))
            kind = TensorProto.INT32 if quantized else TensorProto.FLOAT
            outputs.append(helper.make_tensor_value_info(output, kind, None))
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)


def _draw(random: np.random.Generator, size: tuple[int, ...], dtype: str) -> npt.NDArray[np.generic]:
    if dtype == "float32":
        return random.standard_normal(size, dtype=np.float32)
    low, high = (-63, 64) if dtype == "int8" else (0, 128)
    return random.integers(low, high, size).astype(dtype)
