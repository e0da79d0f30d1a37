"""The Python model of an encoder on a GPU, without Triton and without a GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from longserve.serving import Bundle, EngineName
from longserve.serving.repository import RepositoryOptions, build_repository
from longserve.serving.repository import config as configuration
from longserve.serving.repository.gpu_placement import Accelerator, GpuPlacement
from longserve.serving.runtime.errors import EngineError, RepositoryError
from longserve.serving.runtime.gpu_settings import Arena
from longserve.serving.runtime.manifest import Layout
from longserve.serving.runtime.profiles import parse_profile
from longserve.serving.runtime.tensorrt_record import EngineRecord

from .plans import parameters, write_plan

MakeBundle = Callable[..., Path]


class TestPythonModel:
    """The Python model of an encoder on a GPU, without Triton: which engine it opens, and how."""

    def initialized(self, directory: Path, monkeypatch: pytest.MonkeyPatch, device: str = "1") -> Any:
        version = directory / "1"
        config = configuration.parse_config((directory / "config.pbtxt").read_text(encoding="utf-8"), "test")
        logger = SimpleNamespace(log_info=lambda text: None, log_warn=self.said.append)
        stub = SimpleNamespace(Logger=logger, MetricFamily=None)
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stub)
        monkeypatch.syspath_prepend(str(version))
        for name in [name for name in sys.modules if name.split(".")[0] == "longserve_runtime"]:
            monkeypatch.delitem(sys.modules, name)
        spec = importlib.util.spec_from_file_location("encoder_model", version / "model.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "encoder_model", module)
        spec.loader.exec_module(module)
        monkeypatch.setattr(module, "EncoderMetrics", lambda *_: None)
        self.opened: list[Any] = []
        monkeypatch.setattr(module, "TensorRtEngine", _Engine)
        if self.engine is not None:
            monkeypatch.setattr(module, "open_packed_engine", self.open)
        given = {
            "parameters": {key: {"string_value": value} for key, value in parameters(config).items()},
            "instance_group": [{"count": 1}],
        }
        args = {"model_config": json.dumps(given), "model_repository": str(directory), "model_version": "1"}
        args |= {"model_name": "name_encoder", "model_version": "1", "model_instance_name": "name_0"}
        args |= {"model_instance_kind": "GPU", "model_instance_device_id": device}
        module.TritonPythonModel().initialize(args)

    def open(self, bundle: Any, settings: Any) -> Any:
        self.opened.append(settings)
        return self.engine

    said: list[str]
    engine: Any = None

    @pytest.fixture(autouse=True)
    def nothing_said(self) -> None:
        self.said = []

    def test_the_instances_gpu_and_the_options_reach_the_engine(
        self, make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gpu = GpuPlacement(memory_limit=5, arena=Arena.POWER_OF_TWO, allow_tf32=True)
        built = build_repository(make_bundle(), "name", tmp_path, RepositoryOptions(gpu=gpu))
        self.engine = SimpleNamespace(runs_on="test")
        self.initialized(built.encoder, monkeypatch)
        (settings,) = self.opened
        assert (settings.provider, settings.threads) == ("CUDAExecutionProvider", 1)
        assert dataclasses.asdict(settings.gpu) == {
            "device": 1,
            "memory_limit": 5,
            "arena": "power-of-two",
            "allow_tf32": True,
            "allow_cpu": False,
            "profiles": (),
            "workspace": None,
            "cache": gpu.cache,
        }

    @pytest.mark.parametrize("given", [True, False], ids=["given profiles", "default profiles"])
    def test_profiles_and_workspace_reach_the_tensorrt_provider(
        self, make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
    ) -> None:
        """Without profiles the provider would build an engine at every new shape."""
        texts = ["batch=1:1:16,tokens=1:128:1024", "batch=1:1:16,tokens=1025:4096:16384"]
        profiles = tuple(parse_profile(text, Layout.PACKED) for text in texts if given)
        gpu = GpuPlacement(
            accelerator=Accelerator.TENSORRT, profiles=profiles, workspace=1 << 20, cache="/cache"
        )
        built = build_repository(make_bundle(), "name", tmp_path, RepositoryOptions(gpu=gpu))
        self.engine = SimpleNamespace(runs_on="test")
        self.initialized(built.encoder, monkeypatch)
        (settings,) = self.opened
        assert settings.provider == "TensorrtExecutionProvider"
        assert (settings.gpu.workspace, settings.gpu.cache) == (1 << 20, "/cache")
        runs = ["batch=1:1:16,tokens=1:128:128", "batch=1:1:16,tokens=129:1024:1024"]
        runs += ["batch=1:1:16,tokens=1025:4096:8192"]  # a run has at most 8192 tokens: the others are split
        layout = sys.modules["longserve_runtime.manifest"].Layout.PACKED
        assert [profile.described(layout) for profile in settings.gpu.profiles] == (texts if given else runs)

    def test_profiles_that_a_batch_may_leave_are_refused(
        self, make_bundle: MakeBundle, tmp_path: Path
    ) -> None:
        profiles = (parse_profile("batch=1:1:8,tokens=1:1024:2048", Layout.PACKED),)
        gpu = GpuPlacement(accelerator=Accelerator.TENSORRT, profiles=profiles)
        with pytest.raises(RepositoryError, match="give --max-batch-size 2"):
            build_repository(make_bundle(), "name", tmp_path, RepositoryOptions(gpu=gpu))

    def test_without_that_provider_it_does_not_load(
        self, qa_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        onnxruntime = pytest.importorskip("onnxruntime", reason="the engine runs on onnxruntime")
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this onnxruntime has the CUDA provider")
        built = build_repository(qa_bundle, "name", tmp_path, RepositoryOptions(gpu=GpuPlacement()))
        with pytest.raises(Exception, match="has no CUDAExecutionProvider") as caught:
            self.initialized(built.encoder, monkeypatch)
        assert type(caught.value).__name__ == EngineError.__name__

    def test_an_engine_that_nobody_has_run_is_announced(
        self, make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundle = Bundle.open(make_bundle())
        options = RepositoryOptions(
            engine=EngineName.TENSORRT, plan=write_plan(tmp_path / "engine", bundle), max_batch_size=4
        )
        built = build_repository(bundle, "name", tmp_path / "repository", options)
        self.engine = _Engine(built.encoder)
        self.initialized(built.encoder, monkeypatch)
        (settings,) = self.opened
        assert (settings.engine.value, settings.gpu.device) == ("tensorrt", 1)
        assert any("nobody has compared it with the bundle" in text for text in self.said)


class _Engine:
    runs_on = "test"

    def __init__(self, encoder: Path) -> None:
        self.record = EngineRecord.read(encoder / "1")
