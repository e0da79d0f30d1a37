"""Rounding weights by what it does to results, against the nearest integers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from longserve.export.description import GRAPH_FILES
from longserve.export.rounding import (
    compensated_rounding,
    drawn_calibration,
    layer_inputs,
    nearest_rounding,
)
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import OnnxRuntimeEngine
from longserve.serving.runtime.manifest import Layout


def correlated(rows: int, features: int, seed: int) -> np.ndarray:
    """Inputs of a layer: a few directions that all features share, and one feature far larger."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=(rows, 4)) @ random.normal(size=(4, features))
    inputs = shared + 0.3 * random.normal(size=(rows, features))
    inputs[:, features // 2] *= 20
    return inputs.astype(np.float32)


@settings(deadline=None, max_examples=25)
@given(
    features=st.integers(32, 300),
    outputs=st.integers(16, 64),
    seed=st.integers(0, 1000),
    levels=st.sampled_from([64, 127]),
)
def test_results_change_less_than_with_the_nearest_integers(
    features: int, outputs: int, seed: int, levels: int
) -> None:
    inputs = correlated(400, features, seed)
    weight = np.random.default_rng(seed + 1).normal(size=(features, outputs)).astype(np.float32)
    integers, scale = compensated_rounding(weight, inputs.T @ inputs, levels)

    assert integers.dtype == np.int8 and scale.dtype == np.float32
    assert np.abs(integers.astype(int)).max() <= levels
    nearest, same = nearest_rounding(weight, levels)
    assert (same == scale).all()
    wanted = inputs @ weight
    error = np.linalg.norm(inputs @ (integers * scale) - wanted)
    assert error < 0.9 * np.linalg.norm(inputs @ (nearest * scale) - wanted)


def test_features_that_say_nothing_of_one_another_are_rounded_to_the_nearest() -> None:
    weight = np.random.default_rng(0).normal(size=(200, 7)).astype(np.float32)
    integers, scale = compensated_rounding(weight, np.diag(np.linspace(1, 9, 200)).astype(np.float32), 127)
    assert (integers == nearest_rounding(weight, 127)[0]).all()
    assert np.abs(integers).max(axis=0).tolist() == [127] * 7
    np.testing.assert_allclose(scale, np.abs(weight).max(axis=0) / 127)


def test_a_layer_without_input_or_weight_is_no_trouble() -> None:
    integers, scale = compensated_rounding(np.zeros((5, 2), np.float32), np.zeros((5, 5), np.float32), 127)
    assert not integers.any() and (scale == 1).all()
    weight = np.eye(5, dtype=np.float32)
    integers, _ = compensated_rounding(weight, np.zeros((5, 5), np.float32), 127)
    assert (integers == 127 * weight).all()


def test_calibration_runs_between_the_models_special_tokens(qa_bundle: Path) -> None:
    manifest = Bundle.open(qa_bundle).manifest
    drawn = drawn_calibration(manifest, GRAPH_FILES[Layout.PACKED])
    rows = [feeds["input_ids"].ravel() for feeds in drawn.feeds]
    assert [row.size for row in rows] == [min(n, 512) for n in (64, 128, 256, 512, 1024, 1024)]
    assert {row[0] for row in rows} == {manifest.special_tokens["cls"]}
    assert {row[-1] for row in rows} == {manifest.special_tokens["sep"]}
    assert not np.array_equal(rows[-1], rows[-2])


def test_inputs_are_what_the_graph_computes(qa_bundle: Path, tmp_path: Path) -> None:
    file = GRAPH_FILES[Layout.PACKED]
    manifest = Bundle.open(qa_bundle).manifest
    drawn = drawn_calibration(manifest, file)
    name = next(node.outputs[0].name for node in ir.load(qa_bundle / file).graph if node.op_type == "Gelu")
    assert name is not None
    for path in qa_bundle.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    inputs = layer_inputs(ir.load(tmp_path / file), [name], drawn, tmp_path)[name]

    model = ir.load(tmp_path / file)
    model.graph.outputs.append(next(n.outputs[0] for n in model.graph if n.outputs[0].name == name))
    ir.save(model, tmp_path / "with_input.onnx")
    engine = OnnxRuntimeEngine(tmp_path / "with_input.onnx")
    (tmp_path / "with_input.onnx").unlink()
    runs = [engine.run(feeds)[name] for feeds in drawn.feeds]
    rows = np.concatenate([run.reshape(-1, run.shape[-1]) for run in runs])
    np.testing.assert_allclose(
        inputs.moments, rows.T @ rows, rtol=1e-3, atol=1e-3 * (rows**2).sum(axis=0).max()
    )
    np.testing.assert_allclose(inputs.largest, np.abs(rows).max(axis=0), rtol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in qa_bundle.iterdir()}
