"""What doctor says of the engines, where one or both are missing."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
from openvino_support import require_openvino

from longserve.serving.runtime import openvino_engine
from longserve.serving.runtime.openvino_engine import cpu_capabilities
from longserve.serving.server import doctor
from longserve.serving.server.doctor import Finding, Status

ENGINES = {"onnxruntime", "onnxruntime-gpu", "openvino"}


def engines(monkeypatch: pytest.MonkeyPatch, *missing: str) -> dict[str, Finding]:
    """The findings in an environment without some packages."""

    def installed(name: str) -> str:
        if name in missing:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "version", installed)
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    return {finding.name: finding for finding in doctor._engines()}


def test_openvino_says_what_this_cpu_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    require_openvino()
    found = engines(monkeypatch)["openvino"]
    assert found.status is Status.OK and version("openvino") in found.found
    for name in ("FP32", "BF16", "INT8"):
        assert (name in found.found) is (name in cpu_capabilities())


def test_without_openvino_onnxruntime_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = engines(monkeypatch, "openvino")
    assert found["onnxruntime"].status is Status.OK
    assert found["openvino"].status is Status.ABSENT
    assert "longserve[openvino]" in found["openvino"].remedy


def test_without_onnxruntime_openvino_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="the extra [openvino] is not installed")
    found = engines(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    assert found["onnxruntime"].status is Status.ABSENT
    assert (
        "longserve[cpu]" in found["onnxruntime"].remedy and "--engine openvino" in found["onnxruntime"].remedy
    )


def test_without_both_this_machine_cannot_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engines(monkeypatch, *ENGINES)["onnxruntime"].status is Status.SHORT


def test_an_openvino_that_does_not_load_is_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino", reason="the extra [openvino] is not installed")

    def broken() -> None:
        raise RuntimeError("no plugin\nfor CPU")

    monkeypatch.setattr(openvino, "Core", broken)
    monkeypatch.setattr(openvino_engine, "_core", openvino_engine._core.__wrapped__)
    found = engines(monkeypatch)["openvino"]
    assert found.status is Status.ABSENT
    assert found.found == "openvino does not start here: no plugin for CPU"
