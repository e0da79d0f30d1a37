"""What lies in a model's directory: the bundle's files, the code, and what the configuration says of them."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterator
from pathlib import Path

from ... import runtime
from ...runtime.bundle import Bundle
from ...runtime.errors import BundleError, IncompatibleEngine
from ...runtime.manifest import Task
from ...runtime.tensorrt_record import EngineRecord
from ..builder import CODE, RUNTIME_PACKAGE, encoder_files
from .findings import Finding
from .models import Model, Surroundings, error, warning

__all__ = ["check_bundle", "check_code", "check_description", "check_parameters", "check_versions"]

_REBUILD = "build the model again with `longserve repo`"
_NEEDED = {
    "text": ("max_in_flight",),
    "encoder": ("threads", "max_tokens_per_run"),
}
_CAPS = ("max_text_bytes", "max_windows")


def check_versions(model: Model, around: Surroundings) -> Iterator[Finding]:
    """The version that the configuration names must be there, and no other."""
    if model.config.name != model.name:
        yield error(
            "wrong-name",
            model.config_file,
            f"the configuration is that of {model.config.name!r}, but the directory is {model.name!r}",
            f"rename the directory, or build it with `--name`; {_REBUILD}",
        )
    if not model.version.is_dir():
        yield error("no-version", model.name, f"there is no version directory {model.version.name}", _REBUILD)
    others = sorted(p.name for p in model.path.iterdir() if p.name.isdecimal() and p != model.version)
    if others:
        yield warning(
            "other-versions",
            model.name,
            f"the version {', '.join(others)} is there, but version_policy serves {model.version.name} alone",
            "remove it; to upgrade, build a repository beside this one and switch (docs/operations.md)",
        )


def check_bundle(model: Model, around: Surroundings) -> Iterator[Finding]:
    """The files must be those that the manifest records, and of the bundle that the other model is of."""
    try:
        manifest = Bundle.open(model.version, only=()).manifest
        files = ["tokenizer.json"] if model.is_text_model else encoder_files(manifest)
        Bundle.open(model.version, only=[] if model.runs_plan else files)
        if model.runs_plan:
            yield from _check_plan(model)
    except (BundleError, IncompatibleEngine) as damage:
        yield error("damaged-bundle", f"{model.name}/{model.version.name}", str(damage), _REBUILD)
        return
    if not manifest.validated:
        yield warning(
            "not-validated",
            f"{model.name}/{model.version.name}",
            "the bundle was exported without validation: nobody has compared it with PyTorch",
            "run `longserve validate`, or export it again without --no-validate",
        )
    for text_model in around.text_models_of(model):
        if text_model.fingerprint and text_model.fingerprint != model.fingerprint:
            yield error(
                "two-bundles",
                model.name,
                f"it is of the bundle {model.fingerprint[:12]}, but {text_model.name} is of "
                f"{text_model.fingerprint[:12]}: tokens and weights may not belong together",
                f"build both again from one bundle: `longserve repo BUNDLE --name {text_model.name}`",
            )


def _check_plan(model: Model) -> Iterator[Finding]:
    """The engine must be whole, of this bundle, and one that somebody has run.

    Raises:
        IncompatibleEngine: it is damaged, or of another bundle.
    """
    record = EngineRecord.read(model.version)
    record.check_plan(model.version)
    record.check_bundle(model.fingerprint)
    if record.validation is None:
        yield warning(
            "plan-not-validated",
            f"{model.name}/{model.version.name}",
            "the engine was built where it could not be run: nobody has compared it with the bundle",
            "build it with `longserve tensorrt` on a machine with the GPU that serves it",
        )


def check_description(model: Model, around: Surroundings) -> Iterator[Finding]:
    """What the configuration says of the bundle must be true of the files beside it."""
    manifest = model.manifest
    if manifest is None:
        return
    expected = {
        "task": manifest.task.value,
        "precision": manifest.precision.value,
        "validated": "true" if manifest.validated else "false",
        "max_length": str(manifest.max_length),
    }
    if "bundle" in model.parameters:  # left out of a portable configuration
        expected["bundle"] = model.fingerprint
    if model.is_text_model and manifest.task is Task.TEXT_CLASSIFICATION:
        expected["labels"] = json.dumps(manifest.labels, ensure_ascii=False)
    for name, value in expected.items():
        given = model.parameters.get(name)
        if given != value:
            yield error(
                "stale-config",
                model.config_file,
                f"the parameter {name} is {_shown(given)}, but the bundle beside it has {_shown(value)}",
                _REBUILD,
            )


def check_parameters(model: Model, around: Surroundings) -> Iterator[Finding]:
    """Caps must be there, and every number that the model reads."""
    if not model.is_text_model and not model.uses_python:
        return
    if model.is_text_model:
        yield from _check_encoder_name(model, around)
        for name in _CAPS:
            if not model.number(name):
                yield error(
                    "no-cap",
                    model.config_file,
                    f"the parameter {name} is {_shown(model.parameters.get(name))}; without a cap one text "
                    "could occupy the model for minutes, so it does not load",
                    f"set it to a positive number, or build the model again with --{name.replace('_', '-')}",
                )
    for name in _NEEDED["text" if model.is_text_model else "encoder"]:
        if model.number(name) is None or (name != "threads" and model.number(name) == 0):
            yield error(
                "bad-parameter",
                model.config_file,
                f"the parameter {name} is {_shown(model.parameters.get(name))}; the model needs a number",
                _REBUILD,
            )
    tokens = model.number("max_tokens_per_run")
    if model.manifest is not None and tokens and tokens < model.manifest.max_length:
        yield error(
            "bad-parameter",
            model.config_file,
            f"max_tokens_per_run is {tokens}, but one sequence may have {model.manifest.max_length} tokens",
            f"set it to {model.manifest.max_length} or more",
        )


def check_code(model: Model, around: Surroundings) -> Iterator[Finding]:
    """A Python model's code must be there; where it differs from this longserve's, another one wrote it."""
    if not model.uses_python:
        return
    template = CODE / ("text.py" if model.is_text_model else "encoder.py")
    copies = {model.version / "model.py": template}
    for source in sorted(Path(runtime.__file__).parent.glob("*.py")):
        copies[model.version / RUNTIME_PACKAGE / source.name] = source
    missing = [copy for copy in copies if not copy.is_file()]
    changed = [
        copy
        for copy, source in copies.items()
        if copy.is_file() and not filecmp.cmp(copy, source, shallow=False)
    ]
    where = f"{model.name}/{model.version.name}"
    if missing:
        names = ", ".join(copy.relative_to(model.version).as_posix() for copy in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        yield error("code-missing", where, f"there is no {names}{more}", _REBUILD)
    elif changed:
        names = ", ".join(copy.relative_to(model.version).as_posix() for copy in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        yield warning(
            "other-code",
            where,
            f"{names}{more} is not what this longserve writes: changed by hand, or of another version",
            _REBUILD,
        )


def _check_encoder_name(model: Model, around: Surroundings) -> Iterator[Finding]:
    name = model.parameters.get("encoder")
    encoder = around.models.get(name or "")
    if encoder is None or encoder.is_text_model:
        yield error(
            "no-encoder",
            model.config_file,
            f"the parameter encoder is {_shown(name)}, which is no encoder of this repository: the model "
            "would load and count as ready, but answer nothing",
            f"build both models again: `longserve repo BUNDLE --name {model.name}`",
        )


def _shown(value: str | None) -> str:
    if value is None:
        return "missing"
    return repr(value) if len(value) <= 60 else repr(value[:57] + "…")
