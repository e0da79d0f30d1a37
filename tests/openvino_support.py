"""What the tests of the OpenVINO engine share: whether it is here, and what this CPU computes in."""

from __future__ import annotations

import pytest

from longserve.serving import EngineError, EngineName, EngineSettings, InferencePrecision
from longserve.serving.runtime.openvino_engine import cpu_capabilities

__all__ = ["BF16", "FP32", "has_bf16", "require_bf16", "require_openvino"]

FP32 = EngineSettings(engine=EngineName.OPENVINO, threads=2)
BF16 = EngineSettings(engine=EngineName.OPENVINO, inference_precision=InferencePrecision.BF16, threads=2)


def require_openvino() -> None:
    """Skip the module or the test where openvino is not installed."""
    pytest.importorskip("openvino", reason="the extra [openvino] is not installed")


def has_bf16() -> bool:
    """Whether OpenVINO is here and computes in bf16 on this CPU."""
    try:
        return "BF16" in cpu_capabilities()
    except EngineError:
        return False


def require_bf16() -> None:
    """Skip the test where the CPU has no bf16, which the engine refuses."""
    require_openvino()
    if not has_bf16():
        pytest.skip("OpenVINO does not compute in bf16 on this CPU: it has neither AVX512_BF16 nor AMX")
