"""An architecture in optimum's terms: tasks, the inputs and outputs of each layout, and dummy inputs.

optimum 2 has no ONNX exporter any more; what it still has is the registry of tasks (names, synonyms, model
classes) and the description of a model's inputs and outputs, and those are used. Each model type has its
`EncoderExporterConfig` in optimum's `TasksManager`, under the backend name `longserve`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from optimum.exporters.base import ExporterConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils.input_generators import DummyInputGenerator, DummyTextInputGenerator
from optimum.utils.normalized_config import NormalizedTextConfig
from transformers import PretrainedConfig

from longserve.serving.runtime.manifest import Layout, Task

from .errors import TaskMismatch

__all__ = [
    "BACKEND",
    "EncoderExporterConfig",
    "exporter_config",
    "model_class",
    "parse_task",
    "register_model_type",
]

BACKEND = "longserve"
_DUMMY_BATCH = 2
_DUMMY_LENGTH = 75
"""Dummy sizes: unlike, no multiple of a block, and above 1, so that the tracer specializes none."""

_SYNONYMS = {
    "classification": Task.TEXT_CLASSIFICATION,
    "sentiment-analysis": Task.TEXT_CLASSIFICATION,
    "qa": Task.QUESTION_ANSWERING,
}
"""Beside optimum's own, such as `sequence-classification`."""

_register = TasksManager.create_register(BACKEND, overwrite_existing=True)


class _PaddedInputs(DummyTextInputGenerator):  # type: ignore[misc]
    """optimum's text inputs, with some token global: its own Longformer generator's mask is all zeros."""

    def generate(self, input_name: str, **options: Any) -> torch.Tensor:
        value: torch.Tensor = super().generate(input_name, **options)
        if input_name == "global_attention_mask":
            value = torch.zeros_like(value)
            value[:, :3] = 1
        elif input_name == "attention_mask":
            value = torch.ones_like(value)
        elif input_name == "token_type_ids":
            value = torch.zeros_like(value)
        return value


class _PackedInputs(DummyInputGenerator):  # type: ignore[misc]
    """Two sequences end to end."""

    SUPPORTED_INPUT_NAMES = ("input_ids", "global_attention_mask", "sequence_ends", "token_type_ids")

    def __init__(self, task: str, normalized_config: NormalizedTextConfig, **_: Any) -> None:
        self.task = task
        self.vocab_size = normalized_config.vocab_size

    def generate(
        self, input_name: str, framework: str = "pt", int_dtype: str = "int64", float_dtype: str = "fp32"
    ) -> torch.Tensor:
        length = _DUMMY_LENGTH
        if input_name == "sequence_ends":
            return torch.tensor([length // 2, length], dtype=torch.int32)
        if input_name == "input_ids":
            value: torch.Tensor = self.random_int_tensor(
                [length], self.vocab_size, framework=framework, dtype=int_dtype
            )
            return value
        value = torch.zeros(length, dtype=torch.int64)
        if input_name == "global_attention_mask":
            value[:3] = 1
            value[length // 2] = 1
        return value


class EncoderExporterConfig(ExporterConfig):  # type: ignore[misc]
    """Inputs, outputs and dummy inputs of one layout of an exported encoder."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig
    takes_global_attention: ClassVar[bool] = False

    def __init__(
        self, config: PretrainedConfig, task: str, layout: Layout = Layout.PADDED, **options: Any
    ) -> None:
        self.layout = layout
        self.DUMMY_INPUT_GENERATOR_CLASSES = (_PaddedInputs,) if layout is Layout.PADDED else (_PackedInputs,)
        super().__init__(config, task, **options)

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Each input's dynamic axes, in the order of the graph's inputs."""
        padded = self.layout is Layout.PADDED
        axes = {0: "batch", 1: "sequence"} if padded else {0: "tokens"}
        names = ["input_ids", *(["attention_mask"] if padded else [])]
        if self.takes_global_attention:
            names.append("global_attention_mask")
        inputs = {name: dict(axes) for name in names}
        if not padded:
            inputs["sequence_ends"] = {0: "batch"}
        if self._config.type_vocab_size > 1:
            inputs["token_type_ids"] = dict(axes)
        return inputs

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Each output's dynamic axes, in the order of the graph's outputs."""
        names: list[str] = super().outputs
        if self.task == Task.TEXT_CLASSIFICATION.value:
            axes = {0: "batch"}
        elif self.layout is Layout.PADDED:
            axes = {0: "batch", 1: "sequence"}
        else:
            axes = {0: "tokens"}
        return {name: dict(axes) for name in names}

    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Return inputs to trace with."""
        made: dict[str, torch.Tensor] = self.generate_dummy_inputs(
            framework="pt", batch_size=_DUMMY_BATCH, sequence_length=_DUMMY_LENGTH
        )
        return made


def register_model_type(model_type: str, *, takes_global_attention: bool) -> None:
    """Register a model type for both tasks.

    Args:
        model_type: Hugging Face's `config.model_type`.
        takes_global_attention: whether its graphs have the input `global_attention_mask`.
    """
    described = type(
        f"{EncoderExporterConfig.__name__}[{model_type}]",
        (EncoderExporterConfig,),
        {"takes_global_attention": takes_global_attention},
    )
    _register(model_type, *(task.value for task in Task))(described)


def exporter_config(config: PretrainedConfig, task: Task, layout: Layout) -> EncoderExporterConfig:
    """Return the registered exporter configuration for a model, task and layout."""
    constructor = TasksManager.get_exporter_config_constructor(
        BACKEND,
        task=task.value,
        model_type=config.model_type,
        library_name="transformers",
        exporter_config_kwargs={"layout": layout},
    )
    made = constructor(config)
    assert isinstance(made, EncoderExporterConfig)
    return made


def parse_task(name: str) -> Task:
    """Return the task of that name or synonym: one of optimum's, or of `_SYNONYMS`.

    Raises:
        TaskMismatch: no such task, or one that is not exported.
    """
    try:
        return Task(_SYNONYMS.get(name) or TasksManager.map_from_synonym(name))
    except ValueError:
        legal = ", ".join(task.value for task in Task)
        raise TaskMismatch(f"the task {name!r} is not one that longserve exports; choose {legal}") from None


def model_class(task: Task, model_type: str) -> Any:
    """Return transformers' auto class for the task."""
    return TasksManager.get_model_class_for_task(task.value, framework="pt", model_type=model_type)
