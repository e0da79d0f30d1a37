"""The engines that need PyTorch: the stock model in three ways, and the exported module in float32."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from longserve.serving.runtime.manifest import Layout, Manifest, Precision, Task

from ..architectures import architecture_of
from ..checkpoint import load_checkpoint
from ..half import layout_module
from ..kept_memory import keep_freed_memory
from .engines import BenchEngine, Float32Array, Prepared, feeds_of, make_rows, read_logits
from .errors import BenchError
from .matrix import Case, EngineKind, EngineSpec

__all__ = ["open_torch_engine"]

_RECOMPILE_LIMIT = 64


def open_torch_engine(manifest: Manifest, spec: EngineSpec, layout: Layout) -> BenchEngine:
    """Load the checkpoint and make the engine of `spec`.

    Raises:
        BenchError: the specification names no checkpoint, or asks for what the C library cannot do.
        CheckpointError: it cannot be loaded.
    """
    if spec.reference is None:
        raise BenchError(f"the engine {spec.name} names no checkpoint; give its model with --reference")
    if spec.kind is EngineKind.TORCH_KEPT and not keep_freed_memory():
        raise BenchError(f"the engine {spec.name} needs glibc; the C library here is another: leave it out")
    torch.set_num_threads(spec.threads)
    stock = load_checkpoint(
        spec.reference, manifest.task, revision=spec.revision, default_revision=manifest.revision
    ).model
    architecture = architecture_of(stock.config.model_type)
    if spec.kind is EngineKind.REWRITE:
        exported = replace(manifest, precision=Precision.FP32, quantization=None)
        return _TorchEngine(layout_module(stock, exported, layout), manifest, layout)

    def reset() -> None:
        architecture.reset_reference(stock)

    if spec.kind is EngineKind.TORCH_COMPILE:
        return _CompiledEngine(stock, manifest, reset)
    return _TorchEngine(stock, manifest, layout, reset, bf16=spec.kind is EngineKind.TORCH_BF16)


class _TorchEngine:
    """A module in inference mode; under autocast if `bf16`."""

    def __init__(
        self,
        module: Any,
        manifest: Manifest,
        layout: Layout,
        reset: Callable[[], None] = lambda: None,
        *,
        bf16: bool = False,
    ) -> None:
        """Take the module, and what undoes between two cases what runs leave in it."""
        self._module, self._manifest, self._layout, self._bf16 = module, manifest, layout, bf16
        self._reset = reset

    @property
    def runs_on(self) -> str:
        return f"torch {torch.__version__} CPU {torch.backends.cpu.get_cpu_capability()}"

    @property
    def note(self) -> str | None:
        return None

    def prepare(self, case: Case, seed: int) -> Prepared:
        rows = make_rows(self._manifest, case, seed)
        arrays = feeds_of(rows, self._manifest, self._layout)
        feeds = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self._reset()

        def run() -> Any:
            with torch.inference_mode(), self._arithmetic():
                return self._module(**feeds)

        return Prepared(run=run, logits=self._reader(case))

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self._bf16 else contextlib.nullcontext()

    def _reader(self, case: Case) -> Callable[[Any], Float32Array]:
        classifies = self._manifest.task is Task.TEXT_CLASSIFICATION
        names = ("logits",) if classifies else ("start_logits", "end_logits")

        def logits(outputs: Any) -> Float32Array:
            if isinstance(outputs, torch.Tensor):
                values = [outputs]
            elif isinstance(outputs, tuple) and not hasattr(outputs, names[0]):
                values = list(outputs)
            else:
                values = [getattr(outputs, name) for name in names]
            arrays = {name: value.float().numpy() for name, value in zip(names, values, strict=True)}
            return read_logits(arrays, case, self._manifest, self._layout)

        return logits


class _CompiledEngine(_TorchEngine):
    """The stock model through `torch.compile`, which must compile and not fall back."""

    def __init__(self, stock: Any, manifest: Manifest, reset: Callable[[], None]) -> None:
        # a matrix has many shapes; beyond the limit PyTorch would run eagerly, with a warning at most
        torch._dynamo.config.recompile_limit = _RECOMPILE_LIMIT
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        super().__init__(torch.compile(stock), manifest, Layout.PADDED, reset)

    @property
    def note(self) -> str | None:
        from torch._dynamo.utils import counters

        graphs = counters["stats"]["unique_graphs"]
        breaks = sum(counters["graph_break"].values())
        return f"{graphs} compiled graphs, {breaks} graph breaks"
