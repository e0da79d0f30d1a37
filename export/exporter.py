"""From a checkpoint to a validated bundle."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import (
    EngineName,
    EngineSettings,
    InferencePrecision,
    open_engine,
    open_packed_engine,
)
from longserve.serving.runtime.manifest import (
    Layout,
    Manifest,
    Precision,
    Quantization,
    Task,
)

from .bundle_writer import check_target, file_records, staged_directory, write_manifest
from .checkpoint import Checkpoint, load_checkpoint
from .checkpoint_config import is_unicode
from .description import GRAPH_FILES, check_readable, describe_checkpoint
from .errors import ExportError, OutputError
from .graph import export_graph
from .half import HALF_TYPES, half_engines, layout_module
from .parity import ParityReport, check_parity
from .progress import Progress
from .quantization import quantize_models
from .rounding import drawn_calibration
from .settings import ExportSettings
from .text_parity import TextParity, Texts, compare_texts
from .weights import save_models

__all__ = [
    "ExportResult",
    "ValidationResult",
    "export_bundle",
    "validate_bundle",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What was written, and the comparison that let it pass (None if it was not made)."""

    path: Path
    manifest: Manifest
    parity: ParityReport | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """A comparison of a bundle with its checkpoint, and of predictions if texts were given."""

    parity: ParityReport
    texts: TextParity | None


def export_bundle(
    source: str,
    task: Task,
    output: str | Path,
    *,
    settings: ExportSettings | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Export a checkpoint to a bundle.

    Args:
        source: hub id or local directory.
        task: the task of its head.
        output: the bundle's directory; it appears only when the bundle is complete and validated.
        settings: see `ExportSettings`.
        revision: branch, tag or commit of a hub repository.
        overwrite: replace a bundle that is already there.
        progress: is told of the stages.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        GraphError: the exported graph is not what was asked for.
        ParityFailed: the exported model does not give PyTorch's results.
        OutputError: the bundle cannot be written.
    """
    chosen, target = settings or ExportSettings(), Path(output)
    report = progress or _NoProgress()
    check_target(target, overwrite=overwrite)
    _check_path(target)
    _check_can_validate(chosen)
    checkpoint = _load(source, task, report, revision=revision)
    manifest = describe_checkpoint(checkpoint, chosen)
    check_readable(manifest)
    with staged_directory(target, overwrite=overwrite) as stage:
        _check_space(checkpoint, stage)
        _write_models(checkpoint, manifest, stage, report)
        checkpoint.config.to_json_file(stage / "config.json")
        if checkpoint.tokenizer is not None:
            # its own `save` raises bare Exception where the disk is full
            written = checkpoint.tokenizer.backend_tokenizer.to_str(pretty=True)
            (stage / "tokenizer.json").write_text(written, encoding="utf-8")
        parity = None
        if chosen.validate:
            parity = _compare(checkpoint, manifest, stage, _validation_engine(manifest), report)
            if manifest.precision in HALF_TYPES:
                parity = parity.joined(_compare_arithmetic(checkpoint, manifest, report))
            (stage / "parity.json").write_text(parity.to_json(), encoding="utf-8")
            parity.raise_if_failed()
        report.stage("write bundle")
        manifest = replace(
            manifest,
            files=file_records(stage),
            parity=None if parity is None else parity.summary(),
        )
        write_manifest(stage, manifest)
    return ExportResult(path=target, manifest=manifest, parity=parity)


def validate_bundle(
    bundle: Bundle,
    reference: str,
    *,
    revision: str | None = None,
    engine: EngineSettings | None = None,
    texts: Texts = (),
    seed: int = 1,
    progress: Progress | None = None,
) -> ValidationResult:
    """Compare a bundle with a checkpoint on this machine.

    Args:
        bundle: the bundle.
        reference: hub id or local directory of the checkpoint that it was exported from.
        revision: of a hub repository; None: the revision that the manifest names.
        engine: what runs the bundle, and how; by default ONNX Runtime on the CPU.
        texts: the user's own texts to compare predictions on (see `text_parity.compare_texts`).
        seed: of the random inputs; the export itself used 0.
        progress: is told of the stages.

    Raises:
        CheckpointError: the checkpoint cannot be used, or is not of the bundle's shape.
        EngineError: the engine is not there, or cannot do what its settings ask for.
    """
    report = progress or _NoProgress()
    manifest = bundle.manifest
    checkpoint = _load(
        reference, manifest.task, report, revision=revision, default_revision=manifest.revision
    )
    found = describe_checkpoint(checkpoint, ExportSettings())
    sizes = ("vocab_size", "type_vocab_size", "attention_window", "random_blocks")
    for name in ("architecture", *sizes, "labels"):
        if getattr(found, name) != getattr(manifest, name):
            raise ExportError(
                f"{reference} has {name} {getattr(found, name)}, the bundle {getattr(manifest, name)}; "
                "give the checkpoint that the bundle was exported from"
            )
    chosen = engine or EngineSettings(spin_between_runs=False)
    parity = _compare(checkpoint, manifest, bundle.path, chosen, report, seed=seed)
    compared = None
    if texts:
        packed = open_packed_engine(bundle, chosen)
        compared = compare_texts(
            checkpoint.model, checkpoint.tokenizer, packed, bundle, texts, progress=report
        )
    return ValidationResult(parity=parity, texts=compared)


def _load(
    source: str,
    task: Task,
    progress: Progress,
    *,
    revision: str | None,
    default_revision: str | None = None,
) -> Checkpoint:
    progress.stage("load checkpoint")
    checkpoint = load_checkpoint(source, task, revision=revision, default_revision=default_revision)
    unused = checkpoint.unused
    if unused:
        shown = (
            ", ".join(unused) if len(unused) < 5 else f"{', '.join(unused[:3])} and {len(unused) - 3} more"
        )
        progress.note(f"{source} also holds weights that {task.value} does not use: {shown}")
    return checkpoint


def _compare(
    checkpoint: Checkpoint,
    manifest: Manifest,
    directory: Path,
    settings: EngineSettings,
    progress: Progress,
    *,
    seed: int = 0,
) -> ParityReport:
    engines = {layout: open_engine(directory / file, settings) for layout, file in GRAPH_FILES.items()}
    return check_parity(
        checkpoint.model,
        engines,
        manifest,
        seed=seed,
        inference_precision=settings.inference_precision or InferencePrecision.FP32,
        progress=progress,
    )


def _compare_arithmetic(checkpoint: Checkpoint, manifest: Manifest, progress: Progress) -> ParityReport:
    """Compare in half-precision arithmetic, because the engines of a CPU compute half graphs in float32."""
    lengths = checkpoint.architecture.parity_lengths_in_half(manifest)
    engines = half_engines(checkpoint.model, manifest)
    return check_parity(checkpoint.model, engines, manifest, lengths=lengths, progress=progress)


def _validation_engine(manifest: Manifest) -> EngineSettings:
    """Return ONNX Runtime; for quantized weights OpenVINO, if it is installed: it multiplies integers.

    For bf16 OpenVINO in any case: ONNX Runtime has no bf16 kernels for CPUs.
    """
    multiplies = manifest.quantization is Quantization.WEIGHTS and _has_openvino()
    reads = manifest.precision is Precision.BF16
    engine = EngineName.OPENVINO if multiplies or reads else EngineName.ONNXRUNTIME
    return EngineSettings(engine=engine, spin_between_runs=False)  # PyTorch computes in between


def _check_path(target: Path) -> None:
    """Refuse a path that ONNX Runtime and tokenizers could not open."""
    if not is_unicode(str(target.absolute())):
        raise OutputError(
            f"the output {str(target.absolute())!a} is no UTF-8, so that ONNX Runtime could not open the "
            "bundle; choose another"
        )


def _check_can_validate(settings: ExportSettings) -> None:
    """Refuse before the work what could not be compared after it."""
    if settings.validate and settings.precision is Precision.BF16 and not _has_openvino():
        raise ExportError(
            "a bf16 graph is compared with PyTorch in OpenVINO, because ONNX Runtime has no bf16 kernels for "
            "CPUs, and openvino is not installed; install 'longserve[openvino]', or give --no-validate and "
            "run `longserve validate` on a GPU"
        )


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _write_models(checkpoint: Checkpoint, manifest: Manifest, stage: Path, progress: Progress) -> None:
    models: dict[str, ir.Model] = {}
    for layout, file in GRAPH_FILES.items():
        progress.stage(f"export {layout.value} graph")
        module = layout_module(checkpoint.model, manifest, layout)
        models[file] = export_graph(module, checkpoint.config, checkpoint.task, layout, opset=manifest.opset)
    if manifest.quantization is not None:
        progress.stage("quantize")
        calibration = drawn_calibration(manifest, GRAPH_FILES[Layout.PACKED])
        models = quantize_models(models, manifest.quantization, stage, calibration)
    progress.stage("write weights")
    save_models(models, stage)


def _check_space(checkpoint: Checkpoint, directory: Path) -> None:
    needed = sum(parameter.nbytes for parameter in checkpoint.model.parameters())
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OutputError(
            f"{directory.parent} has {free / 1e6:.0f} MB free, but the weights alone take "
            f"{needed / 1e6:.0f} MB; free some space or choose another output"
        )


class _NoProgress:
    """Tells nobody of stages; what the user should know is a warning."""

    def stage(self, name: str, total: int | None = None) -> None:
        return

    def advance(self) -> None:
        return

    def note(self, text: str) -> None:
        warnings.warn(text, stacklevel=4)
