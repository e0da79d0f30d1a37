"""Whether a server can run the models: its backends, and the Python environment of the embedded one."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from ...runtime.engine_settings import EngineName, EngineSettings, InferencePrecision, has_cpu_kernels
from ...runtime.errors import EngineError, TritonNotFound
from ...server.environment import (
    check_libpython,
    check_numpy,
    check_packages,
    check_stub,
    visible_packages,
)
from ...server.installation import TritonInstallation, find_triton
from .findings import Finding, Severity
from .models import Model, Surroundings, error

__all__ = [
    "Target",
    "backends_of",
    "check_backend",
    "check_engine",
    "check_environment",
    "find_target",
    "unknown_server",
    "visible_packages",
]

_EMBEDDED_BACKENDS = ("python",)
_EXTRAS = {EngineName.OPENVINO: "openvino", EngineName.TENSORRT: "tensorrt"}


class Target(str, Enum):
    """The server that a repository is for."""

    AUTO = "auto"
    """The Triton that `longserve serve` would find on this machine."""
    EMBEDDED = "embedded"
    """The one in the `nvidia-pytriton` wheel: Python models only."""
    CONTAINER = "container"
    """NVIDIA's container: all backends."""


def find_target(target: Target) -> tuple[Target | None, TritonInstallation | None]:
    """Return the server that `target` stands for, and its installation if it is the wheel's on this machine.

    `Target.AUTO` becomes what is found here, or None if nothing is.
    """
    if target is Target.CONTAINER:
        return target, None
    try:
        found = find_triton()
    except TritonNotFound:
        return (None if target is Target.AUTO else target), None
    if found.wheel is None:
        return (Target.CONTAINER if target is Target.AUTO else target), None
    return Target.EMBEDDED, found


def backends_of(target: Target | None) -> tuple[str, ...] | None:
    """Backends of a server; None if all must be supposed to be there."""
    return _EMBEDDED_BACKENDS if target is Target.EMBEDDED else None


def check_backend(model: Model, around: Surroundings) -> Iterator[Finding]:
    """The server must have the model's backend and devices."""
    backend = model.config.backend
    if not backend:
        yield error(
            "no-backend",
            model.config_file,
            "the configuration names no backend",
            "set backend, or build the model again",
        )
    elif model.is_text_model and backend != "python":
        yield error(
            "wrong-backend", model.config_file, f"a text model has backend {backend!r}", "set it to python"
        )
    elif around.backends is not None and backend not in around.backends:
        yield error(
            "backend-missing",
            model.config_file,
            f"the backend is {backend}, but {around.server} has only {', '.join(around.backends)}",
            "build it with --backend python, or serve it in NVIDIA's container (lint: --server container)",
        )


def check_engine(model: Model, around: Surroundings) -> Iterator[Finding]:
    """A Python encoder's engine must be one that there is, and be installed where it runs."""
    if model.is_text_model or not model.uses_python:
        return
    given = {name: model.parameters.get(name, "") for name in ("engine", "inference_precision")}
    try:
        settings = EngineSettings(
            engine=EngineName(given["engine"]),
            inference_precision=InferencePrecision(given["inference_precision"]),
        )
    except (ValueError, EngineError) as refused:
        yield error(
            "bad-engine",
            model.config_file,
            " and ".join(f"{name} is {value!r}" for name, value in given.items()) + f": {refused}",
            "build the model again with --engine and --inference-precision",
        )
        return
    on_cpu = None if model.uses_gpu else model.manifest
    if on_cpu is not None and not has_cpu_kernels(settings.engine, on_cpu.precision):
        yield error(
            "no-kernels",
            model.config_file,
            f"the bundle is in {on_cpu.precision.value}, for which {settings.engine.value} has no "
            "kernels on CPUs: the model will not load",
            "build the model again with --engine openvino, or from a bundle of another --precision",
        )
    packages, name = around.packages, settings.engine.value
    extra = _EXTRAS.get(settings.engine, "gpu" if model.uses_gpu else "cpu")
    if packages is not None and not any(package.startswith(name) for package in packages):
        yield error(
            "engine-missing",
            model.config_file,
            f"the engine is {name}, which this environment's Python models cannot see",
            f"install 'longserve[{extra}]', or build the model with another --engine",
        )


def check_environment(installation: TritonInstallation | None) -> Iterator[Finding]:
    """The embedded server must find a Python environment that its models can run in."""
    if installation is None:
        return
    for rule, fitness in (
        ("unfit-numpy", check_numpy()),
        ("missing-packages", check_packages()),
        ("no-python-backend", check_stub(installation)),
        ("no-libpython", check_libpython()),
    ):
        if fitness.remedy is not None:
            yield error(rule, "", f"this machine has {fitness.found}", fitness.remedy)


def unknown_server() -> Finding:
    """What is said where no Triton is found."""
    return Finding(
        rule="no-server",
        severity=Severity.NOTE,
        where="",
        found="there is no Triton on this machine, so backends and environment were not checked",
        fix="give --server embedded or --server container, or lint where it will be served",
    )
