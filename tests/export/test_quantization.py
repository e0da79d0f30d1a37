"""Weights of a bundle's graphs as int8: smoothed, rounded, and multiplied in both forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longserve.export import GraphError
from longserve.export.description import GRAPH_FILES
from longserve.export.quantization import quantize_models
from longserve.export.quantized_products import Int8Weight, divide_features, multiply_integers
from longserve.export.rounding import Calibration, drawn_calibration, nearest_rounding
from longserve.export.smoothing import smoothing_factors
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import OnnxRuntimeEngine
from longserve.serving.runtime.manifest import Layout, Quantization


@settings(deadline=None, max_examples=50)
@given(
    features=st.integers(1, 60), seed=st.integers(0, 1000), silent=st.integers(0, 3), unread=st.integers(0, 3)
)
def test_factors_change_no_result(features: int, seed: int, silent: int, unread: int) -> None:
    random = np.random.default_rng(seed)
    weight = random.normal(size=(features, 8)).astype(np.float32)
    inputs = (random.normal(size=(50, features)) * np.exp(2 * random.normal(size=features))).astype(
        np.float32
    )
    inputs[:, :silent] = 0
    weight[max(0, features - unread) :] = 0
    largest = np.abs(inputs).max(axis=0)
    factors = smoothing_factors(weight, largest)

    assert factors.shape == (features,) and factors.dtype == np.float32
    assert (factors > 0).all()
    assert np.exp(np.log(factors).mean()) == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(
        inputs / factors @ (weight * factors[:, None]), inputs @ weight, atol=1e-4 * largest.max() + 1e-6
    )


def test_input_and_weight_bear_the_same_part_of_the_differences() -> None:
    largest = np.array([100, 1, 1, 1], np.float32)
    factors = smoothing_factors(np.ones((4, 2), np.float32), largest)
    assert factors[0] / factors[1] == pytest.approx(10)
    assert (largest / factors)[0] / (largest / factors)[1] == pytest.approx(10)
    assert smoothing_factors(np.diag([100, 1, 1, 1]).astype(np.float32), largest) == pytest.approx([1] * 4)


def test_a_feature_that_drawn_ids_leave_at_zero_is_not_blown_up() -> None:
    largest = np.array([1, 1, 1, 0], np.float32)
    factors = smoothing_factors(np.ones((4, 2), np.float32), largest)
    assert factors[:3] / factors[3] == pytest.approx([np.sqrt(1 / 0.0075)] * 3)


class TestProductsOfIntegers:
    """A graph with one input that two products read, against the same in float64."""

    @staticmethod
    def graph(
        weights: list[np.ndarray], by_token: bool, factors: np.ndarray | None = None
    ) -> ort.InferenceSession:
        features = weights[0].shape[0]
        of_floats = ir.TensorType(ir.DataType.FLOAT)
        read = ir.Value(name="x", shape=ir.Shape(["tokens", features]), type=of_floats)
        graph = ir.Graph([read], [], nodes=[], opset_imports={"": 20}, name="products")
        products = []
        for number, weight in enumerate(weights):
            value = ir.Value(name=f"w{number}", shape=ir.Shape(weight.shape), type=of_floats)
            value.const_value = ir.tensor(weight, name=value.name)
            graph.register_initializer(value)
            product = ir.node("MatMul", [read, value], name=f"product{number}")
            end = ir.node("Identity", product.outputs, name=f"end{number}")
            for found, letter in ((product.outputs[0], "y"), (end.outputs[0], "z")):
                found.name, found.type = f"{letter}{number}", of_floats
                found.shape = ir.Shape(["tokens", weight.shape[1]])
            graph.extend([product, end])
            graph.outputs.append(end.outputs[0])
            products.append(product)
        if factors is not None:
            weights = [weight * factors[:, None] for weight in weights]
            read = divide_features(read, products, factors)
        stored = [Int8Weight(integers=i, scale=s) for i, s in (nearest_rounding(w, 64) for w in weights)]
        multiply_integers(read, products, stored, by_token=by_token)
        for number in range(len(weights)):
            del graph.initializers[f"w{number}"]
        model = ir.Model(graph, ir_version=10)
        return ort.InferenceSession(
            ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
        )

    @staticmethod
    def error(session: ort.InferenceSession, inputs: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
        """The largest error of each token, in parts of its largest result."""
        worst = np.zeros(len(inputs))
        for found, weight in zip(session.run(None, {"x": inputs}), weights, strict=True):
            wanted = inputs.astype(np.float64) @ weight
            size = np.maximum(np.abs(wanted).max(axis=1), 1e-30)
            worst = np.maximum(worst, np.abs(found - wanted).max(axis=1) / size)
        return worst

    @pytest.fixture
    def weights(self) -> list[np.ndarray]:
        random = np.random.default_rng(3)
        return [random.normal(size=(256, n)).astype(np.float32) for n in (48, 16)]

    @pytest.mark.parametrize("by_token", [False, True])
    def test_results_are_those_of_the_float_products(self, weights: list[np.ndarray], by_token: bool) -> None:
        inputs = np.random.default_rng(4).normal(size=(40, 256)).astype(np.float32)
        assert self.error(self.graph(weights, by_token), inputs, weights).max() < 0.05

    def test_sums_of_two_products_do_not_saturate(self) -> None:
        """The largest integers on both sides: 16 bits hold two products of 255 and 64, not of 255 and 127."""
        weights = [np.ones((256, 8), np.float32), -np.ones((256, 8), np.float32)]
        inputs = np.ones((3, 256), np.float32)
        for by_token in (False, True):
            for found, sign in zip(
                self.graph(weights, by_token).run(None, {"x": inputs}), (1, -1), strict=True
            ):
                np.testing.assert_allclose(found, sign * 256, rtol=1e-5)

    def test_small_tokens_keep_their_precision_beside_large_ones(self, weights: list[np.ndarray]) -> None:
        inputs = np.random.default_rng(5).normal(size=(40, 256)).astype(np.float32)
        inputs[::2] *= 1000
        together, by_token = (
            self.error(self.graph(weights, way), inputs, weights)[1::2].max() for way in (False, True)
        )
        assert by_token < 0.05 < 0.5 < together

    def test_a_token_of_zeros_gives_zeros(self, weights: list[np.ndarray]) -> None:
        inputs = np.random.default_rng(6).normal(size=(4, 256)).astype(np.float32)
        inputs[2] = 0
        for found in self.graph(weights, by_token=True).run(None, {"x": inputs}):
            assert not found[2].any() and found[1].any()

    def test_factors_let_small_features_keep_their_precision(self, weights: list[np.ndarray]) -> None:
        inputs = np.random.default_rng(7).normal(size=(40, 256)).astype(np.float32)
        inputs[:, 5] *= 300
        factors = smoothing_factors(np.concatenate(weights, axis=1), np.abs(inputs).max(axis=0))
        without = [np.where(np.arange(256)[:, None] == 5, 0, weight) for weight in weights]
        plain, smoothed = (
            self.error(self.graph(without, False, given), inputs, without).max() for given in (None, factors)
        )
        assert smoothed < plain / 4


@pytest.mark.parametrize("quantization", Quantization)
def test_a_layer_whose_input_is_not_finite_is_refused(
    qa_bundle: Path, tmp_path: Path, quantization: Quantization
) -> None:
    file, name = GRAPH_FILES[Layout.PACKED], "core.word_embeddings.weight"
    model = ir.load(qa_bundle / file)
    table = model.graph.initializers[name]
    assert table.const_value is not None
    table.const_value = ir.tensor(np.full_like(table.const_value.numpy(), np.nan), name=name)
    drawn = drawn_calibration(Bundle.open(qa_bundle).manifest, file)
    with pytest.raises(GraphError, match="is not finite on drawn ids"):
        quantize_models({file: model}, quantization, tmp_path, drawn)


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


@pytest.mark.parametrize("quantization", Quantization)
@pytest.mark.parametrize("fixture", ["classification_bundle", "qa_bundle"])
def test_a_bundles_logits_change_less(
    fixture: str, quantization: Quantization, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """On sequences that were not calibrated with, in both layouts of which the weights are the same."""
    bundle = Bundle.open(request.getfixturevalue(fixture))
    packed = GRAPH_FILES[Layout.PACKED]
    models = {file: ir.load(bundle.path / file) for file in GRAPH_FILES.values()}
    drawn = drawn_calibration(bundle.manifest, packed)
    others = [
        feeds
        for seed in range(100, 600, 100)
        for feeds in drawn_calibration(bundle.manifest, packed, seed=seed).feeds
    ]
    exact = [OnnxRuntimeEngine(bundle.path / packed).run(feeds) for feeds in others]

    def error(calibration: Calibration | None) -> float:
        quantized = quantize_models(models, quantization, tmp_path, calibration)
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
