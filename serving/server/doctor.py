"""What is installed and usable on this machine, with what to do where it falls short."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..runtime.cores import available_cores
from ..runtime.errors import EngineError, ServerError, TritonNotFound
from .cpu import describe_cpu
from .environment import Fitness, check_libpython, check_numpy, check_packages, check_stub
from .installation import TritonInstallation, find_triton
from .probe import probe_triton

__all__ = ["Finding", "Status", "examine"]

_GIB = 1 << 30
_MIN_MEMORY = 2 * _GIB
_MIN_SHARED_MEMORY = _GIB // 4
_EXPORT_PACKAGES = ("torch", "transformers", "optimum", "onnx", "onnxscript")


class Status(str, Enum):
    """Outcome of one check."""

    OK = "ok"
    SHORT = "short"
    """It keeps this machine from serving, or will."""
    ABSENT = "absent"
    """Not there and not needed for serving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Check everything that serving needs, then what export needs. The last check of Triton starts one."""
    yield Finding(name="python", status=Status.OK, found=f"{platform.python_version()} at {sys.executable}")
    serving = [_package("tokenizers", "serve"), _package("tritonclient", "serve"), *_engines()]
    yield from serving
    yield from _triton(usable=all(finding.status is not Status.SHORT for finding in serving))
    yield _memory()
    yield _shared_memory()
    yield Finding(name="cores", status=Status.OK, found=str(available_cores()))
    yield _cpu()
    yield _gpu()
    for name in _EXPORT_PACKAGES:
        yield _package(name, "export", needed=False)


def _triton(*, usable: bool) -> Iterator[Finding]:
    try:
        installation = find_triton()
    except TritonNotFound as error:
        yield Finding(
            name="triton",
            status=Status.SHORT,
            found=str(error).split(";")[0],
            remedy="install 'longserve[serve]', or run in NVIDIA's Triton container",
        )
        return
    if installation.wheel is not None:
        hosting = {
            "python backend": check_stub(installation),
            "libpython": check_libpython(),
            "numpy": check_numpy(),
            "packages": check_packages(),
        }
        yield from (_finding(name, fitness) for name, fitness in hosting.items())
        usable = usable and all(fitness.remedy is None for fitness in hosting.values())
    yield (
        _trial(installation)
        if usable
        else Finding(
            name="triton",
            status=Status.SHORT,
            found=f"{installation.origin}, not tried: something that it needs falls short",
            remedy="see the lines that fall short",
        )
    )


def _trial(installation: TritonInstallation) -> Finding:
    try:
        found = probe_triton(installation)
    except ServerError as error:
        return Finding(
            name="triton",
            status=Status.SHORT,
            found=f"{installation.origin} does not work: {error}",
            remedy="see its last lines",
        )
    return Finding(
        name="triton",
        status=Status.OK,
        found=f"{found} from {installation.origin}; it starts, and a Python model answers",
    )


def _finding(name: str, fitness: Fitness) -> Finding:
    status = Status.OK if fitness.remedy is None else Status.SHORT
    return Finding(name=name, status=status, found=fitness.found, remedy=fitness.remedy or "")


def _package(name: str, extra: str, *, needed: bool = True) -> Finding:
    try:
        return Finding(name=name, status=Status.OK, found=version(name))
    except PackageNotFoundError:
        return Finding(
            name=name,
            status=Status.SHORT if needed else Status.ABSENT,
            found="not installed",
            remedy=f"install 'longserve[{extra}]'" + ("" if needed else f" to {extra}"),
        )


def _engines() -> tuple[Finding, Finding]:
    """Check both engines; one is enough."""
    onnxruntime, openvino = _onnxruntime(), _openvino()
    if openvino.status is Status.OK and _version("onnxruntime") is _version("onnxruntime-gpu") is None:
        onnxruntime = replace(
            onnxruntime,
            status=Status.ABSENT,
            remedy=f"{onnxruntime.remedy}, or choose --engine openvino at `longserve repo`",
        )
    return onnxruntime, openvino


def _openvino() -> Finding:
    advice = "install 'longserve[openvino]' for a second engine; `longserve repo --engine auto` measures both"
    if _version("openvino") is None:
        return Finding(name="openvino", status=Status.ABSENT, found="not installed", remedy=advice)
    from ..runtime.openvino_engine import cpu_capabilities

    try:
        capabilities = cpu_capabilities()
    except EngineError as error:
        return Finding(name="openvino", status=Status.ABSENT, found=str(error), remedy=advice)
    computes = [name for name in ("FP32", "BF16", "FP16", "INT8") if name in capabilities]
    found = f"{_version('openvino')}: computes in {', '.join(computes)} on this CPU"
    return Finding(name="openvino", status=Status.OK, found=found)


def _cpu() -> Finding:
    found, remedy = describe_cpu()
    return Finding(name="cpu", status=Status.OK, found=found, remedy=remedy)


def _onnxruntime() -> Finding:
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name) is not None]
    if len(installed) > 1:
        return Finding(
            name="onnxruntime",
            status=Status.SHORT,
            found="onnxruntime and onnxruntime-gpu, which overwrite each other's files",
            remedy="uninstall both, then install 'longserve[cpu]' or 'longserve[gpu]'",
        )
    try:
        import onnxruntime
    except ImportError as error:
        return Finding(
            name="onnxruntime",
            status=Status.SHORT,
            found=f"cannot be imported: {error}",
            remedy="install 'longserve[cpu]' or 'longserve[gpu]'",
        )
    providers = ", ".join(onnxruntime.get_available_providers())
    return Finding(name="onnxruntime", status=Status.OK, found=f"{onnxruntime.__version__}: {providers}")


def _memory() -> Finding:
    fields = dict(line.split(":", 1) for line in _lines(Path("/proc/meminfo")))
    if "MemAvailable" not in fields:
        return Finding(name="memory", status=Status.OK, found="unknown: this system has no /proc/meminfo")
    available, total = (int(fields[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    limit = next(iter(_lines(Path("/sys/fs/cgroup/memory.max"))), "max")
    if limit.isdecimal() and int(limit) < total:
        used = next(iter(_lines(Path("/sys/fs/cgroup/memory.current"))), "0")
        total = int(limit)
        available = min(available, total - int(used))
    fits = available >= _MIN_MEMORY
    return Finding(
        name="memory",
        status=Status.OK if fits else Status.SHORT,
        found=f"{available / _GIB:.1f} of {total / _GIB:.1f} GiB available",
        remedy="" if fits else "a base model takes about 2 GiB; make room or raise the container's limit",
    )


def _shared_memory() -> Finding:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError as error:
        return Finding(
            name="/dev/shm",
            status=Status.SHORT,
            found=f"not usable: {error.strerror}",
            remedy="mount a tmpfs there; Triton's python backend passes tensors through it",
        )
    fits = usage.free >= _MIN_SHARED_MEMORY
    return Finding(
        name="/dev/shm",
        status=Status.OK if fits else Status.SHORT,
        found=f"{usage.free / _GIB:.2f} of {usage.total / _GIB:.2f} GiB free",
        remedy="" if fits else "give the container more, e.g. docker run --shm-size=1g",
    )


def _gpu() -> Finding:
    absent = Finding(name="gpu", status=Status.ABSENT, found="no NVIDIA GPU; models run on the CPU")
    devices = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    command = shutil.which("nvidia-smi")
    if command is None:
        if not devices:
            return absent
        return Finding(name="gpu", status=Status.OK, found=f"/dev/{', /dev/'.join(devices)} (no nvidia-smi)")
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return absent
    return Finding(name="gpu", status=Status.OK, found="; ".join(result.stdout.strip().splitlines()))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
