"""Which engines some bundles and a checkpoint allow, each as a row of the tables."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.cores import available_cores
from longserve.serving.runtime.engine_settings import InferencePrecision
from longserve.serving.runtime.manifest import Layout, Precision, Quantization

from ..kept_memory import can_keep_memory
from .errors import BenchError
from .matrix import BenchSettings, EngineKind, EngineSpec, ProductLibrary
from .products import COUNTED_ARCHITECTURE

__all__ = ["plan_engines"]

_NEEDS_REFERENCE = (
    EngineKind.TORCH,
    EngineKind.TORCH_KEPT,
    EngineKind.TORCH_BF16,
    EngineKind.TORCH_COMPILE,
    EngineKind.REWRITE,
)
_PRODUCTS = (
    (ProductLibrary.TORCH, "fp32"),
    (ProductLibrary.ONNXRUNTIME, "fp32"),
    (ProductLibrary.TORCH, "bf16"),
    (ProductLibrary.TORCH, "int8"),
    (ProductLibrary.ONNXRUNTIME, "int8"),
)
_PACKAGES = {ProductLibrary.TORCH: ("torch",), ProductLibrary.ONNXRUNTIME: ("onnxruntime", "onnx")}
"""What the products of each library need."""


def plan_engines(
    bundles: Sequence[Bundle],
    settings: BenchSettings,
    *,
    reference: str | None = None,
    revision: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[EngineSpec]:
    """List the engines to measure, the baseline first.

    The first one is the stock PyTorch model in float32 where it is among them.

    Args:
        bundles: of one model, in any precisions and block sizes; the first one's manifest describes the
            inputs.
        settings: see `BenchSettings`.
        reference: hub id or directory of the checkpoint.
        revision: of a hub repository.
        report: is told what is left out because this environment or the model does not allow it, and why.

    Raises:
        BenchError: no bundle, bundles of different models, or an engine that needs `reference` without it.
    """
    if not bundles:
        raise BenchError("there is no bundle to measure; give at least one")
    _check_same_model(bundles)
    kinds = settings.engines or _possible(reference, bundles[0], report)
    lacking = [kind.value for kind in kinds if kind in _NEEDS_REFERENCE and reference is None]
    if lacking:
        raise BenchError(f"{', '.join(lacking)} runs the checkpoint itself; give it with --reference")
    threads = settings.threads or available_cores()
    labels = _bundle_labels(bundles)
    specs: list[EngineSpec] = []
    for kind in EngineKind:
        if kind not in kinds:
            continue
        if kind in (EngineKind.ONNXRUNTIME, EngineKind.OPENVINO):
            specs += _bundle_specs(kind, bundles, labels, settings, threads)
        elif kind is EngineKind.PRODUCTS:
            specs += _product_specs(bundles[0], threads, report)
        else:
            specs += _torch_specs(kind, bundles[0], settings, threads, reference, revision)
    return specs


def _possible(reference: str | None, bundle: Bundle, report: Callable[[str], None]) -> tuple[EngineKind, ...]:
    """Return what can be measured here: with a checkpoint all, of the engines those that are installed."""
    architecture = bundle.manifest.architecture
    possible = {
        EngineKind.ONNXRUNTIME: (_installed("onnxruntime"), "onnxruntime is not installed"),
        EngineKind.OPENVINO: (_installed("openvino"), "openvino is not installed"),
        EngineKind.PRODUCTS: (
            architecture == COUNTED_ARCHITECTURE,
            f"the matrix products of a {architecture} model are not listed here",
        ),
        EngineKind.TORCH_KEPT: (can_keep_memory(), "the C library cannot be told to keep freed memory"),
    }
    kinds = []
    for kind in EngineKind:
        if kind in _NEEDS_REFERENCE and reference is None:
            continue
        can_be, why = possible.get(kind, (True, ""))
        if can_be:
            kinds.append(kind)
        else:
            report(f"{kind.value} is left out: {why}")
    return tuple(kinds)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _torch_specs(
    kind: EngineKind,
    bundle: Bundle,
    settings: BenchSettings,
    threads: int,
    reference: str | None,
    revision: str | None,
) -> list[EngineSpec]:
    names = {
        EngineKind.TORCH: "torch eager fp32",
        EngineKind.TORCH_KEPT: "torch eager fp32, memory kept",
        EngineKind.TORCH_BF16: "torch autocast bf16",
        EngineKind.TORCH_COMPILE: "torch.compile fp32",
    }
    layouts: Iterable[Layout] = settings.layouts if kind is EngineKind.REWRITE else (Layout.PADDED,)
    return [
        EngineSpec(
            kind=kind,
            name=names.get(kind, f"rewrite fp32 {layout.value}"),
            bundle=str(bundle.path),
            reference=reference,
            revision=revision,
            precision="bf16" if kind is EngineKind.TORCH_BF16 else "fp32",
            layout=layout,
            threads=threads,
        )
        for layout in layouts
    ]


def _bundle_specs(
    kind: EngineKind, bundles: Sequence[Bundle], labels: Sequence[str], settings: BenchSettings, threads: int
) -> list[EngineSpec]:
    precisions = tuple(InferencePrecision) if kind is EngineKind.OPENVINO else (None,)
    specs = []
    for bundle, label in zip(bundles, labels, strict=True):
        for precision in precisions:
            for layout in settings.layouts:
                specs.append(
                    EngineSpec(
                        kind=kind,
                        name=f"{kind.value} {_with(label, bundle, precision)} {layout.value}",
                        bundle=str(bundle.path),
                        precision=_arithmetic(bundle, precision),
                        layout=layout,
                        threads=threads,
                        inference_precision=precision,
                        memory_arena=settings.memory_arena,
                    )
                )
    return specs


def _arithmetic(bundle: Bundle, inference: InferencePrecision | None) -> str:
    stored = bundle.manifest.precision
    return stored.value if inference is None or stored is not Precision.FP32 else inference.value


def _with(label: str, bundle: Bundle, inference: InferencePrecision | None) -> str:
    """Add to a bundle's label in what its float operators run, where that is not what it stores."""
    if inference is None or inference.value == bundle.manifest.precision.value:
        return label
    return f"{label} as {inference.value}"


def _product_specs(bundle: Bundle, threads: int, report: Callable[[str], None]) -> list[EngineSpec]:
    lacking = {library: [p for p in needed if not _installed(p)] for library, needed in _PACKAGES.items()}
    for library, packages in lacking.items():
        if packages:
            report(f"the products of {library.value} are left out: {packages[0]} is not installed")
    return [
        EngineSpec(
            kind=EngineKind.PRODUCTS,
            name=f"products {precision} {library.value}",
            bundle=str(bundle.path),
            precision=precision,
            library=library,
            threads=threads,
        )
        for library, precision in _PRODUCTS
        if not lacking[library]
    ]


def _bundle_labels(bundles: Sequence[Bundle]) -> list[str]:
    """Name bundles by precision, by quantization too where that tells them apart, else by directory."""
    candidates = [
        [bundle.manifest.precision.value for bundle in bundles],
        [" ".join(filter(None, (b.manifest.precision.value, _quantization(b)))) for b in bundles],
        [f"{bundle.manifest.precision.value} {bundle.path.name}" for bundle in bundles],
        [f"{bundle.manifest.precision.value} {bundle.path}" for bundle in bundles],
    ]
    counted = [Counter(names) for names in candidates]
    return [
        next(names[i] for names, count in zip(candidates, counted, strict=True) if count[names[i]] == 1)
        for i in range(len(bundles))
    ]


def _quantization(bundle: Bundle) -> str | None:
    manifest = bundle.manifest
    if manifest.precision is not Precision.INT8:
        return None
    return (manifest.quantization or Quantization.DYNAMIC).value


def _check_same_model(bundles: Sequence[Bundle]) -> None:
    if len({bundle.path.resolve() for bundle in bundles}) != len(bundles):
        raise BenchError("a bundle is named twice; name each once")
    first = bundles[0]
    for other in bundles[1:]:
        for name in ("task", "attention_window", "vocab_size", "type_vocab_size", "max_length", "labels"):
            ours, theirs = getattr(first.manifest, name), getattr(other.manifest, name)
            if ours != theirs:
                raise BenchError(
                    f"{first.path} and {other.path} are not of one model: {name} is {ours} and {theirs}; "
                    "measure them one after the other"
                )
