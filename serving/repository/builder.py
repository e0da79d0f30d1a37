"""Writing the two Triton models of a bundle into a model repository."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import runtime
from ..directories import put_in_place
from ..runtime.bundle import Bundle, is_bundle
from ..runtime.engine_settings import has_cpu_kernels
from ..runtime.errors import RepositoryError
from ..runtime.manifest import MANIFEST_NAME, Layout, Manifest
from ..runtime.profiles import OptimizationProfile
from ..runtime.tensorrt_record import RECORD_NAME, EngineRecord
from .config import (
    SCHEMA_PARAMETER,
    encoder_config,
    encoder_name,
    parse_config,
    render_config,
    text_config,
)
from .gpu_config import largest_run, tensorrt_profiles, unreached_profiles
from .options import Backend, RepositoryOptions, check_name
from .warmup import WarmupSample, profile_samples, warmup_samples

__all__ = [
    "BuiltModels",
    "CODE",
    "CONFIG_NAME",
    "RUNTIME_PACKAGE",
    "STAGING_PREFIX",
    "build_repository",
    "encoder_files",
]

CONFIG_NAME = "config.pbtxt"
RUNTIME_PACKAGE = "longserve_runtime"
"""Name of the copy of `longserve.serving.runtime` beside each `model.py`."""
CODE = Path(__file__).parent / "models"
"""Directory of the files that become a model's `model.py`."""
STAGING_PREFIX = ".longserve-"
"""Begin of the name of the directory in which models are written before they are put in place."""
_VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModels:
    """What `build_repository` wrote.

    Attributes:
        encoder: the encoder's directory.
        text: the text model's; None for a bundle without tokenizer.
        unreached: profiles of the engine that no batch reaches: they have neither context nor warm-up.
    """

    encoder: Path
    text: Path | None
    unreached: tuple[OptimizationProfile, ...] = ()


def build_repository(
    bundle: str | Path | Bundle,
    name: str,
    output: str | Path,
    options: RepositoryOptions | None = None,
) -> BuiltModels:
    """Write `NAME_encoder` and `NAME` into the repository `output`, which is made if need be.

    Each model is written aside and put in place when it is complete. A model of that name that longserve
    wrote is replaced as a whole; other models are left alone. Files are copies, so that the bundle
    may be replaced while they are served.

    Args:
        bundle: the bundle or its path; every file's hash is checked first.
        name: the text model's name. A bundle without tokenizer gets the encoder alone.
        output: the model repository.
        options: see `RepositoryOptions`.

    Raises:
        BundleError: the bundle is missing, incompatible or damaged.
        RepositoryError: an option or the engine does not fit, the output is in a bundle, a model of that name
            is not longserve's, or it cannot be written.
    """
    chosen = options or RepositoryOptions()
    check_name(name)
    source = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if chosen.gpu is None and not has_cpu_kernels(chosen.engine, source.manifest.precision):
        raise RepositoryError(
            f"{source.path} is in {source.manifest.precision.value}, for which {chosen.engine.value} has no "
            "kernels on CPUs; choose --engine openvino, or export with another --precision"
        )
    if chosen.response_cache and not source.manifest.has_tokenizer:
        raise RepositoryError(
            f"{source.path} has no tokenizer, so there is no text model to keep the encoder's answers; leave "
            "--response-cache out"
        )
    record = None if chosen.plan is None else EngineRecord.read(chosen.plan)
    root = Path(output)
    _check_output(root)
    targets = [root / encoder_name(name)]
    if source.manifest.has_tokenizer:
        targets.append(root / name)
    for target in targets:
        _check_replaceable(target)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=root) as staging:
            staged = Path(staging)
            _write_encoder(source, name, staged / targets[0].name, chosen, record)
            if source.manifest.has_tokenizer:
                _write_text_model(source, name, staged / name, chosen)
            for target in targets:
                put_in_place(staged / target.name, target, room=staged)
    except OSError as error:
        raise RepositoryError(
            f"cannot write {error.filename or root}: {error.strerror or error}; "
            "make room, or choose another directory"
        ) from error
    profiles = () if record is None else record.profiles
    return BuiltModels(
        encoder=targets[0],
        text=targets[1] if len(targets) > 1 else None,
        unreached=unreached_profiles(profiles, largest_run(source.manifest, chosen)),
    )


def encoder_files(manifest: Manifest) -> list[str]:
    """Names of the bundle's files that the encoder needs: the packed graph and the external data.

    The data file keeps its name, because the graph records it.
    """
    data = sorted(record.name for record in manifest.files if record.name.endswith(".data"))
    return [manifest.graph(Layout.PACKED).file, *data]


def _write_encoder(
    bundle: Bundle, name: str, target: Path, options: RepositoryOptions, record: EngineRecord | None
) -> None:
    manifest = bundle.manifest
    profiles = tensorrt_profiles(manifest, options) if record is None else record.profiles
    samples = warmup_samples(manifest)
    if profiles:
        most = largest_run(manifest, options)
        samples = profile_samples(manifest, profiles, options.max_batch_size, most)
    config = encoder_config(bundle.manifest, name, options, samples, bundle.fingerprint, record)
    _write_model(target, config, bundle, [] if record else encoder_files(bundle.manifest), samples)
    if record is not None and options.plan is not None:
        record.check_plan(options.plan)
        for file in (record.plan.name, RECORD_NAME):
            _place(options.plan / file, target / _VERSION / file)
    if options.backend is Backend.PYTHON:
        _write_code(target, "encoder.py")


def _write_text_model(bundle: Bundle, name: str, target: Path, options: RepositoryOptions) -> None:
    config = text_config(bundle.manifest, name, options, bundle.fingerprint)
    _write_model(target, config, bundle, [bundle.tokenizer_path.name], ())
    _write_code(target, "text.py")


def _write_model(
    target: Path, config: Any, bundle: Bundle, files: Iterable[str], samples: Iterable[WarmupSample]
) -> None:
    version = target / _VERSION
    version.mkdir(parents=True)
    (target / CONFIG_NAME).write_text(render_config(config), encoding="utf-8")
    for file in (MANIFEST_NAME, *files):
        _place(bundle.path / file, version / file)
    for sample in samples:
        (target / "warmup").mkdir(exist_ok=True)
        sample.write(target / "warmup")


def _write_code(target: Path, template: str) -> None:
    version = target / _VERSION
    shutil.copyfile(CODE / template, version / "model.py")
    copy = version / RUNTIME_PACKAGE
    copy.mkdir()
    for module in sorted(Path(runtime.__file__).parent.glob("*.py")):
        shutil.copyfile(module, copy / module.name)


def _place(source: Path, target: Path) -> None:
    # no hard link: onnx refuses external data that has more than one name, and a change of the bundle would
    # reach what is served
    shutil.copyfile(source, target)


def _check_output(root: Path) -> None:
    """Refuse to write into a bundle, which is replaced as a whole when it is exported again."""
    for folder in (root.resolve(), *root.resolve().parents):
        if is_bundle(folder):
            raise RepositoryError(
                f"the output {root} is in the bundle {folder}; choose another directory, such as "
                "-o model_repository"
            )


def _check_replaceable(target: Path) -> None:
    """Refuse to replace what longserve did not write."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    config = target / CONFIG_NAME
    if config.is_file():
        text = config.read_text(encoding="utf-8", errors="replace")
        if SCHEMA_PARAMETER in parse_config(text, str(config)).parameters:
            return
    raise RepositoryError(
        f"{target} exists and was not written by longserve; choose another --name or remove it yourself"
    )
