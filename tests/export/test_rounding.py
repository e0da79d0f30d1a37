"""Rounding weights by what it does to results: against the nearest integers, and in a bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longserve.export import GraphError
from longserve.export.exporter import GRAPH_FILES
from longserve.export.quantization import quantize_models
from longserve.export.rounding import (
    Calibration,
    compensated_rounding,
    drawn_calibration,
    nearest_rounding,
    second_moments,
)
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import OnnxRuntimeEngine
from longserve.serving.runtime.manifest import Layout, Quantization


def correlated(rows: int, features: int, seed: int) -> np.ndarray:
    """Inputs of a layer: a few directions that all features share, and one feature far larger."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=(rows, 4)) @ random.normal(size=(4, features))
    inputs = shared + 0.3 * random.normal(size=(rows, features))
    inputs[:, features // 2] *= 20
    return inputs.astype(np.float32)


@settings(deadline=None, max_examples=25)
@given(features=st.integers(32, 300), outputs=st.integers(16, 64), seed=st.integers(0, 1000))
def test_results_change_less_than_with_the_nearest_integers(features: int, outputs: int, seed: int) -> None:
    inputs = correlated(400, features, seed)
    weight = np.random.default_rng(seed + 1).normal(size=(features, outputs)).astype(np.float32)
    integers, scale = compensated_rounding(weight, inputs.T @ inputs)

    assert integers.dtype == np.int8 and scale.dtype == np.float32
    assert np.abs(integers.astype(int)).max() <= 127
    nearest, same = nearest_rounding(weight)
    assert (same == scale).all()
    wanted = inputs @ weight
    error = np.linalg.norm(inputs @ (integers * scale) - wanted)
    assert error < 0.9 * np.linalg.norm(inputs @ (nearest * scale) - wanted)


def test_features_that_say_nothing_of_one_another_are_rounded_to_the_nearest() -> None:
    weight = np.random.default_rng(0).normal(size=(200, 7)).astype(np.float32)
    integers, scale = compensated_rounding(weight, np.diag(np.linspace(1, 9, 200)).astype(np.float32))
    assert (integers == nearest_rounding(weight)[0]).all()
    assert np.abs(integers).max(axis=0).tolist() == [127] * 7
    np.testing.assert_allclose(scale, np.abs(weight).max(axis=0) / 127)


def test_a_layer_without_input_or_weight_is_no_trouble() -> None:
    integers, scale = compensated_rounding(np.zeros((5, 2), np.float32), np.zeros((5, 5), np.float32))
    assert not integers.any() and (scale == 1).all()
    weight = np.eye(5, dtype=np.float32)
    integers, _ = compensated_rounding(weight, np.zeros((5, 5), np.float32))
    assert (integers == 127 * weight).all()


def test_calibration_runs_between_the_models_special_tokens(qa_bundle: Path) -> None:
    manifest = Bundle.open(qa_bundle).manifest
    drawn = drawn_calibration(manifest, GRAPH_FILES[Layout.PACKED])
    rows = [feeds["input_ids"].ravel() for feeds in drawn.feeds]
    assert [row.size for row in rows] == [min(n, 512) for n in (64, 128, 256, 512, 1024, 1024)]
    assert {row[0] for row in rows} == {manifest.special_tokens["cls"]}
    assert {row[-1] for row in rows} == {manifest.special_tokens["sep"]}
    assert not np.array_equal(rows[-1], rows[-2])


def test_moments_are_those_of_what_the_graph_computes(qa_bundle: Path, tmp_path: Path) -> None:
    file = GRAPH_FILES[Layout.PACKED]
    manifest = Bundle.open(qa_bundle).manifest
    drawn = drawn_calibration(manifest, file)
    name = next(node.outputs[0].name for node in ir.load(qa_bundle / file).graph if node.op_type == "Gelu")
    assert name is not None
    for path in qa_bundle.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    moments = second_moments(ir.load(tmp_path / file), [name], drawn, tmp_path)[name]
    features = moments.shape[0]
    assert moments.shape == (features, features)
    np.testing.assert_allclose(moments, moments.T, rtol=1e-4, atol=1e-2)
    assert np.linalg.eigvalsh(moments.astype(np.float64)).min() > -1e-2
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in qa_bundle.iterdir()}


def test_a_layer_whose_input_is_not_finite_is_refused(qa_bundle: Path, tmp_path: Path) -> None:
    file, name = GRAPH_FILES[Layout.PACKED], "core.word_embeddings.weight"
    model = ir.load(qa_bundle / file)
    table = model.graph.initializers[name]
    assert table.const_value is not None
    table.const_value = ir.tensor(np.full_like(table.const_value.numpy(), np.nan), name=name)
    drawn = drawn_calibration(Bundle.open(qa_bundle).manifest, file)
    with pytest.raises(GraphError, match="is not finite on drawn ids"):
        quantize_models({file: model}, Quantization.WEIGHTS, tmp_path, drawn)


def test_a_weight_that_was_not_calibrated_is_refused(qa_bundle: Path, tmp_path: Path) -> None:
    packed, padded = GRAPH_FILES[Layout.PACKED], GRAPH_FILES[Layout.PADDED]
    models = {file: ir.load(qa_bundle / file) for file in (packed, padded)}
    renamed = next(
        value
        for name, value in models[padded].graph.initializers.items()
        if name.endswith("intermediate.weight")
    )
    renamed.name = f"other.{renamed.name}"
    drawn = drawn_calibration(Bundle.open(qa_bundle).manifest, packed)
    with pytest.raises(GraphError, match=r"other\..* is not in the graph that was calibrated"):
        quantize_models(models, Quantization.WEIGHTS, tmp_path, drawn)


@pytest.mark.parametrize("fixture", ["classification_bundle", "qa_bundle"])
def test_a_bundles_logits_change_less(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """On sequences that were not calibrated with, in both layouts of which the weights are the same."""
    bundle = Bundle.open(request.getfixturevalue(fixture))
    packed = GRAPH_FILES[Layout.PACKED]
    models = {file: ir.load(bundle.path / file) for file in GRAPH_FILES.values()}
    drawn = drawn_calibration(bundle.manifest, packed)
    others = drawn_calibration(bundle.manifest, packed, seed=100).feeds
    exact = [OnnxRuntimeEngine(bundle.path / packed).run(feeds) for feeds in others]

    def error(calibration: Calibration | None) -> float:
        quantized = quantize_models(models, Quantization.WEIGHTS, tmp_path, calibration)
        first, second = (
            {
                name: value.const_value.numpy()
                for name, value in model.graph.initializers.items()
                if name.endswith("_int8") and value.const_value is not None
            }
            for model in quantized.values()
        )
        assert first.keys() == second.keys() and len(first) > 4
        assert all((first[name] == second[name]).all() for name in first)
        ir.save(quantized[packed], tmp_path / "model.onnx")
        engine = OnnxRuntimeEngine(tmp_path / "model.onnx")
        found = [engine.run(feeds) for feeds in others]
        squares = [((f[n] - e[n]) ** 2).sum() for f, e in zip(found, exact, strict=True) for n in e]
        return float(np.sqrt(sum(squares)))

    assert error(drawn) < 0.8 * error(None)
