"""What `benchmarks/cpu_speed.py` makes of a report."""

from __future__ import annotations

from collections.abc import Sequence

import cpu_speed
import pytest

from longserve.export.bench import (
    BenchSettings,
    Case,
    EngineKind,
    EngineRecord,
    EngineSpec,
    Measurement,
    Report,
)
from longserve.export.bench.machine import describe_machine

CASES = [Case(length=length, batch=1, global_tokens=1) for length in (1024, 4096)]
ENGINES: dict[str, tuple[EngineKind, str, Sequence[float], dict[str, float]]] = {
    "torch": (EngineKind.TORCH, "fp32", (2.0, 8.0), {}),
    "autocast": (EngineKind.TORCH_BF16, "bf16", (1.0, 4.0), {}),
    "ort fp32": (EngineKind.ONNXRUNTIME, "fp32", (0.8, 3.5), {}),
    "ov fp32": (EngineKind.OPENVINO, "fp32", (0.5, 4.0), {}),
    "ov bf16": (EngineKind.OPENVINO, "bf16", (0.25, 1.0), {}),
    "products a": (EngineKind.PRODUCTS, "fp32", (0.5, 2.0), {"linear": 0.3, "attention": 0.2}),
    "products b": (EngineKind.PRODUCTS, "fp32", (0.5, 2.0), {"linear": 0.4, "attention": 0.1}),
    "products c": (EngineKind.PRODUCTS, "bf16", (0.2, 1.0), {"linear": 0.1, "attention": 0.3}),
}


@pytest.fixture(scope="module")
def report() -> Report:
    records, measurements = [], []
    for name, (kind, precision, seconds, parts) in ENGINES.items():
        records.append(EngineRecord(spec=EngineSpec(kind=kind, name=name, bundle="b", precision=precision)))
        for case, value in zip(CASES, seconds, strict=True):
            base = ENGINES["torch"][2][CASES.index(case)]
            measurements.append(
                Measurement(engine=name, case=case, rounds=(value,), baseline=(base,), parts=parts)
            )
    return Report(
        date="",
        machine=describe_machine(),
        versions={},
        task="text-classification",
        settings=BenchSettings(),
        engines=tuple(records),
        measurements=tuple(measurements),
    )


def test_the_fastest_of_each_precision_stands_beside_its_goal(report: Report) -> None:
    rows = cpu_speed.compare_with_goals(report)
    assert [(r["length"], r["precision"], r["engine"], r["ratio"], r["goal"]) for r in rows] == [
        (1024, "fp32", "ov fp32", 4.0, 2.4),
        (1024, "bf16", "ov bf16", 8.0, 4.5),
        (4096, "fp32", "ort fp32", 8.0 / 3.5, 2.8),
        (4096, "bf16", "ov bf16", 8.0, 5.3),
    ]
    assert [row["ratio_to_autocast"] for row in rows] == [2.0, 4.0, 4.0 / 3.5, 4.0]


def test_the_limit_takes_each_part_from_whom_it_costs_least(report: Report) -> None:
    assert cpu_speed.limit(report, CASES[0], "fp32") == pytest.approx(0.3 + 0.1)
    assert cpu_speed.limit(report, CASES[0], "bf16") == pytest.approx(0.1 + 0.1)
    assert cpu_speed.limit(report, CASES[0], "int8") is None
    assert cpu_speed.compare_with_goals(report)[0]["products_share"] == pytest.approx(0.4 / 0.5)


def test_growth_is_of_the_time_per_token(report: Report) -> None:
    grown = cpu_speed.growth(cpu_speed.compare_with_goals(report))
    assert grown == {"fp32": pytest.approx(3.5 / 4 / 0.5), "bf16": pytest.approx(1.0)}


def test_the_comparison_is_printed(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    rows = cpu_speed.compare_with_goals(report)
    cpu_speed.print_goals(rows, cpu_speed.growth(rows))
    text = capsys.readouterr().out
    assert "ov bf16" in text and "5.3" in text
    assert "fp32: time per token at 4096 tokens is 1.75 times that at 1024 (at most 1.15)" in text
