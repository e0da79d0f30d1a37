"""Which engines a run measures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from longserve.export.bench import BenchError, BenchSettings, EngineKind, EngineSpec, plan, plan_engines
from longserve.export.bench.engines import check_instructions
from longserve.export.bench.matrix import ProductLibrary
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.manifest import Layout, Precision, Quantization


@pytest.fixture
def bundle(classification_bundle: Path) -> Bundle:
    return Bundle.open(classification_bundle, verify=False)


def other(bundle: Bundle, **changes: object) -> Bundle:
    """A bundle of the same model elsewhere, as far as planning looks at it."""
    manifest = dataclasses.replace(bundle.manifest, **changes)  # type: ignore[arg-type]
    return Bundle(bundle.path.with_name("other"), manifest)


class TestEngines:
    def test_the_stock_model_comes_first_and_every_row_has_its_own_name(self, bundle: Bundle) -> None:
        int8 = other(bundle, precision=Precision.INT8)
        specs = plan_engines([bundle, int8], BenchSettings(), reference="checkpoint")
        assert specs[0].kind is EngineKind.TORCH and specs[0].name == "torch eager fp32"
        assert {spec.kind for spec in specs} == set(EngineKind)
        assert len({spec.name for spec in specs}) == len(specs)
        ours = [spec.name for spec in specs if spec.kind is EngineKind.ONNXRUNTIME]
        assert ours == [
            "onnxruntime fp32 padded",
            "onnxruntime fp32 packed",
            "onnxruntime int8 padded",
            "onnxruntime int8 packed",
        ]
        assert {spec.threads > 0 for spec in specs} == {True}

    def test_openvino_runs_a_float_bundle_in_both_arithmetics(self, bundle: Bundle) -> None:
        settings = BenchSettings(engines=(EngineKind.OPENVINO,), layouts=(Layout.PACKED,))
        specs = plan_engines([bundle, other(bundle, precision=Precision.INT8)], settings)
        assert [(spec.name, spec.precision) for spec in specs] == [
            ("openvino fp32 packed", "fp32"),
            ("openvino fp32 as bf16 packed", "bf16"),
            ("openvino int8 as fp32 packed", "int8"),
            ("openvino int8 as bf16 packed", "int8"),
        ]

    def test_without_a_checkpoint_the_first_bundle_is_the_baseline(self, bundle: Bundle) -> None:
        specs = plan_engines([bundle], BenchSettings(layouts=(Layout.PACKED,)))
        assert specs[0].name == "onnxruntime fp32 packed"

    def test_bundles_of_one_precision_are_told_apart(self, bundle: Bundle) -> None:
        settings = BenchSettings(engines=(EngineKind.ONNXRUNTIME,), layouts=(Layout.PADDED,))
        specs = plan_engines([bundle, other(bundle, block_size=16)], settings)
        assert [spec.name for spec in specs] == [
            f"onnxruntime fp32 {bundle.path.name} padded",
            "onnxruntime fp32 other padded",
        ]

    def test_quantizations_are_told_apart(self, bundle: Bundle) -> None:
        settings = BenchSettings(engines=(EngineKind.ONNXRUNTIME,), layouts=(Layout.PADDED,))
        int8 = [
            other(bundle, precision=Precision.INT8, quantization=kind)
            for kind in (None, Quantization.WEIGHTS)
        ]
        int8[1] = Bundle(bundle.path.with_name("another"), int8[1].manifest)
        specs = plan_engines([bundle, *int8], settings)
        assert [spec.name for spec in specs] == [
            "onnxruntime fp32 padded",
            "onnxruntime int8 dynamic padded",
            "onnxruntime int8 weights padded",
        ]

    def test_a_specification_survives_the_way_to_its_process(self, bundle: Bundle) -> None:
        for spec in plan_engines([bundle], BenchSettings(), reference="checkpoint", revision="main"):
            assert EngineSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec

    @pytest.mark.parametrize("possible", [True, False])
    def test_memory_is_kept_where_the_c_library_can(
        self, possible: bool, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plan, "can_keep_memory", lambda: possible)
        kinds = {spec.kind for spec in plan_engines([bundle], BenchSettings(), reference="checkpoint")}
        assert EngineKind.TORCH in kinds
        assert (EngineKind.TORCH_KEPT in kinds) == possible

    def test_what_cannot_be_measured_is_left_out_and_named(
        self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plan, "_installed", lambda package: package not in ("onnx", "openvino"))
        told: list[str] = []
        specs = plan_engines([bundle], BenchSettings(), report=told.append)
        assert ProductLibrary.ONNXRUNTIME not in {spec.library for spec in specs}
        assert ProductLibrary.TORCH in {spec.library for spec in specs}
        assert EngineKind.ONNXRUNTIME in {spec.kind for spec in specs}
        assert told == [
            "openvino is left out: openvino is not installed",
            "the products of onnxruntime are left out: onnx is not installed",
        ]

    def test_an_engine_that_needs_the_checkpoint_says_so(self, bundle: Bundle) -> None:
        with pytest.raises(BenchError, match=r"torch-bf16 runs the checkpoint itself; .*--reference"):
            plan_engines([bundle], BenchSettings(engines=(EngineKind.TORCH_BF16,)))

    def test_bundles_of_different_models_are_refused(self, bundle: Bundle) -> None:
        with pytest.raises(BenchError, match="not of one model: max_length is 512 and 100"):
            plan_engines([bundle, other(bundle, max_length=100)], BenchSettings())

    def test_a_bundle_named_twice_is_refused(self, bundle: Bundle) -> None:
        with pytest.raises(BenchError, match="twice"):
            plan_engines([bundle, bundle], BenchSettings())

    def test_no_bundle_is_refused(self) -> None:
        with pytest.raises(BenchError, match="no bundle"):
            plan_engines([], BenchSettings())


class TestInstructions:
    @pytest.mark.parametrize(
        ("kind", "precision", "library"),
        [
            (EngineKind.TORCH_BF16, "bf16", None),
            (EngineKind.PRODUCTS, "bf16", ProductLibrary.TORCH),
            (EngineKind.PRODUCTS, "int8", ProductLibrary.TORCH),
        ],
    )
    def test_what_pytorch_has_no_instructions_for_is_refused(
        self, kind: EngineKind, precision: str, library: ProductLibrary | None
    ) -> None:
        spec = EngineSpec(kind=kind, name="n", bundle="b", precision=precision, library=library)
        with pytest.raises(BenchError, match=f"PyTorch takes seconds for each product in {precision}"):
            check_instructions(spec, {"avx2"})
        check_instructions(spec, {"avx2", "avx512_bf16", "avx512_vnni"})
        check_instructions(spec, set())  # the processor does not say

    def test_others_run_anywhere(self, bundle: Bundle) -> None:
        for spec in plan_engines([bundle], BenchSettings(), reference="checkpoint"):
            if spec.library is not ProductLibrary.TORCH and spec.kind is not EngineKind.TORCH_BF16:
                check_instructions(spec, {"avx2"})
