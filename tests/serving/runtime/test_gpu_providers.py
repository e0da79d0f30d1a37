"""ONNX Runtime on a GPU, without one: the options that it gets, and that nothing falls back unasked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import (
    CPU_PROVIDER,
    EngineSettings,
    OnnxRuntimeEngine,
    open_packed_engine,
)
from longserve.serving.runtime.errors import EngineError
from longserve.serving.runtime.gpu_providers import (
    CUDA_PROVIDER,
    TENSORRT_PROVIDER,
    cuda_options,
    provider_chain,
    tensorrt_options,
)
from longserve.serving.runtime.gpu_settings import Arena, GpuSettings
from longserve.serving.runtime.manifest import Layout, TensorSpec
from longserve.serving.runtime.packing import EncoderSequence, pack
from longserve.serving.runtime.profiles import parse_profile

pytest.importorskip("onnxruntime", reason="the engine runs on onnxruntime")
INPUTS = (
    TensorSpec(name="input_ids", dtype="int64", axes=("tokens",)),
    TensorSpec(name="sequence_ends", dtype="int32", axes=("batch",)),
)
PROFILES = tuple(
    parse_profile(text, Layout.PACKED)
    for text in ("batch=1:1:8,tokens=1:256:512", "batch=1:2:8,tokens=513:4096:8192")
)


class _Value:
    def __init__(self, array: Any, place: tuple[str, int]) -> None:
        self.array, self.place = array, place


class FakeRuntime:
    """`onnxruntime` with any providers; it keeps what sessions are made with."""

    __version__ = "1.31.1"
    SessionOptions = SimpleNamespace

    def __init__(
        self, available: list[str], used: list[str] | None = None, failure: Exception | None = None
    ) -> None:
        self.available, self.used, self.failure = available, used, failure
        self.OrtValue = SimpleNamespace(ortvalue_from_numpy=lambda array, *place: _Value(array, place))
        self.places: dict[str, Any] = {}
        self.providers: list[Any] = []
        self.fallback: Any = None

    def get_available_providers(self) -> list[str]:
        return [*self.available, "AzureExecutionProvider"]

    def InferenceSession(self, model: str, options: Any, *, providers: Any, enable_fallback: int) -> Any:  # noqa: N802
        self.providers, self.fallback = providers, enable_fallback
        if self.failure is not None:
            raise self.failure
        names = [one if isinstance(one, str) else one[0] for one in providers]
        values: dict[str, Any] = {}

        def bind_input(name: str, value: _Value) -> None:
            values[name], self.places[name] = value.array, value.place

        binding = SimpleNamespace(
            bind_ortvalue_input=bind_input,
            bind_output=lambda name, *place: self.places.update({name: place}),
            copy_outputs_to_cpu=lambda: [values["x"] + 1],
        )
        return SimpleNamespace(
            get_providers=lambda: self.used or names,
            get_outputs=lambda: [SimpleNamespace(name="y")],
            io_binding=lambda: binding,
            run_with_iobinding=lambda bound: None,
            run=lambda names, feeds: [feeds["x"] + 1],
        )


GPU = [TENSORRT_PROVIDER, CUDA_PROVIDER, CPU_PROVIDER]


def opened(runtime: FakeRuntime, provider: str = CUDA_PROVIDER, **gpu: Any) -> OnnxRuntimeEngine:
    settings = EngineSettings(provider=provider, gpu=GpuSettings(**gpu))
    return OnnxRuntimeEngine("model.onnx", settings, inputs=INPUTS, runtime=runtime)


class TestOptions:
    def test_cuda(self) -> None:
        assert cuda_options(GpuSettings(device=1, memory_limit=1 << 30)) == {
            "device_id": "1",
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "DEFAULT",
            "use_tf32": "0",
            "enable_skip_layer_norm_strict_mode": "1",
            "gpu_mem_limit": "1073741824",
        }
        other = cuda_options(GpuSettings(arena=Arena.POWER_OF_TWO, allow_tf32=True))
        assert (other["arena_extend_strategy"], other["use_tf32"]) == ("kNextPowerOfTwo", "1")
        assert "gpu_mem_limit" not in other

    def test_tensorrt_names_every_input_in_every_profile(self) -> None:
        options = tensorrt_options(GpuSettings(profiles=PROFILES, cache="/cache", workspace=7), INPUTS)
        assert options == {
            "device_id": "0",
            "trt_max_workspace_size": "7",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": "/cache",
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": "/cache",
            "trt_profile_min_shapes": "input_ids:1,sequence_ends:1,input_ids:513,sequence_ends:1",
            "trt_profile_opt_shapes": "input_ids:256,sequence_ends:1,input_ids:4096,sequence_ends:2",
            "trt_profile_max_shapes": "input_ids:512,sequence_ends:8,input_ids:8192,sequence_ends:8",
        }
        assert tensorrt_options(GpuSettings()) == {"device_id": "0"}

    def test_padded_shapes_have_both_axes(self) -> None:
        rows = [TensorSpec(name="input_ids", dtype="int64", axes=("batch", "sequence"))]
        profile = parse_profile("batch=1:2:3,length=4:5:6", Layout.PADDED)
        options = tensorrt_options(GpuSettings(profiles=(profile,)), rows)
        assert options["trt_profile_opt_shapes"] == "input_ids:2x5"

    def test_profiles_without_inputs_are_an_error(self) -> None:
        with pytest.raises(EngineError, match="not the graph's inputs"):
            provider_chain(TENSORRT_PROVIDER, GpuSettings(profiles=PROFILES))


class TestSessions:
    def test_the_provider_gets_its_options_and_may_not_be_replaced_later(self) -> None:
        runtime = FakeRuntime(GPU)
        engine = opened(runtime, device=1)
        assert runtime.providers == [(CUDA_PROVIDER, cuda_options(GpuSettings(device=1))), CPU_PROVIDER]
        assert runtime.fallback == 0
        assert engine.runs_on == f"onnxruntime {CUDA_PROVIDER}"

    def test_tensorrt_leaves_the_rest_to_cuda(self) -> None:
        runtime = FakeRuntime(GPU)
        engine = opened(runtime, TENSORRT_PROVIDER, profiles=PROFILES)
        assert [one if isinstance(one, str) else one[0] for one in runtime.providers] == GPU
        assert "trt_profile_max_shapes" in runtime.providers[0][1]
        assert engine.runs_on == f"onnxruntime {TENSORRT_PROVIDER}"

    @pytest.mark.parametrize("provider", [CUDA_PROVIDER, TENSORRT_PROVIDER])
    def test_a_session_that_fell_back_is_an_error(self, provider: str) -> None:
        """onnxruntime-gpu does that without a GPU, with a line in its log."""
        with pytest.raises(EngineError, match=f"told to use {provider} .* but runs on {CPU_PROVIDER}"):
            opened(FakeRuntime(GPU, used=[CPU_PROVIDER]), provider)

    def test_libraries_are_loaded_from_packages_first_and_what_is_missing_is_said(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        told: list[str] = []

        class Preloading(FakeRuntime):
            def preload_dlls(self, *, directory: str) -> None:
                told.append(directory)
                print("Failed to load libcudart.so.13:\n no such file")  # noqa: T201  (as onnxruntime does)

        with pytest.raises(EngineError, match=r"Failed to load libcudart\.so\.13: no such file; mend that"):
            opened(Preloading(GPU, used=[CPU_PROVIDER]))
        assert opened(Preloading(GPU)).runs_on == f"onnxruntime {CUDA_PROVIDER}"
        broken = Preloading(GPU, failure=RuntimeError("CUDA failure 35"))
        with pytest.raises(EngineError, match=r"CUDA failure 35; Failed to load libcudart\.so\.13"):
            opened(broken)
        assert told == ["", "", ""], "beside onnxruntime, then the system's"
        assert capsys.readouterr().out == "", "a command's output is for other things"
        opened(Preloading([CPU_PROVIDER]), CPU_PROVIDER)
        assert len(told) == 3, "a CPU needs none"

    def test_tensorrt_that_fell_back_to_cuda_is_an_error(self) -> None:
        with pytest.raises(EngineError, match=f"but runs on {CUDA_PROVIDER}"):
            opened(FakeRuntime(GPU, used=[CUDA_PROVIDER, CPU_PROVIDER]), TENSORRT_PROVIDER)

    def test_a_provider_that_is_not_there_is_an_error(self) -> None:
        with pytest.raises(EngineError, match=f"1.31.1 has no {CUDA_PROVIDER}, only {CPU_PROVIDER};"):
            opened(FakeRuntime([CPU_PROVIDER]))

    def test_the_cpu_is_taken_where_it_is_allowed_and_named(self) -> None:
        for runtime in (FakeRuntime([CPU_PROVIDER]), FakeRuntime(GPU, used=[CPU_PROVIDER])):
            engine = opened(runtime, allow_cpu=True)
            assert engine.runs_on == f"onnxruntime {CPU_PROVIDER}"
            assert engine.run({"x": np.array([1.0])})["y"].tolist() == [2.0]
            assert runtime.places == {}, "no binding to a GPU that is not used"


class TestBinding:
    def test_inputs_and_outputs_lie_on_the_gpu_that_was_chosen(self) -> None:
        runtime = FakeRuntime(GPU)
        engine = opened(runtime, device=1)
        bound = engine.bind({"x": np.array([1.0])})
        bound.run()
        assert bound.outputs()["y"].tolist() == [2.0]
        assert runtime.places == {"x": ("cuda", 1), "y": ("cuda", 1)}
        assert engine.run({"x": np.array([3.0])})["y"].tolist() == [4.0]

    def test_a_real_session_gives_the_same_bound_and_unbound(self, qa_bundle: Path) -> None:
        bundle = Bundle.open(qa_bundle)
        engine = open_packed_engine(bundle)
        assert isinstance(engine, OnnxRuntimeEngine)
        ids = np.arange(10, 40)
        mask = np.zeros_like(ids)
        mask[:3] = 1
        feeds = pack([EncoderSequence(input_ids=ids, global_attention_mask=mask)], bundle.manifest)
        wanted = engine.run(feeds)
        bound = engine.bind(feeds)
        for _ in range(2):
            bound.run()
            for name, array in bound.outputs().items():
                np.testing.assert_array_equal(array, wanted[name])

    def test_a_tensor_that_the_graph_has_not_is_an_error(self, qa_bundle: Path) -> None:
        engine = open_packed_engine(Bundle.open(qa_bundle))
        assert isinstance(engine, OnnxRuntimeEngine)
        with pytest.raises(EngineError, match="onnxruntime failed"):
            engine.bind({"nothing": np.zeros(1)})
        bound = engine.bind({"input_ids": np.zeros(4, dtype=np.int64)})
        with pytest.raises(EngineError, match="onnxruntime failed"):
            bound.run()
