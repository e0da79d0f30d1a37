"""The products' shapes against what the rewritten model really multiplies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from longserve.export.bench import Case, EngineKind, EngineSpec
from longserve.export.bench.engines import feeds_of, make_rows, open_bench_engine
from longserve.export.bench.matrix import ProductLibrary
from longserve.export.bench.products import model_products, read_shape
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.manifest import Layout, Task

PRODUCTS = [
    (ProductLibrary.TORCH, "fp32"),
    (ProductLibrary.TORCH, "bf16"),
    (ProductLibrary.TORCH, "int8"),
    (ProductLibrary.ONNXRUNTIME, "fp32"),
    (ProductLibrary.ONNXRUNTIME, "int8"),
]


def counted_operations(checkpoint: Path, bundle: Bundle, case: Case) -> int:
    """Operations of all products of one run of the rewritten model, as PyTorch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from longserve.export.checkpoint import load_checkpoint
    from longserve.export.model import PaddedModel

    manifest = bundle.manifest
    stock = load_checkpoint(str(checkpoint), Task.QUESTION_ANSWERING).model
    model = PaddedModel(stock, block_size=manifest.block_size)
    feeds = feeds_of(make_rows(manifest, case, 0), manifest, Layout.PADDED)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    return int(counter.get_total_flops())


@pytest.mark.parametrize("batch", [1, 3])
def test_the_products_are_the_models(qa_checkpoint: Path, qa_bundle: Path, batch: int) -> None:
    bundle = Bundle.open(qa_bundle, verify=False)
    case = Case(length=200, batch=batch, global_tokens=6)
    expected = counted_operations(qa_checkpoint, bundle, case)
    found = sum(product.operations for product in model_products(read_shape(bundle), case))
    # without the head and the global rows' own small projections
    assert 0.9 * expected <= found <= expected


def test_a_classifiers_last_layer_is_left_out(classification_bundle: Path) -> None:
    bundle = Bundle.open(classification_bundle, verify=False)
    assert read_shape(bundle).windows == bundle.manifest.attention_window[:-1]


@pytest.mark.parametrize(("library", "precision"), PRODUCTS)
def test_every_library_runs_them(
    classification_bundle: Path, library: ProductLibrary, precision: str
) -> None:
    spec = EngineSpec(
        kind=EngineKind.PRODUCTS,
        name="products",
        bundle=str(classification_bundle),
        precision=precision,
        library=library,
    )
    engine = open_bench_engine(spec)
    for length in (33, 200):
        prepared = engine.prepare(Case(length=length, batch=2, global_tokens=1), 0)
        seconds = prepared.run()
        assert set(seconds) == {"linear", "attention"}
        assert all(0 < value < 5 for value in seconds.values())
        assert prepared.logits is None


def test_rows_have_their_globals_and_no_padding(qa_bundle: Path) -> None:
    manifest = Bundle.open(qa_bundle, verify=False).manifest
    rows = make_rows(manifest, Case(length=50, batch=3, global_tokens=7), 5)
    for row in rows:
        assert np.flatnonzero(row.global_attention_mask).tolist() == list(range(7))
        assert manifest.special_tokens["pad"] not in row.input_ids
    assert not np.array_equal(rows[0].input_ids, rows[1].input_ids)
