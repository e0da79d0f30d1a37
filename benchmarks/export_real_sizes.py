"""Time and peak memory of exporting the real configurations, each in a process of its own.

    python benchmarks/export_real_sizes.py --size base --size large --json FILE

The weights are random: neither time nor memory depends on their values.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZES: dict[str, dict[str, int]] = {
    "base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}


def write_checkpoint(size: str, task: str, directory: Path) -> None:
    """Write a checkpoint of the `longformer-SIZE-4096` configuration, random weights, no tokenizer."""
    import torch
    from transformers import (
        LongformerConfig,
        LongformerForQuestionAnswering,
        LongformerForSequenceClassification,
    )

    kinds = {
        "text-classification": LongformerForSequenceClassification,
        "question-answering": LongformerForQuestionAnswering,
    }
    torch.manual_seed(0)
    config = LongformerConfig(
        vocab_size=50265,
        max_position_embeddings=4098,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        attention_window=512,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        sep_token_id=2,
        **SIZES[size],
    )
    kinds[task](config).save_pretrained(directory)


def export_one(
    source: Path, task: str, target: Path, precision: str, quantization: str | None, validate: bool
) -> dict[str, Any]:
    """Export in this process and return its figures."""
    from longserve.export import ExportSettings, export_bundle
    from longserve.export.cli import quiet_libraries
    from longserve.export.progress import TerminalProgress
    from longserve.serving.runtime.manifest import Precision, Quantization, Task

    quiet_libraries()
    began = time.perf_counter()
    with TerminalProgress() as progress:
        result = export_bundle(
            str(source),
            Task(task),
            target,
            settings=ExportSettings(
                precision=Precision(precision),
                quantization=None if quantization is None else Quantization(quantization),
                validate=validate,
            ),
            progress=progress,
        )
    parity = result.manifest.parity
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "bundle_mb": round(sum(record.size for record in result.manifest.files) / 1e6),
        "max_relative": None if parity is None else parity.max_relative,
        "cases": None if parity is None else parity.cases,
        "worst_case": None if parity is None else parity.worst_case,
        "tools": dict(result.manifest.tools),
    }


def main() -> None:
    """Measure each size in a process of its own and print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", action="append", choices=sorted(SIZES))
    parser.add_argument("--task", default="text-classification")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "int8"])
    parser.add_argument("--quantization", choices=["dynamic", "weights"], help="of --precision int8")
    parser.add_argument("--no-validate", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("SOURCE", "TARGET"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        source, target = map(Path, chosen.child)
        figures = export_one(
            source, chosen.task, target, chosen.precision, chosen.quantization, not chosen.no_validate
        )
        print(json.dumps(figures))
        return
    results = []
    for size in chosen.size or ["base", "large"]:
        with tempfile.TemporaryDirectory() as room:
            source = Path(room, f"longformer-{size}-4096-random")
            write_checkpoint(size, chosen.task, source)
            options = ["--task", chosen.task, "--precision", chosen.precision]
            options += [] if chosen.quantization is None else ["--quantization", chosen.quantization]
            options += ["--no-validate"] if chosen.no_validate else []
            finished = subprocess.run(
                [sys.executable, __file__, *options, "--child", str(source), str(Path(room, "bundle"))],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
        figures = {"size": size, "task": chosen.task, "precision": chosen.precision}
        figures |= {"quantization": chosen.quantization}
        figures |= json.loads(finished.stdout)
        results.append(figures)
        print(json.dumps({key: value for key, value in figures.items() if key != "tools"}))
    if chosen.json:
        report = {"machine": platform.processor() or platform.machine(), "results": results}
        chosen.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
