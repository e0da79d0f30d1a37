"""Freed memory stays with the process as long as PyTorch computes, and no longer."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from longserve.export import parity, validate_bundle
from longserve.export.kept_memory import can_keep_memory, keep_freed_memory, kept_memory
from longserve.serving.measurement.memory import read_memory
from longserve.serving.runtime.bundle import Bundle

MEGABYTES = 100
HUGE = 1000  # megabytes; a block that is kept has up to 1024
glibc = pytest.mark.skipif(not can_keep_memory(), reason="the C library is not glibc")


ALONE = f"""
import json
import resource

import torch

from longserve.export.kept_memory import kept_memory
from longserve.serving.measurement.memory import read_memory


def new_pages(megabytes, before):
    # a freed block may be too small for the next by its alignment, at first: up to nine blocks were seen
    for _ in range(before):
        torch.ones(megabytes << 18)
    touched = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(megabytes << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - touched


usual = new_pages({MEGABYTES}, 8)
with kept_memory():
    kept = new_pages({MEGABYTES}, 20)
    held = read_memory().resident
given_back = held - read_memory().resident
# more than any hole that is left, and less than a block that was kept
afterwards = new_pages({3 * MEGABYTES}, 1)
print(json.dumps({{"usual": usual, "kept": kept, "given_back": given_back, "afterwards": afterwards}}))
"""
"""Counts the new pages that a process touches when it takes as much memory once more, after several times.
In a process of its own: what others left in the heap decides where a block finds room."""


class HeapState(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def from_the_kernel() -> int:
    """Return how many bytes of a block the kernel gives to it alone, to be given back with it.

    The block is larger than what others may have left free in the heap, and nobody writes to it.
    """
    state = ctypes.CDLL(None).mallinfo2
    state.restype = HeapState
    before = state().hblkhd
    block = torch.empty(HUGE << 18)
    taken = state().hblkhd - before
    del block
    return int(taken)


@glibc
def test_memory_is_taken_once_and_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["usual"] > 0.9 * MEGABYTES / 2  # of 2 MB where the kernel gives huge ones unasked
    assert found["kept"] < max(0.01 * found["usual"], 5)
    assert found["given_back"] > 0.9 * (MEGABYTES << 20)
    assert found["afterwards"] > 0.9 * found["usual"] * 3


@glibc
def test_what_fails_meanwhile_gives_it_back_too() -> None:
    with pytest.raises(ValueError, match="anything"), kept_memory():
        torch.ones(MEGABYTES << 18)
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
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("glibc tells of its heap from 2.33 on")
    make_cases, meanwhile = parity.make_cases, []

    def counting(*arguments: Any, **options: Any) -> Any:
        meanwhile.append(from_the_kernel())
        return make_cases((2,), **options)

    monkeypatch.setattr(parity, "make_cases", counting)
    assert from_the_kernel() >= HUGE << 20
    assert validate_bundle(Bundle.open(qa_bundle), str(qa_checkpoint)).parity.failures == ()
    assert meanwhile == [0]
    assert from_the_kernel() >= HUGE << 20
