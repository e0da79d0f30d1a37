"""What fp16 and bf16 change: every logit of the rewritten model in half precision against PyTorch in float32.

    python benchmarks/half_precision.py --json benchmarks/results/half_precision.json [--encoder MiniLM/model]

Computed by PyTorch on the CPU, each intermediate value stored in half precision and products summed in
float32, as tensor cores do. Models: the tests' random ones with three seeds, without and with outliers in the
weights, the two trained demo checkpoints, and, given a BERT encoder (see real_weights_parity.py), that one as
a Longformer.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SEEDS = range(3)
DEMO_LENGTHS = (1, 2, 64, 257, 1000)
ENCODER_LENGTHS = (1, 2, 63, 257)
TASKS = ("text-classification", "question-answering")


def checkpoints(encoder: Path | None, room: Path) -> Iterator[tuple[str, str, Path, tuple[int, ...] | None]]:
    """Name, task, directory and lengths (None: the usual ones) of everything that is compared."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]
    from checkpoints import add_outliers, make_model

    for task in TASKS:
        for seed in SEEDS:
            for name, change in ((f"random {seed}", lambda model: model), (f"outliers {seed}", add_outliers)):
                change(make_model(task, seed=seed)).save_pretrained(room / task / name)
                yield name, task, room / task / name, None
        short = "qa" if task == "question-answering" else "classification"
        yield "demo", task, ROOT / "examples" / "checkpoints" / f"longformer-tiny-{short}", DEMO_LENGTHS
        if encoder is not None:
            from real_weights_parity import convert

            convert(encoder, task, [64, 64, 128, 128, 256, 512], room / task / "encoder")
            yield "encoder", task, room / task / "encoder", ENCODER_LENGTHS


def measure(source: Path, task: str, lengths: tuple[int, ...] | None) -> Iterator[dict[str, Any]]:
    """Compare one checkpoint in each half precision, in both layouts."""
    from longserve.export import ExportSettings
    from longserve.export.checkpoint import load_checkpoint
    from longserve.export.description import describe_checkpoint
    from longserve.export.half import HALF_TYPES, half_engines
    from longserve.export.parity import check_parity
    from longserve.serving.runtime.manifest import Task

    checkpoint = load_checkpoint(str(source), Task(task))
    for precision in HALF_TYPES:
        manifest = describe_checkpoint(checkpoint, ExportSettings(precision=precision))
        engines = half_engines(checkpoint.model, manifest)
        report = check_parity(checkpoint.model, engines, manifest, lengths=lengths)
        relative = sorted(one.max_relative for one in report.results)
        yield {
            "precision": precision.value,
            "failures": len(report.failures),
            "median_relative": relative[len(relative) // 2],
            "ninth_tenth_relative": relative[len(relative) * 9 // 10],
            **asdict(report.summary()),
        }


def main() -> None:
    """Measure everything; print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", type=Path, help="Directory of a BERT encoder's checkpoint.")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    from longserve.export.bench.machine import describe_machine, library_versions
    from longserve.export.cli import quiet_libraries

    quiet_libraries()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name, task, source, lengths in checkpoints(chosen.encoder, Path(folder)):
            for result in measure(source, task, lengths):
                results.append({"model": name, "task": task, **result})
                print(json.dumps(results[-1]), flush=True)
    if chosen.json:
        report = {"machine": asdict(describe_machine()), "versions": library_versions(), "results": results}
        chosen.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
