"""What a TensorRT engine of a real size takes to build: seconds, bytes, and the memory that it plans for.

    python benchmarks/tensorrt_build.py --json benchmarks/results/tensorrt_build.json

Needs no GPU: TensorRT-RTX builds without one. Each graph, of both tasks and layouts in fp16 with three
profiles, is built with the number of global tokens bounded as `longserve tensorrt` does, and with the only
bound that it has otherwise, that of TensorRT's TopK. The memory is what the builder's log says that it
assigned to each profile's intermediate values; weights come on top. Nothing is run.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cached_bundles import DEFAULT_CACHE, cached_bundle

TASKS = ("text-classification", "question-answering")
_ASSIGNED = re.compile(r"BlockAssignment\] Algorithm \w+ took .* requiring (\d+) bytes")


def measure(bundle_path: Path) -> Iterator[dict[str, Any]]:
    """Build both layouts of a bundle, bounded and not."""
    import tensorrt_rtx

    from longserve.export.tensorrt.builder import BuildSettings, build_engine
    from longserve.export.tensorrt.global_slots import LARGEST_CAPACITY
    from longserve.serving.runtime.bundle import Bundle
    from longserve.serving.runtime.manifest import Layout
    from longserve.serving.runtime.profiles import default_profiles
    from longserve.serving.runtime.tensorrt_record import TensorRtLibrary

    bundle = Bundle.open(bundle_path)
    for layout in Layout:
        profiles = default_profiles(layout, bundle.manifest.max_length)
        share = profiles[0].sequences.maximum if layout is Layout.PACKED else 1
        for bound in (None, LARGEST_CAPACITY // share):
            settings = BuildSettings(layout=layout, profiles=profiles, max_global_tokens=bound)
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                built = build_engine(
                    bundle,
                    Path(folder, "engine"),
                    TensorRtLibrary.TENSORRT_RTX,
                    library=tensorrt_rtx,
                    gpu=None,
                    settings=settings,
                )
                seconds = time.perf_counter() - started
            matches = [_ASSIGNED.search(message) for _, message in built.log]
            yield {
                "task": bundle.manifest.task.value,
                "precision": bundle.manifest.precision.value,
                "layout": layout.value,
                "global_capacity": built.record.global_capacity,
                "bounded": bound is None,
                "profiles": [profile.described(layout) for profile in profiles],
                "seconds": round(seconds, 2),
                "plan_bytes": built.record.plan.size,
                "activation_bytes": [int(match[1]) for match in matches if match],
            }


def main() -> None:
    """Measure; print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("base", "large"), default="base")
    parser.add_argument("--task", choices=TASKS, action="append", help="Default: both.")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp16")
    parser.add_argument("--fused-attention", action="store_true", help="Of bundles exported with it.")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--json", type=Path, help="Written, or added to where the file is there.")
    chosen = parser.parse_args()
    import tensorrt_rtx

    from longserve.export.bench.machine import describe_machine, library_versions

    results: list[dict[str, Any]] = []
    if chosen.json is not None and chosen.json.exists():
        known = json.loads(chosen.json.read_text(encoding="utf-8"))["results"]
        again = (chosen.size, chosen.precision, chosen.fused_attention)
        results = [
            one
            for one in known
            if (one["size"], one["precision"], one.get("fused_attention", False)) != again
            or one["task"] not in (chosen.task or TASKS)
        ]
    for task in chosen.task or TASKS:
        bundle = cached_bundle(
            chosen.cache, chosen.size, task, chosen.precision, fused_attention=chosen.fused_attention
        )
        for result in measure(bundle):
            results.append({"size": chosen.size, "fused_attention": chosen.fused_attention, **result})
            print(json.dumps(results[-1]), flush=True)
            if chosen.json is not None:
                versions = {**library_versions(), "tensorrt_rtx": str(tensorrt_rtx.__version__)}
                report = {"machine": asdict(describe_machine()), "versions": versions, "results": results}
                chosen.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
