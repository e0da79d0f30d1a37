"""The models of a repository as the linter's rules see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2 as triton

from ...runtime.bundle import Bundle
from ...runtime.errors import BundleError
from ...runtime.manifest import Manifest
from ..builder import CONFIG_NAME
from ..config import SCHEMA_PARAMETER
from .findings import Finding, Severity

__all__ = ["Model", "Surroundings", "error", "warning"]

_VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model of the repository.

    Attributes:
        path: its directory.
        config: the `ModelConfig` of its `config.pbtxt`.
        parameters: the configuration's parameters.
        manifest: that of the bundle which it was built from; None if it is missing or cannot be read.
        fingerprint: that bundle's; "" without a manifest.
    """

    path: Path
    config: Any
    parameters: Mapping[str, str] = field(init=False)
    manifest: Manifest | None = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        given = {name: value.string_value for name, value in self.config.parameters.items()}
        object.__setattr__(self, "parameters", given)
        try:
            bundle = Bundle.open(self.version, only=())
        except BundleError:  # a rule of its own says why
            object.__setattr__(self, "manifest", None)
            object.__setattr__(self, "fingerprint", "")
        else:
            object.__setattr__(self, "manifest", bundle.manifest)
            object.__setattr__(self, "fingerprint", bundle.fingerprint)

    @property
    def name(self) -> str:
        """Name of its directory."""
        return self.path.name

    @property
    def version(self) -> Path:
        """Directory of the version that is served."""
        return self.path / _VERSION

    @property
    def config_file(self) -> str:
        """Its `config.pbtxt`, relative to the repository."""
        return f"{self.name}/{CONFIG_NAME}"

    @property
    def is_ours(self) -> bool:
        """Whether longserve wrote it."""
        return SCHEMA_PARAMETER in self.parameters

    @property
    def is_text_model(self) -> bool:
        """Whether it takes texts; the others of ours are encoders."""
        return "encoder" in self.parameters or any(
            tensor.name in ("TEXT", "QUESTION", "CONTEXT") for tensor in self.config.input
        )

    @property
    def uses_python(self) -> bool:
        """Whether Triton's python backend runs it."""
        return bool(self.config.backend == "python")

    @property
    def packs_in_triton(self) -> bool:
        """Whether Triton itself lays the sequences of a batch end to end, for one of its own backends."""
        return self.config.backend in ("onnxruntime", "tensorrt")

    @property
    def runs_plan(self) -> bool:
        """Whether it is a TensorRT engine that runs."""
        return self.config.backend == "tensorrt" or self.parameters.get("engine") == "tensorrt"

    @property
    def uses_gpu(self) -> bool:
        """Whether its instances are on GPUs."""
        return any(group.kind == triton.ModelInstanceGroup.KIND_GPU for group in self.config.instance_group)

    @property
    def instances(self) -> int:
        """How many instances run at the same time."""
        return sum(group.count or 1 for group in self.config.instance_group) or 1

    def number(self, parameter: str) -> int | None:
        """A parameter as a whole number, or None if it is missing or none."""
        text = self.parameters.get(parameter, "")
        return int(text) if text.isascii() and text.isdecimal() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a model is judged against.

    Attributes:
        models: all models of ours in the repository, by name.
        backends: names of the backends that the server has; None if that is not known.
        packages: name and version of the engines' packages that its Python models see; None if that is not
            known.
        server: what that server is, for people.
        cores: processor cores that it may use.
    """

    models: Mapping[str, Model]
    backends: Sequence[str] | None
    packages: Mapping[str, str] | None
    server: str
    cores: int

    def text_models_of(self, encoder: Model) -> Iterator[Model]:
        """The text models that call an encoder."""
        for model in self.models.values():
            if model.is_text_model and model.parameters.get("encoder") == encoder.name:
                yield model


def error(rule: str, where: str, found: str, fix: str) -> Finding:
    """A finding that makes the repository unfit."""
    return Finding(rule=rule, severity=Severity.ERROR, where=where, found=found, fix=fix)


def warning(rule: str, where: str, found: str, fix: str) -> Finding:
    """A finding that it can live with."""
    return Finding(rule=rule, severity=Severity.WARNING, where=where, found=found, fix=fix)
