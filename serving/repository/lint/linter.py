"""Running all rules over a repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ...runtime.bundle import is_bundle
from ...runtime.cores import available_cores
from ...runtime.errors import RepositoryError
from ..builder import CONFIG_NAME, STAGING_PREFIX
from ..config import parse_config
from . import contents, machine, samples, scheduling, tensors
from .findings import Finding, Severity
from .machine import Target
from .models import Model, Surroundings, error

__all__ = ["lint_repository"]

Rule = Callable[[Model, Surroundings], Iterator[Finding]]
_RULES: tuple[Rule, ...] = (
    contents.check_versions,
    contents.check_bundle,
    contents.check_description,
    contents.check_parameters,
    contents.check_code,
    machine.check_backend,
    machine.check_engine,
    scheduling.check_batching,
    scheduling.check_queue,
    scheduling.check_response_cache,
    scheduling.check_instances,
    scheduling.check_threads,
    tensors.check_tensors,
    tensors.check_ragged,
    tensors.check_batch_input,
    tensors.check_batch_output,
    samples.check_warmup,
)


def lint_repository(
    repository: str | Path, *, server: Target = Target.AUTO, cores: int | None = None
) -> list[Finding]:
    """Look for what people get wrong in a Triton model repository.

    Nothing is started and nothing is changed. Files are read whole, because their hashes are checked.

    Args:
        repository: the model repository.
        server: what it is to be served by; it decides which backends there are.
        cores: processor cores that the server may use; this machine's by default.

    Returns:
        The findings, errors first, each model's together.
    """
    root = Path(repository)
    found: list[Finding] = []
    models: list[Model] = []
    if not root.is_dir():
        return [error("no-repository", "", f"{root} is no directory", "build one with `longserve repo`")]
    for directory in sorted(path for path in root.iterdir() if path.is_dir()):
        model = _read(directory, found)
        if model is not None:
            models.append(model)
    if not models and not found:
        found.append(_no_models(root))
    ours = {model.name: model for model in models if model.is_ours}
    target, installation = machine.find_target(server)
    around = Surroundings(
        models=ours,
        backends=machine.backends_of(target),
        packages=None if installation is None else machine.visible_packages(),
        server="the wheel's Triton" if target is Target.EMBEDDED else "the server",
        cores=available_cores() if cores is None else cores,
    )
    for model in models:
        if not model.is_ours:
            found.append(_foreign(model))
            continue
        for rule in _RULES:
            found += rule(model, around)
    found += machine.check_environment(installation)
    if target is None:
        found.append(machine.unknown_server())
    order = list(Severity)
    return sorted(found, key=lambda each: order.index(each.severity))


def _read(directory: Path, found: list[Finding]) -> Model | None:
    """Read a model's configuration, or say why it cannot be read."""
    if directory.name.startswith(STAGING_PREFIX):
        found.append(
            error(
                "left-over",
                directory.name,
                "a `longserve repo` that was killed left this directory; Triton takes it for a model without "
                "configuration and does not start",
                "remove it, unless a `longserve repo` is writing it now",
            )
        )
        return None
    path = directory / CONFIG_NAME
    where = f"{directory.name}/{CONFIG_NAME}"
    try:
        return Model(path=directory, config=parse_config(path.read_text(encoding="utf-8"), where))
    except OSError as problem:
        reason = f"it cannot be read: {problem.strerror}"
    except UnicodeDecodeError as problem:
        reason = f"it is not UTF-8: {problem.reason} at byte {problem.start}"
    except RepositoryError as problem:
        reason = str(problem)
    found.append(
        error(
            "unreadable-config",
            where,
            f"{reason}; Triton will not load the model",
            "build it again with `longserve repo`, or remove the directory",
        )
    )
    return None


def _no_models(root: Path) -> Finding:
    if is_bundle(root):
        fix = f"build one of it with `longserve repo {root} --name NAME -o model_repository`"
        return error("no-models", "", f"{root} is a bundle, no model repository", fix)
    fix = f"build one with `longserve repo BUNDLE --name NAME -o {root}`"
    return error("no-models", "", f"{root} holds no model", fix)


def _foreign(model: Model) -> Finding:
    return Finding(
        rule="not-ours",
        severity=Severity.NOTE,
        where=model.name,
        found="longserve did not write this model, so it was not examined",
        fix="nothing, if it is meant to be here",
    )
