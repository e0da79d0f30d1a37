"""Building a TensorRT engine from a bundle."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from longserve.serving.directories import put_in_place
from longserve.serving.runtime.bundle import Bundle, file_sha256
from longserve.serving.runtime.engine_settings import EngineName, EngineSettings
from longserve.serving.runtime.errors import EngineError
from longserve.serving.runtime.manifest import (
    MANIFEST_NAME,
    FileRecord,
    GlobalAttention,
    Layout,
    Manifest,
    Precision,
)
from longserve.serving.runtime.profiles import OptimizationProfile, default_profiles
from longserve.serving.runtime.tensorrt_engine import TensorRtEngine
from longserve.serving.runtime.tensorrt_record import (
    ENGINE_SCHEMA,
    RECORD_NAME,
    EngineRecord,
    EngineValidation,
    Gpu,
    TensorRtLibrary,
)

from ..errors import EngineBuildError, OutputError
from .global_slots import GlobalSlots, bound_global_tokens, has_global_tokens
from .parsing import CollectingLog, parse_network

__all__ = ["BuildSettings", "BuiltEngine", "build_engine"]

_PLAN = "model.plan"
_FIRST_DEFAULT_TARGET = 8.0
_QUESTION_TOKENS = 64
"""Global tokens per sequence that an engine takes unless told otherwise, where a question is global."""

Validator = Callable[[TensorRtEngine, Bundle], EngineValidation]
"""Compares an engine with its bundle, and raises if they differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """How to build an engine.

    Attributes:
        layout: which of the bundle's graphs.
        profiles: what it shall take; empty: `default_profiles` of the model's length.
        max_global_tokens: most global tokens of a sequence; None: the bundle's own bound, else one for a
            task whose first token is global, and 64 for one whose question is. A packed run may have as many
            times that number as the largest profile has sequences.
        global_slots: see `GlobalSlots`.
        workspace: most bytes of scratch memory of a kernel; None: all of the GPU's.
        timing_cache: file that the times of kernels are read from and kept in, so that the next build is
            faster (TensorRT).
        targets: compute capabilities to build for, e.g. `8.9` (TensorRT-RTX); empty: see `default_targets`.
        allow_tf32: let float32 products be computed in TF32.
        optimization_level: 0 to 5, how long to look for fast kernels; None: the library's 3.
    """

    layout: Layout = Layout.PACKED
    profiles: tuple[OptimizationProfile, ...] = ()
    max_global_tokens: int | None = None
    global_slots: GlobalSlots = GlobalSlots.BOUNDED
    workspace: int | None = None
    timing_cache: Path | None = None
    targets: tuple[str, ...] = ()
    allow_tf32: bool = False
    optimization_level: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_global_tokens", "workspace"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise EngineBuildError(f"{name} is {value}; give a positive number")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise EngineBuildError(f"the optimization level is {self.optimization_level}; give 0 to 5")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """What was written.

    Attributes:
        path: the engine's directory.
        record: what it says of itself.
        unvalidated: why it was not validated; empty if it was.
        log: what the library said while it built, as (severity, message).
    """

    path: Path
    record: EngineRecord
    unvalidated: str
    log: tuple[tuple[str, str], ...]


def build_engine(
    bundle: Bundle,
    output: str | Path,
    kind: TensorRtLibrary,
    *,
    library: Any,
    gpu: Gpu | None,
    settings: BuildSettings | None = None,
    validator: Validator | None = None,
    overwrite: bool = False,
) -> BuiltEngine:
    """Build an engine and write it into a directory, which appears only when it is complete.

    Where there is a GPU that it was built for, the plan is loaded again as it was written, and compared with
    the bundle; one that differs is not kept. Otherwise its record says that nobody has run it.

    Args:
        bundle: what to build from.
        output: the engine's directory.
        kind: which library it is.
        library: its module.
        gpu: this machine's; None: it has none, which only TensorRT-RTX can do with.
        settings: see `BuildSettings`.
        validator: compares the engine with the bundle; None: leave that out.
        overwrite: replace an engine that is already there.

    Raises:
        EngineBuildError: the bundle, a setting or this machine does not fit, or the library cannot parse or
            build the graph.
        EngineError: the plan cannot be loaded again.
        GraphError: the graph's number of global tokens cannot be bounded.
        ParityFailed: the engine does not give the bundle's results.
        OutputError: the directory cannot be written.
    """
    chosen, target = settings or BuildSettings(), Path(output)
    _check_target(target, overwrite=overwrite)
    _check_fits(bundle.manifest, kind, gpu, chosen)
    profiles = chosen.profiles or default_profiles(chosen.layout, bundle.manifest.max_length)
    model = onnx.load(str(bundle.model_path(chosen.layout)), load_external_data=False)
    capacity = _bound(model, bundle.manifest, chosen, profiles)
    log = CollectingLog()
    plan = _build(library, log, model, bundle, chosen, profiles)
    graph = bundle.manifest.graph(chosen.layout)
    record = EngineRecord(
        schema_version=ENGINE_SCHEMA,
        library=kind,
        version=str(library.__version__),
        gpu=gpu,
        targets=chosen.targets,
        bundle=bundle.fingerprint,
        task=bundle.manifest.task,
        precision=bundle.manifest.precision,
        layout=chosen.layout,
        inputs=graph.inputs,
        outputs=graph.outputs,
        profiles=profiles,
        global_capacity=capacity,
        plan=FileRecord(name=_PLAN, sha256="", size=len(plan)),
        validation=None,
    )
    if kind is TensorRtLibrary.TENSORRT_RTX and not chosen.targets:
        # the GPU here is only where it was tried
        record = replace(record, targets=default_targets(library))
    return _write(target, plan, record, bundle, library, validator, log)


def supported_targets(library: Any) -> tuple[str, ...]:
    """Return the compute capabilities that TensorRT-RTX can build for, e.g. `8.9`."""
    names = [name for name in library.ComputeCapability.__members__ if name.startswith("SM")]
    return tuple(f"{name[2:-1]}.{name[-1]}" for name in names)


def default_targets(library: Any) -> tuple[str, ...]:
    """Return the compute capabilities that TensorRT-RTX builds for unless told otherwise.

    8.0 and what came later; Turing (7.5) is left out unless it is asked for (TensorRT-RTX documentation,
    "CPU-Only AOT and TensorRT-RTX Engines").
    """
    return tuple(target for target in supported_targets(library) if float(target) >= _FIRST_DEFAULT_TARGET)


def _check_fits(manifest: Manifest, kind: TensorRtLibrary, gpu: Gpu | None, settings: BuildSettings) -> None:
    if manifest.precision is Precision.INT8:
        raise EngineBuildError(
            "the bundle is in int8, which longserve makes for CPUs only; export it with --precision fp16"
        )
    if kind is TensorRtLibrary.TENSORRT:
        if gpu is None:
            raise EngineBuildError(
                "TensorRT builds for the GPU that it runs on, and this machine has none; build on the "
                "machine that serves, or with --library tensorrt_rtx"
            )
        if settings.targets:
            raise EngineBuildError(
                f"the targets are {', '.join(settings.targets)}, but TensorRT builds for the GPU of this "
                "machine; leave --target out, or use --library tensorrt_rtx"
            )
    elif settings.timing_cache is not None:
        raise EngineBuildError(
            f"the timing cache is {settings.timing_cache}, but TensorRT-RTX times nothing while it builds; "
            "leave it out (what it compiles when it runs is kept by the engine's setting `cache`)"
        )


def _bound(
    model: onnx.ModelProto,
    manifest: Manifest,
    settings: BuildSettings,
    profiles: tuple[OptimizationProfile, ...],
) -> int | None:
    """Bound the graph's global tokens; return the capacity of a row or run, None for a graph without any."""
    asked = settings.max_global_tokens
    if not has_global_tokens(model):
        if asked is not None:
            raise EngineBuildError("the graph has no global tokens; leave --max-global-tokens out")
        return None
    own = manifest.max_global_tokens
    if own is not None and asked is not None and asked > own:
        raise EngineBuildError(
            f"max_global_tokens is {asked}, but the bundle was exported for {own}; give at most that"
        )
    if settings.layout is Layout.PADDED and own is not None:
        return own  # the padded graph of such a bundle is bounded already
    first = manifest.global_attention is GlobalAttention.FIRST_TOKEN
    each = asked or own or (1 if first else _QUESTION_TOKENS)
    most = max(profile.sequences.maximum for profile in profiles)
    capacity = each if settings.layout is Layout.PADDED else each * most
    bound_global_tokens(model, settings.layout, capacity, settings.global_slots)
    return capacity


def _build(
    library: Any,
    log: CollectingLog,
    model: onnx.ModelProto,
    bundle: Bundle,
    settings: BuildSettings,
    profiles: tuple[OptimizationProfile, ...],
) -> bytes:
    logger = log.logger(library)
    try:
        builder = library.Builder(logger)
    except TypeError as error:  # pybind11's, where the factory returned nothing
        raise EngineBuildError(
            f"{library.__name__} cannot start on this machine: {log.why()}; see `nvidia-smi`"
        ) from error
    source = bundle.model_path(settings.layout)
    network, parser = parse_network(library, builder, logger, model, source)
    config = builder.create_builder_config()
    _configure(library, config, settings)
    for profile in profiles:
        _add_profile(builder, config, bundle.manifest, settings.layout, profile)
    cache = _read_timing_cache(config, settings.timing_cache)
    plan = builder.build_serialized_network(network, config)
    del parser  # it owns the weights until here
    if plan is None:
        raise EngineBuildError(
            f"{library.__name__} {library.__version__} cannot build {source.name}: {log.why()}"
        )
    if cache is not None and settings.timing_cache is not None:
        _replace_file(settings.timing_cache, bytes(cache.serialize()))
    return bytes(plan)


def _configure(library: Any, config: Any, settings: BuildSettings) -> None:
    if settings.workspace is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, settings.workspace)
    if not settings.allow_tf32:
        config.clear_flag(library.BuilderFlag.TF32)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    if settings.targets:
        config.num_compute_capabilities = len(settings.targets)
    for index, target in enumerate(settings.targets):
        name = f"SM{target.replace('.', '')}"
        known = library.ComputeCapability.__members__
        if name not in known:
            raise EngineBuildError(
                f"the target is {target!r}; {library.__name__} {library.__version__} builds for "
                f"{', '.join(supported_targets(library))}"
            )
        if not config.set_compute_capability(known[name], index):
            raise EngineBuildError(f"{library.__name__} does not take the target {target}")


def _add_profile(
    builder: Any, config: Any, manifest: Manifest, layout: Layout, profile: OptimizationProfile
) -> None:
    made = builder.create_optimization_profile()
    for name, shapes in profile.shapes(manifest.graph(layout).inputs).items():
        made.set_shape(name, *shapes)
    if config.add_optimization_profile(made) < 0:
        raise EngineBuildError(f"TensorRT does not take the profile {profile.described(layout)}")


def _read_timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    try:
        known = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise EngineBuildError(
            f"the timing cache {path} cannot be read: {error.strerror or error}; see its permissions"
        ) from error
    cache = config.create_timing_cache(known)
    if not config.set_timing_cache(cache, False):
        raise EngineBuildError(
            f"TensorRT does not take the timing cache {path}, which may be another GPU's; give another file, "
            "or remove it"
        )
    return cache


def _write(
    target: Path,
    plan: bytes,
    record: EngineRecord,
    bundle: Bundle,
    library: Any,
    validator: Validator | None,
    log: CollectingLog,
) -> BuiltEngine:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.partial-", dir=target.parent) as folder:
            stage = Path(folder) / "engine"
            stage.mkdir()
            (stage / _PLAN).write_bytes(plan)
            shutil.copyfile(bundle.path / MANIFEST_NAME, stage / MANIFEST_NAME)
            record = replace(record, plan=replace(record.plan, sha256=file_sha256(stage / _PLAN)))
            unvalidated = _why_not(record, validator)
            if validator is not None and not unvalidated:
                record = replace(record, validation=_validate(stage, record, bundle, library, validator))
            (stage / RECORD_NAME).write_text(record.to_json(), encoding="utf-8")
            for path in stage.iterdir():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
            put_in_place(stage, target, room=Path(folder))
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}; nothing was left behind"
        ) from error
    return BuiltEngine(path=target, record=record, unvalidated=unvalidated, log=tuple(log.lines))


def _why_not(record: EngineRecord, validator: Validator | None) -> str:
    if validator is None:
        return "it was not asked for"
    if record.gpu is None:
        return "this machine has no GPU"
    if record.targets and record.gpu.compute_capability not in record.targets:
        return f"it was built for {', '.join(record.targets)}, and this machine has the {record.gpu}"
    return ""


def _validate(
    stage: Path, record: EngineRecord, bundle: Bundle, library: Any, validator: Validator
) -> EngineValidation:
    settings = EngineSettings(engine=EngineName.TENSORRT)
    engine = TensorRtEngine(stage, settings, library=library, record=record)
    try:
        return validator(engine, bundle)
    except EngineError as error:
        raise EngineBuildError(f"the engine was built, but it does not run: {error}; not kept") from error
    finally:
        engine.close()


def _check_target(target: Path, *, overwrite: bool) -> None:
    if not (target.exists() or target.is_symlink()):
        return
    if not (target / RECORD_NAME).is_file():
        raise OutputError(f"{target} exists and is no engine; choose another output or remove it")
    if not overwrite:
        raise OutputError(f"{target} exists; replace it with --overwrite, or choose another output")


def _replace_file(path: Path, content: bytes) -> None:
    stage = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stage.write_bytes(content)
        stage.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
