"""What the tests of the OpenVINO engine share: whether it is here, and what this CPU computes in."""

from __future__ import annotations

import pytest

from longserve.serving import EngineName, EngineSettings, InferencePrecision

__all__ = ["BF16", "FP32", "require_bf16", "require_openvino"]

FP32 = EngineSettings(engine=EngineName.OPENVINO, threads=2)
BF16 = EngineSettings(engine=EngineName.OPENVINO, inference_precision=InferencePrecision.BF16, threads=2)


def require_openvino() -> None:
    """Skip the module or the test where openvino is not installed."""
    pytest.importorskip("openvino", reason="the extra [openvino] is not installed")


def require_bf16() -> None:
    """Skip the test where the CPU has no bf16, which the engine refuses."""
    require_openvino()
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("OpenVINO does not compute in bf16 on this CPU: it has neither AVX512_BF16 nor AMX")
