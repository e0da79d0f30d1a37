"""What is measured: engines by lengths by batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from longserve.serving.runtime.engine_settings import InferencePrecision
from longserve.serving.runtime.manifest import Layout, Manifest, Task

from .errors import BenchError

__all__ = [
    "BenchSettings",
    "Case",
    "DEFAULT_LENGTHS",
    "EngineKind",
    "EngineSpec",
    "ProductLibrary",
]

DEFAULT_LENGTHS = (128, 512, 1024, 2048, 4096)


class EngineKind(str, Enum):
    """What runs a model, or a part of it."""

    TORCH = "torch"
    """The stock transformers model, eager, float32: the usual baseline."""
    TORCH_KEPT = "torch-kept"
    """The same in a process whose C library keeps freed memory instead of giving it back; glibc only."""
    TORCH_BF16 = "torch-bf16"
    """The stock model under `torch.autocast("cpu", torch.bfloat16)`."""
    TORCH_COMPILE = "torch-compile"
    """The stock model through `torch.compile`."""
    REWRITE = "rewrite"
    """longserve's exportable module, in PyTorch."""
    ONNXRUNTIME = "onnxruntime"
    """The bundle in ONNX Runtime."""
    OPENVINO = "openvino"
    """The bundle in OpenVINO, its float operators in fp32 and in bf16."""
    PRODUCTS = "products"
    """The model's matrix products alone: how fast it could be if everything else cost nothing."""


class ProductLibrary(str, Enum):
    """Whose matrix multiplication the `products` engine calls."""

    TORCH = "torch"
    ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One input: `batch` rows of `length` tokens, the first `global_tokens` of each row global."""

    length: int
    batch: int
    global_tokens: int

    @property
    def name(self) -> str:
        """Readable identity, e.g. `2 x 512 tokens`."""
        return f"{self.batch} x {self.length} tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """One engine as its process opens it: one row of the tables.

    Attributes:
        kind: what runs.
        name: the row's name, unique among the engines of a run.
        bundle: path of the bundle that is run, or whose manifest says what the inputs are.
        reference: hub id or directory of the checkpoint, for what needs PyTorch's model.
        revision: of a hub repository.
        precision: arithmetic: `fp32`, `bf16` or `int8`.
        layout: the graph or module that is run; None for the products.
        library: whose products, for `products`.
        threads: of the engine.
        inference_precision: arithmetic of OpenVINO's float operators.
        memory_arena: whether the engine keeps freed memory for the next run.
    """

    kind: EngineKind
    name: str
    bundle: str
    reference: str | None = None
    revision: str | None = None
    precision: str = "fp32"
    layout: Layout | None = None
    library: ProductLibrary | None = None
    threads: int = 1
    inference_precision: InferencePrecision | None = None
    memory_arena: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {
            field: value.value if isinstance(value, Enum) else value
            for field, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> EngineSpec:
        """Read what `to_dict` gave."""
        read = dict(fields, kind=EngineKind(fields["kind"]))
        kinds = {"layout": Layout, "library": ProductLibrary, "inference_precision": InferencePrecision}
        for name, kind in kinds.items():
            if read[name] is not None:
                read[name] = kind(read[name])
        return cls(**read)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """How much is measured, and how.

    Attributes:
        lengths: tokens of each row; None: those of `DEFAULT_LENGTHS` that the model takes.
        batches: rows.
        layouts: layouts of the bundles and of the rewritten module.
        engines: kinds to measure; None: all that the bundles and the checkpoint allow.
        rounds: rounds of each case. In a round every engine runs once, in an order that rotates.
        warmup: untimed runs of each engine before the first round of a case.
        threads: of each engine; 0: one per core.
        global_tokens: global tokens at the beginning of each row; None: the task's, 1 for classification
            and 20 (a question) for question answering.
        timeout: seconds that one step of an engine (loading, compiling, a turn) may take.
        memory_arena: whether the bundles' engines keep freed memory for the next run; off as in serving.
        seed: of the token ids.
        at_once: most engines that are loaded at the same time, the baseline included; None: all. With fewer
            than there are, they are measured in groups, each beside the baseline.
    """

    lengths: tuple[int, ...] | None = None
    batches: tuple[int, ...] = (1,)
    layouts: tuple[Layout, ...] = (Layout.PADDED, Layout.PACKED)
    engines: tuple[EngineKind, ...] | None = None
    rounds: int = 10
    warmup: int = 2
    threads: int = 0
    global_tokens: int | None = None
    timeout: float = 600.0
    memory_arena: bool = False
    seed: int = 0
    at_once: int | None = None

    def __post_init__(self) -> None:
        for name, values in (("lengths", self.lengths), ("batches", self.batches)):
            if values is not None and (not values or min(values) < 1 or len(set(values)) != len(values)):
                raise BenchError(f"{name} is {list(values)}; give different positive numbers")
        if not self.layouts or (self.engines is not None and not self.engines):
            raise BenchError("no layout or no engine is chosen; choose at least one of each")
        for name, least in (("rounds", 1), ("warmup", 1), ("threads", 0)):
            if getattr(self, name) < least:
                raise BenchError(f"{name} is {getattr(self, name)}; give {least} or more")
        if self.at_once is not None and self.at_once < 2:
            raise BenchError(f"at_once is {self.at_once}; give 2 or more: an engine and its baseline")
        if self.global_tokens is not None and self.global_tokens < 0:
            raise BenchError(f"global_tokens is {self.global_tokens}; give 0 or more")
        if self.timeout <= 0:
            raise BenchError(f"timeout is {self.timeout}; give a positive number of seconds")

    def cases(self, manifest: Manifest) -> list[Case]:
        """Return the inputs for a model.

        Raises:
            BenchError: a length is beyond the model, or the global tokens are beyond what its graph takes.
        """
        lengths = self.lengths
        if lengths is None:
            lengths = tuple(n for n in DEFAULT_LENGTHS if n <= manifest.max_length) or (manifest.max_length,)
        if max(lengths) > manifest.max_length:
            raise BenchError(
                f"a length of {max(lengths)} tokens is asked for, but the model takes at most "
                f"{manifest.max_length}; give shorter ones"
            )
        wanted = self.global_tokens
        if wanted is None:
            wanted = 1 if manifest.task is Task.TEXT_CLASSIFICATION else 20
        capacity = manifest.max_global_tokens
        if capacity is not None and wanted > capacity:
            raise BenchError(
                f"{wanted} global tokens are asked for, but a bundle was exported for at most {capacity}; "
                "ask for fewer, or export with a larger --max-global-tokens"
            )
        return [
            Case(length=length, batch=batch, global_tokens=min(wanted, length))
            for batch in self.batches
            for length in lengths
        ]
