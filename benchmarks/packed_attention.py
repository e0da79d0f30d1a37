"""How BERT's packed graph should attend: in blocks of each document, of what size, or with one mask for all.

    python benchmarks/packed_attention.py --json results.json

Two layers of BERT's base size with random weights, float32, ONNX Runtime, as many threads as cores. `block N`
is the packed graph with blocks of N tokens; `mask` is the packed graph with one mask over all pairs of tokens
of the run; `padded` is the padded graph. All are timed in turns, and the medians given in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from longserve.export.architectures.bert import PackedBert, PaddedBert
from longserve.export.document_blocks import documents_of
from longserve.export.graph import export_graph
from longserve.export.layers import mask_value
from longserve.export.weights import save_models
from longserve.serving.runtime.engine import open_engine
from longserve.serving.runtime.manifest import Layout, Task

BLOCKS = (32, 64, 128, 256)
CASES: dict[str, tuple[int, ...]] = {
    "1 of 512": (512,),
    "8 of 512": (512,) * 8,
    "1 of 64": (64,),
    "32 of 32": (32,) * 32,
    "128 of 32": (32,) * 128,
    "200 of 20": (20,) * 200,
    "1 of 512, 32 of 32": (512, *(32,) * 32),
    "16 of 32 to 512": tuple(range(32, 513, 32)),
}


class MaskedBert(PackedBert):
    """The packed layout with a mask over all pairs of tokens."""

    def forward(  # type: ignore[override]
        self, input_ids: torch.Tensor, sequence_ends: torch.Tensor, token_type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        documents = documents_of(sequence_ends, input_ids.shape[0])
        number = documents.number
        bias = torch.where(number[:, None] == number, 0.0, mask_value(torch.float32))
        hidden = self.core.embed(input_ids, documents.position, token_type_ids)
        for layer in self.core.layers:
            attention: Any = layer.attention
            results = []
            for query, key, value in attention._projected(hidden):
                weights = torch.softmax(query @ key.transpose(1, 2) + bias, dim=-1)
                results.append((weights @ value).transpose(0, 1).flatten(1, 2))
            hidden = layer.finish(torch.cat(results, dim=1), hidden)
        spans = self.head(hidden)
        return spans[:, 0], spans[:, 1]


def export(room: Path, layers: int) -> dict[str, Any]:
    """Export every variant; return an engine each."""
    from transformers import BertConfig, BertForQuestionAnswering

    torch.manual_seed(0)
    stock = BertForQuestionAnswering(BertConfig(num_hidden_layers=layers)).eval()
    modules: dict[str, torch.nn.Module] = {
        f"block {size}": PackedBert(stock, block_size=size) for size in BLOCKS
    }
    modules |= {"mask": MaskedBert(stock, block_size=64), "padded": PaddedBert(stock)}
    engines = {}
    for name, module in modules.items():
        layout = Layout.PADDED if name == "padded" else Layout.PACKED
        graph = export_graph(module, stock.config, Task.QUESTION_ANSWERING, layout)
        folder = room / name.replace(" ", "-")
        folder.mkdir()
        save_models({"model.onnx": graph}, folder)
        engines[name] = open_engine(folder / "model.onnx")
    return engines


def feeds(lengths: Sequence[int], padded: bool) -> dict[str, np.ndarray[Any, Any]]:
    """Random ids in either layout."""
    ids = np.random.default_rng(0).integers(1000, 30000, sum(lengths))
    if not padded:
        ends = np.cumsum(lengths, dtype=np.int32)
        return {"input_ids": ids, "sequence_ends": ends, "token_type_ids": np.zeros_like(ids)}
    rows = np.zeros((len(lengths), max(lengths)), np.int64)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    rows[mask > 0] = ids
    return {"input_ids": rows, "attention_mask": mask, "token_type_ids": np.zeros_like(rows)}


def measure(engines: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
    """Time every engine on every case, in turns."""
    results = []
    for case, lengths in CASES.items():
        runs: dict[str, Callable[[], Any]] = {}
        for name, engine in engines.items():
            given = feeds(lengths, name == "padded")
            runs[name] = lambda engine=engine, given=given: engine.run(given)
            runs[name]()
        taken: dict[str, list[float]] = {name: [] for name in runs}
        started = time.perf_counter()
        while time.perf_counter() - started < seconds or len(taken["mask"]) < 3:
            for name, run in runs.items():
                begun = time.perf_counter()
                run()
                taken[name].append(1000 * (time.perf_counter() - begun))
        medians = {name: round(statistics.median(values), 2) for name, values in taken.items()}
        results.append({"case": case, "tokens": sum(lengths), "rounds": len(taken["mask"]), "ms": medians})
        print(json.dumps(results[-1]), flush=True)
    return results


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="For each case, at least three rounds.")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    from longserve.serving.measurement.machine import describe_machine, library_versions

    with tempfile.TemporaryDirectory() as room:
        results = measure(export(Path(room), chosen.layers), chosen.seconds)
    if chosen.json is not None:
        report = {"machine": asdict(describe_machine()), "versions": library_versions(), "results": results}
        chosen.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
