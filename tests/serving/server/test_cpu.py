"""Reading the processor's instruction sets, from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from longserve.serving.server.cpu import describe_cpu

EPYC = "avx2 avx512f avx512_bf16 avx512_vnni avx_vnni"
XEON = "avx2 avx512f avx512_vnni amx_tile amx_int8 amx_bf16"
OLD = "sse4_2 avx2 fma"


@pytest.mark.parametrize(
    ("flags", "found", "advice"),
    [
        (
            EPYC,
            "A; AVX-512: avx512f; bf16: avx512_bf16; int8 (VNNI): avx512_vnni, avx_vnni; no AMX",
            "",
        ),
        (
            XEON,
            "A; AVX-512: avx512f; bf16: amx_bf16; int8 (VNNI): avx512_vnni; AMX: amx_tile, amx_int8",
            "",
        ),
        (
            OLD,
            "A; none of the fast ones; no AVX-512, no bf16, no int8 (VNNI), no AMX",
            "bf16 inference is refused here; int8 gains little here, measure before choosing it",
        ),
    ],
    ids=["epyc", "xeon", "old"],
)
def test_a_processor_is_described_with_what_follows(
    tmp_path: Path, flags: str, found: str, advice: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    first = f"processor\t: 0\nmodel name\t: A\nflags\t\t: {flags}\n\n"
    cpuinfo.write_text(first + "processor\t: 1\nmodel name\t: B\nflags\t\t: none\n")
    assert describe_cpu(cpuinfo) == (found, advice)


@pytest.mark.parametrize("content", [None, "processor : 0\nFeatures : fp asimd\n"])
def test_a_kernel_that_lists_no_instruction_sets_is_no_error(tmp_path: Path, content: str | None) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if content is not None:
        cpuinfo.write_text(content)
    assert describe_cpu(cpuinfo) == ("unknown processor; its instruction sets are not listed", "")
