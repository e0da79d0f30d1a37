"""The cores that a process may use: affinity and container quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longserve.serving.runtime.cores import available_cores, engine_threads


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("1000 100000", 1),
        ("990000 100000", 8),
    ],
)
def test_version_2_quota(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert available_cores(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("300000", 3)])
def test_version_1_quota(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert available_cores(tmp_path) == expected


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    assert available_cores(tmp_path) == 8


@pytest.mark.parametrize(
    ("asked", "of_the_machine", "expected"), [(3, 8, 3), (3, 64, 3), (0, 64, 8), (0, 8, 0), (0, None, 0)]
)
def test_an_engine_is_told_of_fewer_cores_than_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, asked: int, of_the_machine: int | None, expected: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: of_the_machine)
    assert engine_threads(asked) == expected
