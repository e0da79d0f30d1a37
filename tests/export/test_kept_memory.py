"""Freed memory stays with the process as long as PyTorch computes, and no longer."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from longserve.export import parity, validate_bundle
from longserve.export.kept_memory import can_keep_memory, keep_freed_memory, kept_memory
from longserve.serving.measurement.memory import read_memory
from longserve.serving.runtime.bundle import Bundle

MEGABYTES = 100
glibc = pytest.mark.skipif(not can_keep_memory(), reason="the C library is not glibc")


def new_pages(megabytes: int = MEGABYTES, before: int = 8) -> int:
    """Return how many new pages a process touches that takes so much memory once more, after several times.

    A block that was freed may be too small for the next by the few bytes of its alignment, at first.
    """
    for _ in range(before):
        torch.ones(megabytes << 18)
    touched = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(megabytes << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - touched


@glibc
def test_memory_is_taken_once_and_given_back() -> None:
    usual = new_pages()
    assert usual > 0.9 * MEGABYTES / 2  # of 2 MB where the kernel gives huge ones unasked
    with kept_memory():
        assert new_pages() < max(0.01 * usual, 5)
        held = read_memory().resident
    assert held - read_memory().resident > 0.9 * (MEGABYTES << 20)
    # more than any hole that is left, and less than a block that was kept
    assert new_pages(1000, before=1) > 0.9 * usual * 1000 / MEGABYTES


@glibc
def test_what_fails_meanwhile_gives_it_back_too() -> None:
    with pytest.raises(ValueError, match="anything"), kept_memory():
        new_pages()
        held = read_memory().resident
        raise ValueError("anything")
    assert held - read_memory().resident > 0.9 * (MEGABYTES << 20)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        """Has neither glibc's version nor its options."""

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Musl())
    assert not can_keep_memory()
    assert not keep_freed_memory()
    with kept_memory():
        torch.ones(10)

    def no_handle(name: object) -> Any:
        raise TypeError("expected str")

    monkeypatch.setattr(ctypes, "CDLL", no_handle)
    assert not can_keep_memory()


@glibc
def test_a_comparison_keeps_it(qa_bundle: Path, qa_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, make_cases, touched = new_pages(), parity.make_cases, []

    def counting(*arguments: Any, **options: Any) -> Any:
        touched.append(new_pages())
        return make_cases((2,), **options)

    monkeypatch.setattr(parity, "make_cases", counting)
    assert validate_bundle(Bundle.open(qa_bundle), str(qa_checkpoint)).parity.failures == ()
    assert len(touched) == 1 and touched[0] < max(0.01 * usual, 5)
