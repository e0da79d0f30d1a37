"""The manifest of the bundle that a checkpoint gives."""

from __future__ import annotations

import importlib.metadata

from longserve.serving.runtime.errors import BundleError
from longserve.serving.runtime.manifest import SCHEMA_VERSION, GraphSpec, Layout, Manifest, TensorSpec

from .architectures import Architecture
from .checkpoint import Checkpoint
from .errors import ExportError
from .exporter_config import EncoderExporterConfig, exporter_config
from .settings import ExportSettings

__all__ = ["GRAPH_FILES", "check_readable", "describe_checkpoint"]

GRAPH_FILES = {Layout.PADDED: "model.onnx", Layout.PACKED: "model.packed.onnx"}
_TOOLS = (
    "torch",
    "transformers",
    "optimum",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
)


def describe_checkpoint(checkpoint: Checkpoint, settings: ExportSettings) -> Manifest:
    """Return the manifest of the bundle that a checkpoint would give, still without files and parity.

    Raises:
        ExportError: the settings do not fit the checkpoint.
    """
    config, architecture = checkpoint.config, checkpoint.architecture
    attention = architecture.attention_shape(config, checkpoint.task, settings.block_size)
    _check_settings(settings, architecture, attention.longest)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        task=checkpoint.task,
        model_id=checkpoint.model_id,
        revision=checkpoint.revision,
        architecture=architecture.name,
        attention_window=attention.attention_window,
        max_length=settings.max_length or attention.longest,
        block_size=attention.block_size,
        max_global_tokens=settings.max_global_tokens,
        vocab_size=config.vocab_size,
        type_vocab_size=config.type_vocab_size,
        graphs=tuple(
            _graph_spec(exporter_config(config, checkpoint.task, layout), file, config.num_labels)
            for layout, file in GRAPH_FILES.items()
        ),
        labels=checkpoint.labels,
        problem_type=checkpoint.problem_type,
        special_tokens=checkpoint.special_tokens,
        global_attention=attention.global_attention,
        precision=settings.precision,
        quantization=settings.quantization,
        opset=settings.graph_opset,
        tools=_tool_versions(),
        files=(),
        parity=None,
        has_tokenizer=checkpoint.tokenizer is not None,
        question_separators=checkpoint.frame.separators,
        context_token_type=checkpoint.frame.context_type,
        random_blocks=attention.random_blocks,
        fused_attention=settings.fused_attention,
    )


def _check_settings(settings: ExportSettings, architecture: Architecture, positions: int) -> None:
    """Refuse what the architecture has not, or has no use for in sequences of so many positions."""
    longest = settings.max_length or positions
    if longest > positions:
        raise ExportError(
            f"max_length {longest} is more than the checkpoint's {positions} positions; "
            f"give at most {positions}"
        )
    for name in ("block_size", "max_global_tokens"):
        size = getattr(settings, name)
        if size is not None and size > longest:
            raise ExportError(
                f"{name} is {size}, but the longest sequence has {longest} tokens; give at most {longest}"
            )
    if settings.max_global_tokens is not None and not architecture.takes_global_attention:
        raise ExportError(
            f"max_global_tokens is {settings.max_global_tokens}, but {architecture.name} has no global "
            "tokens to choose; leave it out"
        )
    if settings.fused_attention and not architecture.has_fused_attention:
        raise ExportError(
            f"fused_attention is not there for {architecture.name}, only for longformer; leave it out"
        )


def _graph_spec(description: EncoderExporterConfig, file: str, labels: int) -> GraphSpec:
    inputs = tuple(
        TensorSpec(
            name=name,
            dtype="int32" if name == "sequence_ends" else "int64",
            axes=tuple(axes[axis] for axis in sorted(axes)),
        )
        for name, axes in description.inputs.items()
    )
    outputs = tuple(
        TensorSpec(
            name=name,
            dtype="float32",
            axes=(*(axes[axis] for axis in sorted(axes)), *((labels,) if name == "logits" else ())),
        )
        for name, axes in description.outputs.items()
    )
    return GraphSpec(file=file, layout=description.layout, inputs=inputs, outputs=outputs)


def _tool_versions() -> dict[str, str]:
    versions = {"longserve": importlib.metadata.version("longserve")}
    for name in _TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def check_readable(manifest: Manifest) -> None:
    """Refuse what no reader of the bundle would take, before it is made.

    Raises:
        ExportError: the manifest would be refused, or cannot be written as UTF-8.
    """
    try:
        written = manifest.to_json()
        written.encode("utf-8")
        Manifest.from_json(written)
    except (UnicodeEncodeError, BundleError) as error:
        raise ExportError(
            f"the bundle of {manifest.model_id!a} could not be read again: {error}; correct the "
            "checkpoint's configuration or name"
        ) from error
