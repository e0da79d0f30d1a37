"""What a TensorRT engine says of itself: `engine.json` beside the plan.

An engine runs only in the version of the library and on the kind of GPU that it was built for, and takes only
the shapes of its profiles. All of that is recorded when it is built, and checked before it runs.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from .bundle import file_sha256
from .engine_settings import Arrays
from .errors import CorruptBundle, EngineError, IncompatibleEngine, OutsideProfile
from .manifest import FileRecord, Layout, Precision, Task, TensorSpec, decode
from .profiles import OptimizationProfile, choose_profile

__all__ = [
    "ENGINE_SCHEMA",
    "EngineRecord",
    "EngineValidation",
    "Gpu",
    "RECORD_NAME",
    "TensorRtLibrary",
]

RECORD_NAME = "engine.json"
ENGINE_SCHEMA = "1.0"
"""`major.minor`, as of the manifest."""
_AGAIN = "build the engine again with `longserve tensorrt`"


class TensorRtLibrary(str, Enum):
    """One of NVIDIA's two libraries with the same interface, by the name of its Python module."""

    TENSORRT = "tensorrt"
    """For every GPU; builds for the GPU that it runs on."""
    TENSORRT_RTX = "tensorrt_rtx"
    """For GeForce, RTX and their data-centre kin; builds without a GPU, and compiles when it is loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU as CUDA names it, and its compute capability, e.g. `9.0`."""

    name: str
    compute_capability: str

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability})"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineValidation:
    """How the engine compared with the bundle's graph on the CPU, on the GPU that it was built on.

    Attributes:
        reference: what computed the expected logits.
        cases: number of runs that were compared.
        max_relative: largest `max_abs / max(1, largest expected logit)` of a run.
        tolerance: bound on `max_relative` that applied.
    """

    reference: str
    cases: int
    max_relative: float
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """Everything that must be known of an engine before it is loaded.

    Attributes:
        schema_version: see `ENGINE_SCHEMA`.
        library, version: what built it, and alone can load it.
        gpu: the GPU that it was built on; None: it was built without one.
        targets: compute capabilities that it was built for; empty: that of `gpu`, or without one whatever the
            library supports.
        bundle: fingerprint of the bundle that it was built from.
        task, precision, layout: of the graph.
        inputs, outputs: the graph's tensors.
        profiles: what it takes, in the engine's order.
        global_capacity: most global tokens of a padded row, or of a packed run; None: the graph has none.
        plan: the engine's file.
        validation: None marks the engine *not validated*: nobody has run it.
    """

    schema_version: str
    library: TensorRtLibrary
    version: str
    gpu: Gpu | None
    targets: tuple[str, ...]
    bundle: str
    task: Task
    precision: Precision
    layout: Layout
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[OptimizationProfile, ...]
    global_capacity: int | None
    plan: FileRecord
    validation: EngineValidation | None

    @property
    def largest_run(self) -> int:
        """Most tokens of a row, or of a packed run."""
        return max(profile.tokens.maximum for profile in self.profiles)

    @property
    def most_sequences(self) -> int:
        """Most rows, or sequences of a packed run, that every profile takes."""
        return min(profile.sequences.maximum for profile in self.profiles)

    def to_json(self) -> str:
        """Return the record as indented JSON with sorted keys, ending in a newline."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def read(cls, directory: str | Path) -> EngineRecord:
        """Read the record of the engine in a directory.

        Raises:
            IncompatibleEngine: there is none, or it is damaged or of another schema.
        """
        path = Path(directory) / RECORD_NAME
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            version = data["schema_version"]
            major = str(version).partition(".")[0]
        except OSError as error:
            raise IncompatibleEngine(
                f"{directory} holds no engine: {RECORD_NAME} cannot be read ({error.strerror or error}); "
                "build one with `longserve tensorrt`"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise IncompatibleEngine(f"{path} is no engine's record ({error}); {_AGAIN}") from error
        if major != ENGINE_SCHEMA.partition(".")[0]:
            raise IncompatibleEngine(
                f"{path} has schema version {version}, this longserve reads {ENGINE_SCHEMA}; {_AGAIN}"
            )
        try:
            record = decode(cls, data, str(path))
        except (CorruptBundle, EngineError) as error:
            reason = str(error).removesuffix("; export the bundle again")
            raise IncompatibleEngine(f"{reason}; {_AGAIN}") from error
        assert isinstance(record, EngineRecord)
        if not record.profiles or Path(record.plan.name).name != record.plan.name:
            raise IncompatibleEngine(f"{path} names no profile, or a plan outside its directory; {_AGAIN}")
        return record

    def check_plan(self, directory: str | Path) -> Path:
        """Return the path of the plan after its size and hash were found to be the recorded ones.

        Raises:
            IncompatibleEngine: it is not there, or another file.
        """
        path = Path(directory) / self.plan.name
        try:
            size = path.stat().st_size
            found = file_sha256(path) if size == self.plan.size else ""
        except OSError as error:
            raise IncompatibleEngine(
                f"{path} cannot be read ({error.strerror or error}); {_AGAIN}"
            ) from error
        if found != self.plan.sha256:
            raise IncompatibleEngine(
                f"{path} has {size} bytes and another content than its record says ({self.plan.size} bytes, "
                f"SHA-256 {self.plan.sha256[:12]}…); copy the engine whole, or {_AGAIN}"
            )
        return path

    def check_bundle(self, fingerprint: str) -> None:
        """Check that the engine was built from this bundle.

        Raises:
            IncompatibleEngine: it was built from another one.
        """
        if self.bundle != fingerprint:
            raise IncompatibleEngine(
                f"the engine was built from the bundle {self.bundle[:12]}…, this one is {fingerprint[:12]}…; "
                f"{_AGAIN}"
            )

    def check_here(self, library: TensorRtLibrary, version: str, gpu: Gpu) -> None:
        """Check that the engine may run in this library on this GPU.

        Raises:
            IncompatibleEngine: it was built for another library, version or GPU.
        """
        if (library, version) != (self.library, self.version):
            raise IncompatibleEngine(
                f"the engine was built by {self.library.value} {self.version}, here is {library.value} "
                f"{version}, and no other version can load it; install that one, or {_AGAIN}"
            )
        if self.targets:
            if gpu.compute_capability not in self.targets:
                raise IncompatibleEngine(
                    f"the engine was built for compute capability {', '.join(self.targets)}, here is {gpu}; "
                    f"{_AGAIN}"
                )
        elif self.gpu is not None and gpu != self.gpu:
            raise IncompatibleEngine(f"the engine was built on {self.gpu}, here is {gpu}; {_AGAIN} on it")

    def check_run(self, feeds: Arrays) -> int:
        """Return the index of the profile for a run, after checking all of its inputs.

        Args:
            feeds: the inputs by name.

        Raises:
            EngineError: a tensor is missing, of another type, or its axes do not agree with the others'.
            OutsideProfile: no profile holds the run, or it has more global tokens than the engine's capacity.
        """
        sizes = self.axes(feeds)
        sequences = sizes["batch"]
        tokens = sizes["sequence" if self.layout is Layout.PADDED else "tokens"]
        self._check_global_tokens(feeds)
        return choose_profile(self.profiles, self.layout, sequences, tokens)

    def axes(self, feeds: Arrays) -> dict[str, int]:
        """Return the size of each axis of a run.

        Raises:
            EngineError: see `check_run`.
        """
        if feeds.keys() != {tensor.name for tensor in self.inputs}:
            raise EngineError(
                f"the inputs given are {', '.join(sorted(feeds)) or 'none'}, the engine's are "
                f"{', '.join(sorted(tensor.name for tensor in self.inputs))}; give exactly these"
            )
        sizes: dict[str, int] = {}
        for tensor in self.inputs:
            array = feeds[tensor.name]
            if array.dtype != tensor.dtype or array.ndim != len(tensor.axes):
                raise EngineError(
                    f"the input {tensor.name} is {array.dtype} of shape {list(array.shape)}; give "
                    f"{tensor.dtype} [{', '.join(map(str, tensor.axes))}]"
                )
            for axis, size in zip(tensor.axes, array.shape, strict=True):
                if sizes.setdefault(str(axis), size) != size:
                    raise EngineError(
                        f"the input {tensor.name} has shape {list(array.shape)}, but {axis} is "
                        f"{sizes[str(axis)]} in another input; make them equal"
                    )
        return sizes

    def _check_global_tokens(self, feeds: Arrays) -> None:
        mask = feeds.get("global_attention_mask")
        if self.global_capacity is None or mask is None:
            return
        most = int(np.count_nonzero(mask, axis=-1).max(initial=0))
        if most > self.global_capacity:
            where = "a row" if self.layout is Layout.PADDED else "the run"
            raise OutsideProfile(
                f"{where} has {most} global tokens, the engine was built for at most {self.global_capacity}; "
                "mark fewer, send fewer sequences at a time, or build it with a larger --max-global-tokens"
            )
