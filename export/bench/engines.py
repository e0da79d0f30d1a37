"""The engines of a benchmark, as its processes open them.

PyTorch is imported only for the engines that need it: a process's memory is what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import Engine, open_engine
from longserve.serving.runtime.engine_settings import EngineName, EngineSettings
from longserve.serving.runtime.manifest import Layout, Manifest
from longserve.serving.runtime.packing import EncoderOutput, EncoderSequence, pack, pad, unpack, unpad
from longserve.serving.server.cpu import INSTRUCTIONS

from .errors import BenchError
from .matrix import Case, EngineKind, EngineSpec, ProductLibrary

__all__ = [
    "BenchEngine",
    "Prepared",
    "TORCH_NEEDS",
    "check_instructions",
    "feeds_of",
    "make_rows",
    "open_bench_engine",
    "read_logits",
]

Float32Array = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[np.generic]]
TORCH_NEEDS = {"bf16": INSTRUCTIONS["bf16"], "int8": INSTRUCTIONS["int8 (VNNI)"]}
"""Instructions of which PyTorch needs one. Without, a product of 1,024 tokens with a weight of base size took
7 s in bf16 and 3 s in int8, and 0.06 s in fp32."""
_ENGINES = {EngineKind.ONNXRUNTIME: EngineName.ONNXRUNTIME, EngineKind.OPENVINO: EngineName.OPENVINO}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A case whose inputs are ready.

    Attributes:
        run: one run. It returns the model's raw outputs, or, where `logits` is None, the seconds of each
            part of what it did.
        logits: all logits of a run's outputs at unpadded positions, one after the other.
    """

    run: Callable[[], Any]
    logits: Callable[[Any], Float32Array] | None


class BenchEngine(Protocol):
    """Runs cases."""

    @property
    def runs_on(self) -> str:
        """What it really runs on."""
        ...

    @property
    def note(self) -> str | None:
        """What a reader of the figures should know beyond that, e.g. what was compiled."""
        ...

    def prepare(self, case: Case, seed: int) -> Prepared:
        """Make a case's inputs."""
        ...


def open_bench_engine(spec: EngineSpec) -> BenchEngine:
    """Open an engine in this process.

    Raises:
        BenchError: the specification lacks what its kind needs.
        CheckpointError: the checkpoint cannot be loaded.
        EngineError: the engine cannot load the bundle.
    """
    bundle = Bundle.open(spec.bundle, verify=False)  # `plan_engines` was given it checked
    if spec.kind is EngineKind.PRODUCTS:
        from .products import open_products

        return open_products(bundle, spec)
    if spec.layout is None:
        raise BenchError(f"the engine {spec.name} names no layout; say which graph or module to run")
    if spec.kind in _ENGINES:
        settings = EngineSettings(
            engine=_ENGINES[spec.kind],
            threads=spec.threads,
            inference_precision=spec.inference_precision,
            memory_arena=spec.memory_arena,
        )
        engine = open_engine(bundle.model_path(spec.layout), settings)
        return _BundleEngine(engine, bundle.manifest, spec.layout)
    from .torch_engines import open_torch_engine

    return open_torch_engine(bundle.manifest, spec, spec.layout)


def check_instructions(spec: EngineSpec, flags: Collection[str]) -> None:
    """Refuse what PyTorch would compute number by number.

    Args:
        spec: an engine.
        flags: the processor's instruction sets; none: they are not known, and nothing is refused.

    Raises:
        BenchError: PyTorch has no fast products in that precision on such a processor.
    """
    by_torch = spec.kind is EngineKind.TORCH_BF16 or spec.library is ProductLibrary.TORCH
    needed = TORCH_NEEDS.get(spec.precision, ()) if by_torch else ()
    if flags and needed and not any(flag in flags for flag in needed):
        raise BenchError(
            f"this CPU has none of {', '.join(needed)}, without which PyTorch takes seconds for each product "
            f"in {spec.precision}; leave the engine out"
        )


def make_rows(manifest: Manifest, case: Case, seed: int) -> list[EncoderSequence]:
    """Draw the rows of a case: any ids but padding's, the first `global_tokens` of each row global."""
    random = np.random.default_rng(seed)
    legal = np.delete(np.arange(manifest.vocab_size, dtype=np.int64), manifest.special_tokens["pad"])
    mask = (np.arange(case.length) < case.global_tokens).astype(np.int64)
    return [
        EncoderSequence(
            input_ids=random.choice(legal, case.length),
            global_attention_mask=mask if manifest.takes_global_attention else None,
        )
        for _ in range(case.batch)
    ]


def feeds_of(rows: Sequence[EncoderSequence], manifest: Manifest, layout: Layout) -> Arrays:
    """Lay rows out as a graph's inputs."""
    return pad(rows, manifest) if layout is Layout.PADDED else pack(rows, manifest)


def read_logits(outputs: Arrays, case: Case, manifest: Manifest, layout: Layout) -> Float32Array:
    """Return all logits of a run in one vector, in the same order for both layouts."""
    split = unpad if layout is Layout.PADDED else unpack
    results: list[EncoderOutput] = split(outputs, [case.length] * case.batch, manifest.task)
    return np.concatenate([vector.ravel() for result in results for vector in result.vectors()])


class _BundleEngine:
    """One graph of a bundle, in the engine that serves it."""

    note = None

    def __init__(self, engine: Engine, manifest: Manifest, layout: Layout) -> None:
        self._engine, self._manifest, self._layout = engine, manifest, layout

    @property
    def runs_on(self) -> str:
        return self._engine.runs_on

    def prepare(self, case: Case, seed: int) -> Prepared:
        feeds = feeds_of(make_rows(self._manifest, case, seed), self._manifest, self._layout)
        return Prepared(
            run=lambda: self._engine.run(feeds),
            logits=lambda outputs: read_logits(outputs, case, self._manifest, self._layout),
        )
