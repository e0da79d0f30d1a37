"""What the wheel's Triton needs of a Python environment, and the refusals where it is not so."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from longserve.serving import TritonNotFound, UnfitEnvironment
from longserve.serving.server import TritonInstallation, environment, find_triton, installation

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def wheel(tmp_path: Path) -> TritonInstallation:
    """A stand-in for the wheel's files."""
    package = tmp_path / "site-packages" / "pytriton"
    files = (
        "tritonserver/bin/tritonserver",
        "tritonserver/backends/python/libtriton_python.so",
        f"tritonserver/python_backend_stubs/{PYTHON}/triton_python_backend_stub",
        "tritonserver/python_backend_stubs/3.8/triton_python_backend_stub",
    )
    for file in files:
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text(file)
    return TritonInstallation(executable=package / files[0], origin="test", wheel=package)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


def test_the_stub_stands_beside_the_backend(wheel: TritonInstallation, run: Path) -> None:
    environment.prepare_environment(wheel, run, {})
    backend = run / "backends" / "python"
    assert (backend / "libtriton_python.so").read_text().startswith("tritonserver/backends")
    assert (
        (backend / "triton_python_backend_stub").read_text().endswith(f"{PYTHON}/triton_python_backend_stub")
    )


def test_libraries_and_interpreter_come_first(wheel: TritonInstallation, run: Path) -> None:
    base = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": "/opt/lib", "HOME": "/nowhere"}
    variables = environment.prepare_environment(wheel, run, base)
    libraries = variables["LD_LIBRARY_PATH"].split(os.pathsep)
    library = environment.find_libpython()
    assert library is not None
    assert libraries == [str(wheel.libraries), str(library.parent), "/opt/lib"]
    first, *rest = variables["PATH"].split(os.pathsep)
    assert rest == ["/usr/bin", "/bin"]
    found = subprocess.run(
        [f"{first}/python3", "-c", "import sys; print(sys.prefix, sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == f"{sys.prefix} {sys.version_info[:2]}"
    assert variables["HOME"] == "/nowhere"


def test_outside_a_virtual_environment_python3_is_the_running_python(
    wheel: TritonInstallation, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(environment, "visible_packages", lambda: {"numpy": "1.26.4"})
    variables = environment.prepare_environment(wheel, run, {})
    python3 = Path(variables["PATH"].split(os.pathsep)[0]) / "python3"
    assert python3.resolve() == Path(sys.executable).resolve()


@pytest.mark.parametrize(("found", "fits"), [("1.26.4", True), ("2.0.0", False), ("2.4.1", False)])
def test_numpy_must_be_older_than_2(
    found: str, fits: bool, wheel: TritonInstallation, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "visible_packages", lambda: {"numpy": found})
    if fits:
        environment.prepare_environment(wheel, run, {})
        return
    with pytest.raises(UnfitEnvironment, match=r"wrong tensors.*numpy<2") as error:
        environment.prepare_environment(wheel, run, {})
    assert found in str(error.value)


def test_a_missing_numpy_is_refused(
    wheel: TritonInstallation, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "visible_packages", lambda: {"tokenizers": "0.23.3"})
    with pytest.raises(UnfitEnvironment, match=r"no numpy.*longserve\[serve,cpu\]"):
        environment.prepare_environment(wheel, run, {})


def test_packages_are_those_that_an_isolated_python_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "numpy-2.2.6.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.2.6\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # which the stub ignores
    assert environment.visible_packages()["numpy"] == version("numpy")


def test_packages_that_models_lack_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "visible_packages", lambda: {"numpy": "1.26.4"})
    fitness = environment.check_packages()
    assert fitness.found.startswith("tokenizers, onnxruntime or openvino cannot be seen")
    assert fitness.remedy is not None and "PYTHONPATH" in fitness.remedy
    for engine in ("onnxruntime", "onnxruntime-gpu", "openvino"):
        visible = {"numpy": "1.26.4", "tokenizers": "0.23", engine: "1"}
        monkeypatch.setattr(environment, "visible_packages", lambda visible=visible: visible)
        assert environment.check_packages().remedy is None


def test_a_python_without_shared_library_is_refused_with_the_remedy(
    wheel: TritonInstallation, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environment.sysconfig, "get_config_var", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with pytest.raises(UnfitEnvironment, match=f"libpython{PYTHON}.*--enable-shared"):
        environment.prepare_environment(wheel, run, {})


def test_a_python_that_the_wheel_does_not_know_is_refused(wheel: TritonInstallation, run: Path) -> None:
    wheel.stub(PYTHON).unlink()
    with pytest.raises(UnfitEnvironment, match=r"no python backend.*use Python 3\.8"):
        environment.prepare_environment(wheel, run, {})


def test_a_tritonserver_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tmp_path / "tritonserver"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_triton()
    assert found.executable == server and found.wheel is None


def test_the_wheel_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytriton", reason="needs the nvidia-pytriton wheel")
    monkeypatch.setenv("PATH", "")
    found = find_triton()
    assert found.wheel is not None and found.executable.is_file()
    assert PYTHON in found.stub_versions()


def test_no_triton_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> Any:
        return None

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(installation, "find_spec", nothing)
    with pytest.raises(TritonNotFound, match=r"longserve\[serve\]"):
        find_triton()
