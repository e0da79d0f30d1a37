"""Engines of TensorRT-RTX, which builds without a GPU: the proof that both tasks' graphs parse and build."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from fake_tensorrt import GPU, make_record
from onnx import helper

from longserve.export.errors import EngineBuildError, GraphError, OutputError, ParityFailed
from longserve.export.tensorrt import builder
from longserve.export.tensorrt.builder import BuildSettings, build_engine
from longserve.export.tensorrt.cli import tensorrt_command
from longserve.export.tensorrt.global_slots import GlobalSlots
from longserve.export.tensorrt.validation import compare_engine, sample_runs
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import open_engine
from longserve.serving.runtime.engine_settings import Arrays
from longserve.serving.runtime.errors import IncompatibleEngine
from longserve.serving.runtime.manifest import Layout, Precision
from longserve.serving.runtime.profiles import parse_profile
from longserve.serving.runtime.tensorrt_record import EngineRecord, Gpu, TensorRtLibrary

RTX = TensorRtLibrary.TENSORRT_RTX
ONE_TARGET = BuildSettings(targets=("8.9",))


@pytest.fixture(scope="module")
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="the extra [tensorrt-rtx] is not installed")


@pytest.fixture(scope="module")
def qa(qa_bundle: Path) -> Bundle:
    return Bundle.open(qa_bundle)


@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("fixture", "layout", "slots"),
    [
        ("qa_bundle", Layout.PACKED, GlobalSlots.BOUNDED),
        ("qa_bundle", Layout.PADDED, GlobalSlots.FIXED),
        ("classification_bundle", Layout.PACKED, GlobalSlots.FIXED),
        ("classification_bundle", Layout.PADDED, GlobalSlots.BOUNDED),
    ],
)
def test_both_tasks_build_with_three_profiles(
    request: pytest.FixtureRequest, tmp_path: Path, rtx: Any, fixture: str, layout: Layout, slots: GlobalSlots
) -> None:
    bundle = Bundle.open(request.getfixturevalue(fixture))
    settings = dataclasses.replace(ONE_TARGET, layout=layout, global_slots=slots)
    built = build_engine(bundle, tmp_path / "engine", RTX, library=rtx, gpu=None, settings=settings)
    record = EngineRecord.read(built.path)
    assert record == built.record
    assert record.check_plan(built.path).stat().st_size > 10_000
    assert len(record.profiles) == 3
    assert (record.library, record.version) == (RTX, rtx.__version__)
    assert (record.targets, record.gpu, record.validation) == (("8.9",), None, None)
    assert record.bundle == bundle.fingerprint
    each = 64 if fixture == "qa_bundle" else 1
    assert record.global_capacity == (each if layout is Layout.PADDED else 8 * each)
    assert sorted(path.name for path in built.path.parent.iterdir()) == ["engine"]


@pytest.mark.tensorrt
def test_without_targets_it_is_for_every_gpu_but_turing(tmp_path: Path, rtx: Any, qa: Bundle) -> None:
    settings = BuildSettings(profiles=(parse_profile("batch=1:1:2,tokens=1:64:128", Layout.PACKED),))
    built = build_engine(qa, tmp_path / "engine", RTX, library=rtx, gpu=None, settings=settings)
    assert {"8.0", "8.6", "8.9", "12.0"} <= set(built.record.targets)
    ampere, turing = Gpu(name="A10", compute_capability="8.6"), Gpu(name="T4", compute_capability="7.5")
    built.record.check_here(RTX, rtx.__version__, ampere)
    with pytest.raises(IncompatibleEngine, match=r"built for compute capability 8\.0, .*T4"):
        built.record.check_here(RTX, rtx.__version__, turing)


@pytest.mark.tensorrt
def test_the_command_builds_and_says_that_nobody_has_run_it(
    tmp_path: Path, rtx: Any, qa: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longserve.serving.runtime.cuda_device.find_gpu", lambda: None)
    target = tmp_path / "engine"
    arguments = [str(qa.path), "-o", str(target), "--library", "tensorrt_rtx", "--target", "8.9", "--json"]
    arguments += ["--profile", "batch=1:1:2,tokens=1:64:128", "--max-global-tokens", "7"]
    arguments += ["--workspace", "512"]
    result = CliRunner().invoke(tensorrt_command, arguments)
    assert result.exit_code == 0, result.output
    assert "NOT VALIDATED: nobody has run this engine (this machine has no GPU)" in result.stderr
    record = json.loads(result.stdout)["record"]
    assert record["profiles"] == [
        {
            "sequences": {"minimum": 1, "optimum": 1, "maximum": 2},
            "tokens": {"minimum": 1, "optimum": 64, "maximum": 128},
        }
    ]
    assert record["global_capacity"] == 14
    again = CliRunner().invoke(tensorrt_command, arguments)
    assert isinstance(again.exception, OutputError)
    assert "--overwrite" in str(again.exception)


@pytest.mark.tensorrt
class TestFailures:
    def test_a_node_that_cannot_be_parsed_is_named_with_operator_and_reason(
        self, tmp_path: Path, rtx: Any, qa: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def spoiled(model: onnx.ModelProto, *_: Any) -> int:
            model.graph.node.append(
                helper.make_node("NoSuchThing", [model.graph.input[0].name], ["nowhere"], name="the_odd_one")
            )
            return 1

        monkeypatch.setattr(builder, "_bound", spoiled)
        with pytest.raises(EngineBuildError, match=r"node [0-9]+ the_odd_one \(NoSuchThing\): .+\["):
            build_engine(qa, tmp_path / "engine", RTX, library=rtx, gpu=None)
        assert list(tmp_path.iterdir()) == []

    def test_profiles_that_cannot_be_built_give_the_librarys_reason(
        self, tmp_path: Path, rtx: Any, qa: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wrong(self: Any, inputs: Any) -> dict[str, Any]:
            return {"input_ids": ((1,), (2,), (3,))}

        monkeypatch.setattr("longserve.serving.runtime.profiles.OptimizationProfile.shapes", wrong)
        with pytest.raises(EngineBuildError, match="global_attention_mask"):
            build_engine(qa, tmp_path / "engine", RTX, library=rtx, gpu=None, settings=ONE_TARGET)
        assert list(tmp_path.iterdir()) == []

    def test_a_target_that_the_library_does_not_know_names_those_it_does(
        self, tmp_path: Path, rtx: Any, qa: Bundle
    ) -> None:
        settings = BuildSettings(targets=("9.0",))
        with pytest.raises(EngineBuildError, match=r"the target is '9.0'; .* builds for 7\.5, .*12\.0"):
            build_engine(qa, tmp_path / "engine", RTX, library=rtx, gpu=None, settings=settings)


class TestRefusals:
    """Before anything is built: the library is never touched."""

    @pytest.mark.parametrize(
        ("kind", "gpu", "settings", "reason"),
        [
            (TensorRtLibrary.TENSORRT, None, {}, "this machine has none"),
            (TensorRtLibrary.TENSORRT, GPU, {"targets": ("8.9",)}, "leave --target out"),
            (RTX, None, {"timing_cache": Path("times")}, "RTX times nothing"),
            (RTX, None, {"max_global_tokens": 481}, "3848 global tokens"),
        ],
    )
    def test_what_does_not_fit(
        self, tmp_path: Path, qa: Bundle, kind: Any, gpu: Any, settings: dict[str, Any], reason: str
    ) -> None:
        with pytest.raises((EngineBuildError, GraphError), match=reason):
            build_engine(
                qa, tmp_path / "engine", kind, library=None, gpu=gpu, settings=BuildSettings(**settings)
            )

    def test_int8_bundles(self, tmp_path: Path, qa: Bundle) -> None:
        manifest = dataclasses.replace(qa.manifest, precision=Precision.INT8)
        with pytest.raises(EngineBuildError, match="--precision fp16"):
            build_engine(Bundle(qa.path, manifest), tmp_path / "engine", RTX, library=None, gpu=None)

    def test_more_global_tokens_than_the_bundle_takes(self, tmp_path: Path, qa: Bundle) -> None:
        manifest = dataclasses.replace(qa.manifest, max_global_tokens=8)
        settings = BuildSettings(max_global_tokens=9)
        with pytest.raises(EngineBuildError, match=r"max_global_tokens is 9, but .* exported for 8"):
            build_engine(
                Bundle(qa.path, manifest), tmp_path / "e", RTX, library=None, gpu=None, settings=settings
            )

    def test_a_directory_that_is_no_engine(self, tmp_path: Path, qa: Bundle) -> None:
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="is no engine"):
                build_engine(qa, qa.path, RTX, library=None, gpu=None, overwrite=overwrite)

    @pytest.mark.parametrize("settings", [{"workspace": 0}, {"optimization_level": 6}])
    def test_settings_out_of_range(self, settings: dict[str, Any]) -> None:
        with pytest.raises(EngineBuildError, match="give"):
            BuildSettings(**settings)


class _Library(SimpleNamespace):
    """A TensorRT that builds the bytes `plan`, for what the real one does with a GPU only."""

    def __init__(self, *, cache_fits: bool = True, starts: bool = True) -> None:
        super().__init__(__name__="tensorrt", __version__="10.9.0", ILogger=object)
        self.flags: list[Any] = []
        self.limits: dict[str, int] = {}
        self.known: list[bytes] = []
        self.starts, self.cache_fits = starts, cache_fits
        self.BuilderFlag = SimpleNamespace(TF32="tf32")
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.shapes: list[tuple[Any, ...]] = []

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        if not self.starts:
            logger.log(SimpleNamespace(name="ERROR"), "CUDA initialization\nfailure")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        config = SimpleNamespace(
            set_memory_pool_limit=self.limits.__setitem__,
            clear_flag=self.flags.append,
            add_optimization_profile=lambda profile: 0,
            create_timing_cache=self._cache,
            set_timing_cache=lambda cache, ignore: self.cache_fits,
        )
        profile = SimpleNamespace(set_shape=lambda *shape: self.shapes.append(shape))
        return SimpleNamespace(
            create_network=lambda flags: self.flags.append(flags),
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=lambda network, config: b"plan",
        )

    def _cache(self, known: bytes) -> Any:
        self.known.append(known)
        return SimpleNamespace(serialize=lambda: b"times")


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "parse_network", lambda library, made, *_: (made.create_network(2), None))


@pytest.mark.usefixtures("parsed")
class TestTensorRt:
    """The other library by the same code: timing cache, workspace, the GPU in the record."""

    def test_times_are_kept_and_used_again(self, tmp_path: Path, qa: Bundle) -> None:
        times = tmp_path / "caches" / "times"
        settings = BuildSettings(timing_cache=times, workspace=1 << 20)
        library = _Library()
        for name in ("one", "two"):
            built = build_engine(
                qa, tmp_path / name, TensorRtLibrary.TENSORRT, library=library, gpu=GPU, settings=settings
            )
        assert times.read_bytes() == b"times"
        assert library.known == [b"", b"times"]
        assert library.limits == {"workspace": 1 << 20}
        assert library.flags == [2, "tf32", 2, "tf32"]
        assert (built.record.gpu, built.record.targets, built.record.version) == (GPU, (), "10.9.0")
        assert built.unvalidated == "it was not asked for"

    def test_tf32_is_left_on_where_it_is_allowed(self, tmp_path: Path, qa: Bundle) -> None:
        library = _Library()
        settings = BuildSettings(allow_tf32=True)
        build_engine(
            qa, tmp_path / "e", TensorRtLibrary.TENSORRT, library=library, gpu=GPU, settings=settings
        )
        assert library.flags == [2]

    def test_a_timing_cache_that_is_not_taken_is_an_error(self, tmp_path: Path, qa: Bundle) -> None:
        settings = BuildSettings(timing_cache=tmp_path / "times")
        with pytest.raises(EngineBuildError, match=r"does not take the timing cache .*/times, "):
            build_engine(
                qa,
                tmp_path / "e",
                TensorRtLibrary.TENSORRT,
                library=_Library(cache_fits=False),
                gpu=GPU,
                settings=settings,
            )

    def test_a_library_that_does_not_start_gives_its_reason(self, tmp_path: Path, qa: Bundle) -> None:
        with pytest.raises(
            EngineBuildError, match="cannot start on this machine: CUDA initialization failure"
        ):
            build_engine(
                qa, tmp_path / "e", TensorRtLibrary.TENSORRT, library=_Library(starts=False), gpu=GPU
            )

    def test_an_engine_that_fails_its_comparison_is_not_kept(
        self, tmp_path: Path, qa: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Engine:
            def __init__(self, *_: Any, **__: Any) -> None:
                assert (Path(_[0]) / "model.plan").read_bytes() == b"plan", "the plan as it was written"

            def close(self) -> None:
                pass

        def fails(*_: Any) -> Any:
            raise ParityFailed("too far away")

        def refuses(*_: Any) -> Any:
            raise IncompatibleEngine("not here")

        monkeypatch.setattr(builder, "TensorRtEngine", Engine)
        for validator, error in ((fails, ParityFailed), (refuses, EngineBuildError)):
            with pytest.raises(error):
                build_engine(
                    qa,
                    tmp_path / "e",
                    TensorRtLibrary.TENSORRT,
                    library=_Library(),
                    gpu=GPU,
                    validator=validator,
                )
            assert list(tmp_path.iterdir()) == []

    def test_an_engine_for_other_gpus_is_not_validated_here(self, tmp_path: Path, qa: Bundle) -> None:
        library = _Library()
        library.ComputeCapability = SimpleNamespace(__members__={"NONE": 0, "SM75": 1, "SM86": 2, "SM120": 3})

        def never(*_: Any) -> Any:
            raise AssertionError

        built = build_engine(qa, tmp_path / "e", RTX, library=library, gpu=GPU, validator=never)
        assert built.unvalidated.startswith(
            "it was built for 8.6, 12.0, and this machine has the NVIDIA Test 1"
        )
        assert built.record.targets == ("8.6", "12.0")


class TestComparison:
    @pytest.fixture(params=list(Layout))
    def record(self, request: pytest.FixtureRequest, qa: Bundle) -> EngineRecord:
        layout = request.param
        tokens = "length" if layout is Layout.PADDED else "tokens"
        texts = [f"batch=1:1:3,{tokens}=1:8:20", f"batch=1:1:2,{tokens}=21:60:70"]
        graph = qa.manifest.graph(layout)
        return make_record(
            layout=layout,
            inputs=graph.inputs,
            outputs=graph.outputs,
            precision=Precision.FP32,
            profiles=tuple(parse_profile(text, layout) for text in texts),
        )

    def test_runs_reach_every_profile_and_fit_it(self, qa: Bundle, record: EngineRecord) -> None:
        runs = list(sample_runs(qa.manifest, record))
        assert {name.split(",")[0] for name, _ in runs} == {"profile 0", "profile 1"}
        assert len(runs) > 12
        seen = _Checking(open_engine(qa.model_path(record.layout)), record)
        result = compare_engine(seen, qa, record)
        assert (result.cases, result.max_relative) == (len(runs), 0.0)
        assert seen.profiles == {0, 1}

    @pytest.mark.parametrize("spoil", [1e-3, np.nan])
    def test_a_logit_that_differs_is_an_error_that_names_the_run(
        self, qa: Bundle, record: EngineRecord, spoil: float
    ) -> None:
        engine = _Checking(open_engine(qa.model_path(record.layout)), record, spoil)
        with pytest.raises(ParityFailed, match=r"profile 0, .*\(allowed 1e-05\)"):
            compare_engine(engine, qa, record)


class _Checking:
    """ONNX Runtime as if it were the engine: every run must fit a profile."""

    runs_on = "test"

    def __init__(self, engine: Any, record: EngineRecord, spoil: float = 0.0) -> None:
        self.engine, self.record, self.spoil = engine, record, spoil
        self.profiles: set[int] = set()

    def run(self, feeds: Arrays) -> Any:
        self.profiles.add(self.record.check_run(feeds))
        outputs = self.engine.run(feeds)
        outputs["start_logits"].flat[0] += self.spoil * max(1.0, np.abs(outputs["start_logits"]).max())
        return outputs
