"""What a figure says of its machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from longserve.export.bench import machine
from longserve.export.bench.errors import EngineFailed
from longserve.serving.measurement import MeasurementError, read_memory, reset_peak


def test_this_machine_is_described() -> None:
    found = machine.describe_machine()
    assert found.cpu and found.cores >= 1 and found.system.startswith("Linux")
    assert found.memory_bytes is not None and found.memory_bytes > 1e9
    assert set(found.flags) <= set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())


def test_versions_are_of_what_is_installed() -> None:
    versions = machine.library_versions()
    assert {"longserve", "onnxruntime", "numpy"} <= set(versions)
    assert "onnxruntime-gpu" not in versions


@pytest.mark.parametrize(("total", "free", "enough"), [(64, 3, True), (64, 1, False), (8, 1, True)])
def test_the_last_memory_is_not_taken(
    total: int, free: int, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"MemTotal": total, "MemAvailable": free + 4, "Mapped": 4}
    lines = {name: f"{size * 1_000_000} kB" for name, size in fields.items()}
    monkeypatch.setattr(machine, "read_fields", lambda path: lines)
    if enough:
        machine.check_free_memory()
        return
    with pytest.raises(EngineFailed, match=r"only 1024 MB of memory are free"):
        machine.check_free_memory()


def test_the_peak_can_begin_anew() -> None:
    before = read_memory()
    block = b"x" * 200_000_000
    assert read_memory().peak >= before.resident + len(block) * 0.9
    del block
    reset_peak()
    after = read_memory()
    assert after.peak < before.resident + 100_000_000 and after.private <= after.resident


def test_a_process_that_is_gone_has_no_memory() -> None:
    with pytest.raises(MeasurementError, match=r"/proc/999999999/status tells no memory"):
        read_memory(999999999)
