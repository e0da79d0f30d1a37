"""Bounding the number of global tokens changes nothing below the bound, and is loud above it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from longserve.export.errors import GraphError
from longserve.export.tensorrt.global_slots import GlobalSlots, bound_global_tokens, has_global_tokens
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.manifest import Layout

CAPACITY = 5


@pytest.fixture(scope="module", params=["qa_bundle", "classification_bundle"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.open(request.getfixturevalue(request.param))


def loaded(bundle: Bundle, layout: Layout) -> onnx.ModelProto:
    return onnx.load(str(bundle.model_path(layout)))


def session(model: onnx.ModelProto) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString())


def feeds(layout: Layout, length: int, marked: int) -> dict[str, Any]:
    """Two sequences; in the padded layout only the first has global tokens."""
    ids = np.arange(10, 10 + length)
    mask = np.zeros(length, dtype=np.int64)
    mask[length - marked :] = 1
    if layout is Layout.PADDED:
        return {
            "input_ids": np.stack([ids, ids]),
            "attention_mask": np.ones((2, length), dtype=np.int64),
            "global_attention_mask": np.stack([mask, 0 * mask]),
        }
    ends = np.array([length // 2, length], dtype=np.int32)
    return {"input_ids": ids, "global_attention_mask": mask, "sequence_ends": ends}


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("slots", list(GlobalSlots))
def test_results_are_the_same_up_to_the_capacity_and_nan_beyond(
    bundle: Bundle, layout: Layout, slots: GlobalSlots
) -> None:
    reference, model = session(loaded(bundle, layout)), loaded(bundle, layout)
    bound_global_tokens(model, layout, CAPACITY, slots)
    onnx.checker.check_model(model)
    bounded = session(model)
    for length, marked in ((2, 1), (3, 3), (90, 0), (90, CAPACITY), (90, CAPACITY + 1), (90, 60)):
        given = feeds(layout, length, marked)
        for wanted, found in zip(reference.run(None, given), bounded.run(None, given), strict=True):
            fits = marked <= CAPACITY
            if layout is Layout.PADDED:
                np.testing.assert_allclose(found[1], wanted[1], atol=2e-5)
                wanted, found = wanted[:1], found[:1]
            if fits:
                np.testing.assert_allclose(found, wanted, atol=2e-5)
            else:
                assert np.isnan(found).all()


def test_a_graph_tells_whether_it_has_global_tokens(bundle: Bundle) -> None:
    model = loaded(bundle, Layout.PACKED)
    assert has_global_tokens(model)
    (topk,) = (node for node in model.graph.node if node.op_type == "TopK")
    model.graph.node.remove(topk)
    assert not has_global_tokens(model)
    with pytest.raises(GraphError, match="0 TopK nodes"):
        bound_global_tokens(model, Layout.PACKED, CAPACITY)


@pytest.mark.parametrize("capacity", [0, 3841])
def test_more_than_topk_takes_is_an_error(bundle: Bundle, capacity: int) -> None:
    with pytest.raises(GraphError, match=f"{capacity} global tokens; TensorRT's TopK takes 1 to 3840"):
        bound_global_tokens(loaded(bundle, Layout.PACKED), Layout.PACKED, capacity)


def test_a_graph_that_is_bounded_already_is_an_error(qa_bundle: Path) -> None:
    model = loaded(Bundle.open(qa_bundle), Layout.PACKED)
    bound_global_tokens(model, Layout.PACKED, CAPACITY, GlobalSlots.FIXED)
    with pytest.raises(GraphError, match=r"is the constant .*--max-global-tokens"):
        bound_global_tokens(model, Layout.PACKED, CAPACITY)
