"""Finding a Triton on this machine."""

from __future__ import annotations

import os
import shutil
import sysconfig
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ..runtime.errors import TritonNotFound

__all__ = [
    "TritonInstallation",
    "WHEEL",
    "find_triton",
]

WHEEL = "nvidia-pytriton"
"""The package on PyPI that holds a Triton server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonInstallation:
    """A Triton on this machine.

    Attributes:
        executable: the `tritonserver` file.
        origin: where it was found, for people.
        wheel: the `pytriton` package directory if it is the wheel's, else None. Only that one needs this
            Python environment to be fit for it; NVIDIA's container brings its own.
    """

    executable: Path
    origin: str
    wheel: Path | None = None

    @property
    def backends(self) -> Path:
        """Directory of the wheel's backends."""
        return self._wheel() / "tritonserver" / "backends"

    @property
    def libraries(self) -> Path:
        """Directory of the shared libraries that the wheel's files need."""
        return self._wheel().parent / "nvidia_pytriton.libs"

    def stub(self, python_version: str) -> Path:
        """Path that the stub of the python backend has for a Python version such as `3.11`."""
        return self._wheel() / "tritonserver" / "python_backend_stubs" / python_version / STUB_NAME

    def stub_versions(self) -> list[str]:
        """Python versions that the wheel brings a stub for, oldest first."""
        found = (self._wheel() / "tritonserver" / "python_backend_stubs").glob(f"*/{STUB_NAME}")
        return sorted(
            (path.parent.name for path in found), key=lambda name: [int(n) for n in name.split(".")]
        )

    def _wheel(self) -> Path:
        assert self.wheel is not None, "asked only of the wheel's Triton"
        return self.wheel


STUB_NAME = "triton_python_backend_stub"


def find_triton() -> TritonInstallation:
    """Find a Triton: `tritonserver` on PATH (NVIDIA's container), else in the `nvidia-pytriton` wheel.

    Raises:
        TritonNotFound: neither is there.
    """
    on_path = shutil.which("tritonserver")
    if on_path is not None:
        return TritonInstallation(executable=Path(on_path), origin=f"PATH ({on_path})")
    package = _wheel_package()
    if package is not None:
        executable = package / "tritonserver" / "bin" / "tritonserver"
        if os.access(executable, os.X_OK):
            return TritonInstallation(executable=executable, origin=_wheel_name(), wheel=package)
        raise TritonNotFound(
            f"{package} is installed but has no executable {executable.relative_to(package)}; there are "
            f"wheels of {WHEEL} for Linux on x86_64 and aarch64 only (this is {sysconfig.get_platform()})"
        )
    raise TritonNotFound(
        f"there is no tritonserver on PATH and no {WHEEL} in this Python environment; "
        "install 'longserve[serve]', or run in NVIDIA's Triton container"
    )


def _wheel_package() -> Path | None:
    # find_spec does not import the package, which would pull in its whole client.
    spec = find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _wheel_name() -> str:
    try:
        return f"{WHEEL} {version(WHEEL)}"
    except PackageNotFoundError:
        return WHEEL
