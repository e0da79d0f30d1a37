"""Whether this Python environment can host the wheel's Triton, and the environment variables it needs there.

The wheel's python backend starts one *stub* process a model instance. The stub embeds Python: it links
`libpythonX.Y.so.1.0`, and takes standard library and packages from the `python3` that comes first on PATH. It
sees what `python3 -I` sees: neither PYTHONPATH nor the user's own packages (`pip install --user`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import UnfitEnvironment
from .installation import STUB_NAME, TritonInstallation

__all__ = [
    "Fitness",
    "check_libpython",
    "check_numpy",
    "check_packages",
    "check_stub",
    "find_libpython",
    "prepare_environment",
    "visible_packages",
]


_INSTALL = (
    f"install 'longserve[serve,cpu]' into {sys.prefix}; PYTHONPATH and `pip install --user` do not reach them"
)
_LIST_PACKAGES = """
import importlib.metadata as metadata, json
found = {}
names = ["numpy", "tokenizers", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13"]
for name in names:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Fitness:
    """What one check found: a line for people, and what to do if it falls short (None: fit)."""

    found: str
    remedy: str | None = None


def check_numpy() -> Fitness:
    """The stub must see a numpy older than 2, because its binding reads numpy 2 arrays wrongly."""
    found = visible_packages().get("numpy")
    if found is None:
        return Fitness("no numpy that Triton's Python models can see", _INSTALL)
    if int(found.split(".")[0]) >= 2:
        return Fitness(
            f"numpy {found}, with which this Triton silently returns wrong tensors",
            f"install 'numpy<2' into {sys.prefix} ('longserve[serve]' asks for it), or use NVIDIA's Triton "
            "container",
        )
    return Fitness(f"numpy {found}")


def check_packages() -> Fitness:
    """The stub must see what the models import."""
    visible = visible_packages()
    missing = [name for name in ("numpy", "tokenizers") if name not in visible]
    if not any(name.startswith(("onnxruntime", "openvino")) for name in visible):
        missing.append("onnxruntime or openvino")
    if missing:
        return Fitness(f"{', '.join(missing)} cannot be seen by Triton's Python models", _INSTALL)
    return Fitness(", ".join(f"{name} {found}" for name, found in visible.items()))


def visible_packages() -> dict[str, str]:
    """Return name and version of the packages, of those that models import, that the stub sees."""
    result = subprocess.run(
        [str(_python()), "-I", "-c", _LIST_PACKAGES], capture_output=True, text=True, timeout=60, check=True
    )
    return dict(json.loads(result.stdout))


def check_stub(installation: TritonInstallation) -> Fitness:
    """The wheel must bring a stub for this Python version."""
    python = _python_version()
    if installation.stub(python).is_file():
        return Fitness(f"python backend for Python {python}")
    return Fitness(
        f"no python backend for Python {python}",
        f"use Python {', '.join(installation.stub_versions())}, which the wheel supports",
    )


def check_libpython() -> Fitness:
    """The running Python's shared library must exist."""
    library = find_libpython()
    if library is not None:
        return Fitness(str(library))
    python = _python_version()
    return Fitness(
        f"Python {python} at {sys.base_prefix} has no shared libpython",
        f"Debian and Ubuntu: apt-get install libpython{python}; pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared "
        f"pyenv install {python}; otherwise use a Python that is built with --enable-shared",
    )


def find_libpython() -> Path | None:
    """Return the shared library of the running Python, or None if it has none."""
    name = f"libpython{_python_version()}{sys.abiflags}.so.1.0"
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    configured = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    prefix = Path(sys.base_prefix)
    candidates = [
        configured,
        configured / multiarch,
        prefix / "lib",
        prefix / "lib64",
        prefix / "lib" / multiarch,
    ]
    for directory in candidates:
        if (directory / name).is_file():
            return directory / name
    return None


def prepare_environment(
    installation: TritonInstallation, directory: Path, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Lay out `directory` for one run of the wheel's Triton and return the environment variables for it.

    `directory/backends/python` gets links to the python backend and this Python's stub, because the stub must
    stand beside the backend's library and the installed package is left as it is.

    Args:
        installation: the wheel's Triton.
        directory: an existing directory of the run's own.
        base: environment to start from; the process's by default.

    Raises:
        UnfitEnvironment: numpy, the Python version or a missing libpython makes it impossible.
    """
    for fitness in (check_numpy(), check_stub(installation), check_libpython()):
        if fitness.remedy is not None:
            raise UnfitEnvironment(f"this environment has {fitness.found}; {fitness.remedy}")
    backend = directory / "backends" / "python"
    backend.mkdir(parents=True)
    for source in (installation.backends / "python").iterdir():
        if source.is_file():
            (backend / source.name).symlink_to(source)
    (backend / STUB_NAME).symlink_to(installation.stub(_python_version()))
    environment = dict(os.environ if base is None else base)
    library = find_libpython()
    assert library is not None, "checked above"
    _prepend(environment, "LD_LIBRARY_PATH", [installation.libraries, library.parent])
    _prepend(environment, "PATH", [_python_directory(directory)])
    return environment


def _python_directory(directory: Path) -> Path:
    """Return a directory whose `python3` is the running Python with its packages."""
    if _in_virtual_environment():
        return _python().parent
    # Outside a virtual environment python3 may be another version than the running one (/usr/bin), so give
    # the stub a link of the right name; Python follows it to find its standard library.
    links = directory / "bin"
    links.mkdir()
    (links / "python3").symlink_to(_python())
    return links


def _in_virtual_environment() -> bool:
    return sys.prefix != sys.base_prefix


def _python() -> Path:
    """The interpreter from which the stub takes its packages."""
    if _in_virtual_environment():
        return Path(sys.prefix) / "bin" / "python3"
    return Path(sys.executable).resolve()


def _prepend(environment: dict[str, str], name: str, directories: list[Path]) -> None:
    entries = [str(directory) for directory in directories]
    if environment.get(name):
        entries.append(environment[name])
    elif name == "PATH":
        entries.append(os.defpath)
    environment[name] = os.pathsep.join(entries)


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
