"""Tracing a layout to ONNX, and holding the result to what was asked for."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch
import torch._dynamo.config
from onnx_ir.passes.common import NameFixPass
from torch import nn
from torch.export import Dim
from transformers import PretrainedConfig

from longserve.serving.runtime.manifest import Layout, Task

from .architectures import architecture_of
from .decomposition import without_decomposition
from .errors import GraphError
from .exporter_config import EncoderExporterConfig, exporter_config
from .operator_registry import with_kept_registry
from .optimizer import optimize
from .repetition import Repetition
from .type_promotion import without_type_promotion

__all__ = ["DEFAULT_OPSET", "FORBIDDEN_OPERATORS", "OPSETS", "check_graph", "export_graph"]

DEFAULT_OPSET = 20
OPSETS = range(18, 24)
"""Opsets that the graphs were exported and run in."""

FORBIDDEN_OPERATORS = frozenset({"NonZero", "If", "Loop", "Scan", "ScatterND", "ScatterElements"})
"""Operators with data-dependent shapes or control flow, which TensorRT's parsers reject or mishandle."""

_NOISY = ("torch.onnx", "torch.onnx._internal", "onnxscript", "onnx_ir", "torch.export")


def export_graph(
    module: nn.Module,
    config: PretrainedConfig,
    task: Task,
    layout: Layout,
    *,
    opset: int = DEFAULT_OPSET,
) -> ir.Model:
    """Trace a module to an ONNX model, every axis of its inputs dynamic.

    Args:
        module: made by `Architecture.make_module`.
        config: the checkpoint's configuration.
        task: the task of its head.
        layout: the module's layout.
        opset: ONNX opset, one of `OPSETS`.

    Raises:
        GraphError: an opset out of range, or a graph that `check_graph` refuses.
    """
    if opset not in OPSETS:
        raise GraphError(f"opset {opset} is not supported; choose {OPSETS.start} to {OPSETS.stop - 1}")
    architecture = architecture_of(config.model_type)
    if getattr(module, "layout", None) is not layout:
        raise GraphError(f"{type(module).__name__} is not of the layout {layout.value}")
    description = exporter_config(config, task, layout)
    inputs = description.dummy_inputs()
    repetition = Repetition.of(module)
    with _quiet(), _without_fake_tensor_cache():
        program = _translated(
            module if repetition is None else repetition.shortened(),
            (),
            kwargs=inputs,
            input_names=list(description.inputs),
            output_names=list(description.outputs),
            dynamic_shapes={
                name: {axis: Dim(label) for axis, label in axes.items()}
                for name, axes in description.inputs.items()
            },
            opset_version=opset,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        if program is None:
            raise GraphError("the exporter returned no program")
        if repetition is not None:
            repetition.hide_parameters(program.model.graph)
        optimize(program.model)
        if repetition is not None:
            repetition.complete(program.model.graph)
            NameFixPass()(program.model)
    model = program.model
    _clean(model, description, f"{architecture.name}_{layout.value}")
    check_graph(model)
    return model


def _translated(*arguments: Any, **options: Any) -> torch.onnx.ONNXProgram | None:
    """`torch.onnx.export`, with the steps that take most of its time only where they must be."""
    with with_kept_registry(), without_type_promotion():
        try:
            with without_decomposition():
                return torch.onnx.export(*arguments, **options)
        except torch.onnx.OnnxExporterError:  # an operator has no translation
            return torch.onnx.export(*arguments, **options)


def check_graph(model: ir.Model) -> None:
    """Check operators and axes.

    Raises:
        GraphError: an operator outside the standard domain, one of `FORBIDDEN_OPERATORS`, or an input with a
            fixed axis.
    """
    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx"):
            raise GraphError(f"the graph holds {node.domain}::{node.op_type}, which is no standard operator")
        if node.op_type in FORBIDDEN_OPERATORS:
            raise GraphError(f"the graph holds {node.op_type} ({node.name}), which TensorRT cannot take")
    for value in model.graph.inputs:
        fixed = [axis for axis in value.shape or () if isinstance(axis, int)]
        if value.shape is None or fixed:
            raise GraphError(f"the graph's input {value.name} has the fixed shape {value.shape}")


def _clean(model: ir.Model, description: EncoderExporterConfig, name: str) -> None:
    """Name the axes of the outputs and drop what the tracer noted of its own source files."""
    for value in model.graph.outputs:
        axes = description.outputs[str(value.name)]
        shape = value.shape
        if shape is None:
            raise GraphError(f"the graph's output {value.name} has no shape")
        value.shape = ir.Shape([axes.get(axis, shape[axis]) for axis in range(len(shape))])
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for output in node.outputs:
            output.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = None
    model.graph.doc_string = None
    model.graph.name = name


@contextlib.contextmanager
def _without_fake_tensor_cache() -> Iterator[None]:
    """Let PyTorch compute every shape anew.

    Its cache keeps symbolic shapes as expressions to be built again at each hit, which takes longer: tracing
    two layers takes 4.8 s without and 6.1 s with it.
    """
    name = "fake_tensor_cache_enabled"
    if not hasattr(torch._dynamo.config, name):
        yield
        return
    with torch._dynamo.config.patch({name: False}):
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence notes that say nothing of the model (torchvision is absent, an axis name is used twice)."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
