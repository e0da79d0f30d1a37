"""Repositories for GPUs: every configuration parses, names what the graphs hold, and fits its engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tritonclient.grpc import model_config_pb2 as triton

from longserve.serving import Bundle, EngineName, RepositoryError, Task
from longserve.serving.cli.server import repo_command
from longserve.serving.repository import Backend, RepositoryOptions, build_repository
from longserve.serving.repository import config as configuration
from longserve.serving.repository.gpu_placement import Accelerator, GpuPlacement
from longserve.serving.repository.lint import Target, lint_repository
from longserve.serving.repository.warmup import warmup_samples
from longserve.serving.runtime.errors import IncompatibleEngine
from longserve.serving.runtime.gpu_settings import Arena
from longserve.serving.runtime.manifest import Layout, Precision
from longserve.serving.runtime.profiles import default_profiles, parse_profile
from longserve.serving.runtime.tensorrt_record import RECORD_NAME, EngineRecord

from .conftest import make_manifest
from .plans import parameters, record_of, write_plan

MakeBundle = Callable[..., Path]
KIND_GPU = triton.ModelInstanceGroup.KIND_GPU
CHOICES: list[dict[str, Any]] = [
    {"backend": backend, "gpu": GpuPlacement(accelerator=accelerator, gpus=gpus), "response_cache": cache}
    for backend in (Backend.PYTHON, Backend.ONNXRUNTIME)
    for accelerator in Accelerator
    for gpus, cache in (((), False), ((0, 1), True))
]
PLANS: list[dict[str, Any]] = [
    {"backend": Backend.TENSORRT},
    {"backend": Backend.PYTHON, "engine": EngineName.TENSORRT, "gpu": GpuPlacement(gpus=(1,))},
]


def encoder(task: Task = Task.TEXT_CLASSIFICATION, record: EngineRecord | None = None, **choices: Any) -> Any:
    manifest = make_manifest(task, **choices.pop("manifest", {}))
    options = RepositoryOptions(**choices)
    samples = warmup_samples(manifest)
    return configuration.encoder_config(manifest, "name", options, samples, "b" * 64, record)


def accelerators(config: Any) -> dict[str, dict[str, str]]:
    given = config.optimization.execution_accelerators.gpu_execution_accelerator
    return {one.name: dict(one.parameters) for one in given}


class TestEveryCombination:
    @pytest.mark.parametrize("fixture", ["classification_bundle", "qa_bundle"])
    @pytest.mark.parametrize("choice", [*CHOICES, *PLANS], ids=str)
    def test_it_parses_and_names_the_tensors_that_the_graph_has(
        self, request: pytest.FixtureRequest, tmp_path: Path, fixture: str, choice: dict[str, Any]
    ) -> None:
        onnx = pytest.importorskip("onnx", reason="the graph is read with onnx")
        bundle = Bundle.open(request.getfixturevalue(fixture))
        # a bundle whose questions are bounded, as an engine needs it
        bounded = dataclasses.replace(bundle.manifest, max_global_tokens=8)
        copy = tmp_path / "bundle"
        copy.mkdir()
        (copy / "manifest.json").write_text(bounded.to_json(), encoding="utf-8")
        for file in bundle.path.iterdir():
            if file.name != "manifest.json":
                (copy / file.name).symlink_to(file)
        bundle = Bundle(copy, bounded)
        if choice in PLANS:
            choice = {**choice, "plan": write_plan(tmp_path / "engine", bundle)}
        options = RepositoryOptions(max_batch_size=4, instances=2, **choice)
        built = build_repository(bundle, "name", tmp_path / "repository", options)
        text = (built.encoder / "config.pbtxt").read_text(encoding="utf-8")
        config = configuration.parse_config(text, "test")
        assert isinstance(config, triton.ModelConfig)
        graph = onnx.load(str(bundle.model_path(Layout.PACKED)), load_external_data=False).graph
        kinds = {onnx.TensorProto.INT64: "TYPE_INT64", onnx.TensorProto.FLOAT: "TYPE_FP32"}
        kinds[onnx.TensorProto.INT32] = "TYPE_INT32"
        in_file = {
            value.name: (
                kinds[value.type.tensor_type.elem_type],
                [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim],
            )
            for value in (*graph.input, *graph.output)
        }
        named = {}
        for tensor in (*config.input, *config.output):
            kind = triton.DataType.Name(tensor.data_type)
            batch = [-1] if tensor.name == "logits" else []
            named[tensor.name] = (kind, [*batch, *tensor.dims])
        for entry in config.batch_input:
            (name,) = entry.target_name
            named[name] = (triton.DataType.Name(entry.data_type), [-1])
        if options.backend is Backend.PYTHON:
            named["sequence_ends"] = ("TYPE_INT32", [-1])  # the Python model makes it
        assert named == in_file
        (group,) = config.instance_group
        wanted = (KIND_GPU, 2, list(options.gpu.gpus if options.gpu else ()))
        assert (group.kind, group.count, list(group.gpus)) == wanted
        assert built.text is not None
        text_config = configuration.parse_config(
            (built.text / "config.pbtxt").read_text(encoding="utf-8"), "test"
        )
        assert ("response_cache" in parameters(text_config)) == options.response_cache
        for each in (config, text_config):
            assert not each.response_cache.enable, "Triton's key has neither shapes nor options"
        served = {path.name for path in (built.encoder / "1").iterdir()}
        plan = {"model.plan", RECORD_NAME}
        assert plan <= served if options.plan else not served & plan
        assert ("model.packed.onnx" in served) == (options.plan is None)
        if config.default_model_filename:
            assert config.default_model_filename in served
        for warmup in config.model_warmup:
            for tensor in warmup.inputs.values():
                assert (built.encoder / "warmup" / tensor.input_data_file).is_file()
        target = Target.EMBEDDED if options.backend is Backend.PYTHON else Target.CONTAINER
        found = lint_repository(tmp_path / "repository", server=target, cores=8)
        ours = [f for f in found if f.severity.value == "error" and "engine" not in f.rule]
        assert [f for f in ours if f.where.startswith("name_encoder")] == []
        assert any(f.rule == "plan-not-validated" for f in found) == (options.plan is not None)


class TestOnnxRuntime:
    def test_what_the_backend_would_overwrite_stands_among_the_models_parameters(self) -> None:
        """onnxruntime.cc sets four options to its defaults once the model has any parameter."""
        gpu = GpuPlacement(memory_limit=1 << 30)
        config = encoder(backend=Backend.ONNXRUNTIME, gpu=gpu)
        own = parameters(config)
        assert own["gpu_mem_limit"] == "1073741824"
        assert own["arena_extend_strategy"] == "1"
        assert own["cudnn_conv_algo_search"] == "2"
        assert own["do_copy_in_default_stream"] == "1"
        given = accelerators(config)
        assert given == {"cuda": {"use_tf32": "0", "enable_skip_layer_norm_strict_mode": "1"}}
        assert own["intra_op_thread_count"] == "1"

    def test_the_arena_may_double_and_tf32_be_allowed(self) -> None:
        gpu = GpuPlacement(arena=Arena.POWER_OF_TWO, allow_tf32=True)
        config = encoder(backend=Backend.ONNXRUNTIME, gpu=gpu)
        assert parameters(config)["arena_extend_strategy"] == "0"
        assert "gpu_mem_limit" not in parameters(config)
        assert accelerators(config)["cuda"]["use_tf32"] == "1"

    def test_tensorrt_gets_shapes_for_every_input_and_its_caches(self) -> None:
        gpu = GpuPlacement(accelerator=Accelerator.TENSORRT, cache="/cache", workspace=1 << 20)
        config = encoder(backend=Backend.ONNXRUNTIME, gpu=gpu, max_batch_size=4)
        given = accelerators(config)
        assert list(given) == ["tensorrt", "cuda"]
        shapes = "input_ids:{0},global_attention_mask:{0},sequence_ends:{1}"
        assert given["tensorrt"] == {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": "/cache",
            "trt_engine_cache_prefix": "name_encoder",
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": "/cache",
            "max_workspace_size_bytes": "1048576",
            "trt_profile_min_shapes": ",".join(shapes.format(size, 1) for size in (1, 129, 1025)),
            "trt_profile_opt_shapes": ",".join(shapes.format(size, 1) for size in (128, 1024, 2048)),
            "trt_profile_max_shapes": ",".join(shapes.format(size, 4) for size in (128, 1024, 4096)),
        }

    def test_profiles_that_a_batch_may_leave_are_an_error(self) -> None:
        profiles = (parse_profile("batch=1:1:8,tokens=1:1024:2048", Layout.PACKED),)
        gpu = GpuPlacement(accelerator=Accelerator.TENSORRT, profiles=profiles)
        assert encoder(backend=Backend.ONNXRUNTIME, gpu=gpu, max_batch_size=2)
        with pytest.raises(RepositoryError, match=r"max_batch_size is 3, .* give --max-batch-size 2"):
            encoder(backend=Backend.ONNXRUNTIME, gpu=gpu, max_batch_size=3)

    def test_a_half_precision_bundle_without_cpu_kernels_is_fine_on_a_gpu(
        self, make_bundle: MakeBundle, tmp_path: Path
    ) -> None:
        bundle = make_bundle(precision=Precision.BF16)
        with pytest.raises(RepositoryError, match="no kernels on CPUs"):
            build_repository(bundle, "name", tmp_path / "cpu")
        build_repository(bundle, "name", tmp_path / "gpu", RepositoryOptions(gpu=GpuPlacement()))


class TestTensorRt:
    @pytest.mark.parametrize("task", list(Task))
    def test_each_profile_has_a_context_and_the_batch_is_packed_by_triton(self, task: Task) -> None:
        manifest = make_manifest(task, max_global_tokens=8)
        config = encoder(
            task,
            record_of(manifest),
            manifest={"max_global_tokens": 8},
            backend=Backend.TENSORRT,
            plan=Path("engine"),
            max_batch_size=4,
        )
        assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
        (group,) = config.instance_group
        assert (group.kind, list(group.profile)) == (KIND_GPU, ["0", "1", "2"])
        # else every context takes the memory of the largest profile
        assert parameters(config)["execution_context_allocation_strategy"] == "ON_PROFILE_CHANGE"
        assert all(tensor.allow_ragged_batch and tensor.dims == [-1] for tensor in config.input)
        assert [list(entry.target_name) for entry in config.batch_input] == [["sequence_ends"]]
        outputs = [list(entry.target_name) for entry in config.batch_output]
        assert outputs == ([["start_logits"], ["end_logits"]] if task is Task.QUESTION_ANSWERING else [])

    @pytest.mark.parametrize(
        ("fields", "options", "error", "reason"),
        [
            ({}, {"max_batch_size": 5}, RepositoryError, "give --max-batch-size 4"),
            ({"layout": Layout.PADDED}, {}, RepositoryError, "--layout packed"),
            ({"bundle": "c" * 64}, {}, IncompatibleEngine, "built from the bundle cccccccccccc"),
            ({"global_capacity": 31}, {}, RepositoryError, "may have 32 global tokens, .* 31; .*size 3"),
            (
                {"profiles": (parse_profile("batch=1:1:4,tokens=2:9:4096", Layout.PACKED),)},
                {},
                RepositoryError,
                "a run of 1 tokens",
            ),
            (
                {
                    "profiles": (
                        parse_profile("batch=1:1:4,tokens=1:9:64", Layout.PACKED),
                        parse_profile("batch=1:1:4,tokens=66:99:4096", Layout.PACKED),
                    )
                },
                {},
                RepositoryError,
                "a run of 65 tokens",
            ),
            (
                {
                    "profiles": (
                        parse_profile("batch=1:1:4,tokens=1:9:64", Layout.PACKED),
                        parse_profile("batch=2:2:4,tokens=65:99:4096", Layout.PACKED),
                    )
                },
                {},
                RepositoryError,
                "does not take 1 to 4 sequences",
            ),
            (
                {"profiles": (parse_profile("batch=1:1:4,tokens=1:9:1000", Layout.PACKED),)},
                {},
                RepositoryError,
                "up to 1000 tokens, but a sequence may have 1024",
            ),
        ],
    )
    def test_an_engine_that_a_batch_may_leave_is_refused_when_the_repository_is_built(
        self, fields: dict[str, Any], options: dict[str, Any], error: type[Exception], reason: str
    ) -> None:
        manifest = make_manifest(Task.QUESTION_ANSWERING, max_global_tokens=8)
        record = record_of(manifest, **fields)
        chosen = {"max_batch_size": 4, "backend": Backend.TENSORRT, "plan": Path("engine"), **options}
        with pytest.raises(error, match=reason):
            encoder(Task.QUESTION_ANSWERING, record, manifest={"max_global_tokens": 8}, **chosen)

    def test_questions_of_any_length_need_a_bound_first(self) -> None:
        record = record_of(make_manifest(Task.QUESTION_ANSWERING))
        with pytest.raises(RepositoryError, match="export the bundle with --max-global-tokens"):
            encoder(
                Task.QUESTION_ANSWERING,
                record,
                backend=Backend.TENSORRT,
                plan=Path("engine"),
                max_batch_size=4,
            )

    def test_the_python_backend_splits_what_is_more_than_the_engine_takes(self) -> None:
        record = record_of(make_manifest())
        chosen = {"engine": EngineName.TENSORRT, "plan": Path("engine"), "max_batch_size": 4}
        assert parameters(encoder(record=record, **chosen))["max_tokens_per_run"] == "4096"
        with pytest.raises(RepositoryError, match="max_tokens_per_run is 4097"):
            encoder(record=record, max_tokens_per_run=4097, **chosen)

    def test_a_damaged_plan_builds_nothing(self, make_bundle: MakeBundle, tmp_path: Path) -> None:
        bundle = Bundle.open(make_bundle())
        plan = write_plan(tmp_path / "engine", bundle)
        (plan / "model.plan").write_bytes(b"else")
        options = RepositoryOptions(backend=Backend.TENSORRT, plan=plan, max_batch_size=4)
        with pytest.raises(IncompatibleEngine, match="copy the engine whole"):
            build_repository(bundle, "name", tmp_path / "repository", options)
        assert list((tmp_path / "repository").iterdir()) == []


class TestOptions:
    @pytest.mark.parametrize(
        ("choices", "reason"),
        [
            ({"backend": Backend.TENSORRT}, "give its directory with --plan"),
            ({"engine": EngineName.TENSORRT}, "give its directory with --plan"),
            ({"plan": Path("engine")}, "neither the backend nor the engine is tensorrt"),
            (
                {"backend": Backend.ONNXRUNTIME, "engine": EngineName.TENSORRT, "plan": Path("engine")},
                "--accelerator tensorrt",
            ),
            ({"engine": EngineName.OPENVINO, "gpu": GpuPlacement()}, "openvino, which runs on CPUs"),
            *(
                (
                    {**plan, "plan": Path("engine"), "gpu": GpuPlacement(**given)},
                    f"{option} given, but the engine",
                )
                for plan in ({"backend": Backend.TENSORRT}, {"engine": EngineName.TENSORRT})
                for given, option in (
                    ({"memory_limit": 1 << 30}, "--gpu-memory"),
                    ({"allow_tf32": True}, "--allow-tf32"),
                    ({"arena": Arena.POWER_OF_TWO}, "--gpu-arena"),
                    ({"accelerator": Accelerator.TENSORRT, "workspace": 5}, "--accelerator, --gpu-workspace"),
                )
            ),
            (
                {"backend": Backend.TENSORRT, "plan": Path("engine"), "gpu": GpuPlacement(cache="/cache")},
                "--gpu-cache given, but the engine",
            ),
            ({"gpu": GpuPlacement(cache="/cache")}, "is cuda, which keeps no engines"),
            ({"backend": Backend.TENSORRT, "plan": Path("engine"), "threads": 2}, "threads is 2"),
            ({"engine": EngineName.TENSORRT, "plan": Path("engine"), "threads": 2}, "threads is 2"),
            ({"backend": Backend.ONNXRUNTIME, "max_tokens_per_run": 9000}, "runs each batch whole"),
            (
                {"backend": Backend.TENSORRT, "plan": Path("engine"), "max_tokens_per_run": 9000},
                "runs each batch whole",
            ),
        ],
    )
    def test_what_does_not_go_together(self, choices: dict[str, Any], reason: str) -> None:
        with pytest.raises(RepositoryError, match=reason):
            RepositoryOptions(**choices)

    @pytest.mark.parametrize(
        ("choices", "reason"),
        [
            ({"gpus": (0, 0)}, "give each number"),
            ({"gpus": (-1,)}, "give each number"),
            ({"memory_limit": 0}, "memory_limit is 0"),
            ({"profiles": default_profiles(Layout.PACKED, 64)}, "the accelerator is cuda"),
            ({"workspace": 5}, "the accelerator is cuda, which builds no engine"),
        ],
    )
    def test_placements_that_cannot_be(self, choices: dict[str, Any], reason: str) -> None:
        with pytest.raises(RepositoryError, match=reason):
            GpuPlacement(**choices)

    def test_the_rate_limiter_counts_runs_on_each_gpu(self) -> None:
        config = encoder(gpu=GpuPlacement(rate_limited=True))
        (resource,) = config.instance_group[0].rate_limiter.resources
        assert (resource.name, resource.count, resource.count) == ("longserve_gpu", 1, 1)
        assert not getattr(resource, "global")
        assert not encoder(gpu=GpuPlacement()).instance_group[0].rate_limiter.resources


class TestCommand:
    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(repo_command, arguments)

    def test_gpu_options_reach_the_configuration(self, make_bundle: MakeBundle, tmp_path: Path) -> None:
        target = str(tmp_path / "repository")
        given = ["--backend", "onnxruntime", "--device", "gpu", "--gpu", "1", "--gpu-memory", "512"]
        given += ["--accelerator", "tensorrt", "--gpu-cache", "/cache", "--rate-limited", "--response-cache"]
        given += ["--gpu-profile", "batch=1:1:16,tokens=1:4096:16384", "--gpu-workspace", "3"]
        result = self.run(str(make_bundle()), "--name", "name", "-o", target, *given)
        assert result.exit_code == 0, result.output
        text = (tmp_path / "repository" / "name_encoder" / "config.pbtxt").read_text(encoding="utf-8")
        config = configuration.parse_config(text, "test")
        assert parameters(config)["gpu_mem_limit"] == str(512 << 20)
        assert accelerators(config)["tensorrt"]["trt_profile_opt_shapes"].startswith("input_ids:4096,")
        assert accelerators(config)["tensorrt"]["trt_engine_cache_path"] == "/cache"
        assert accelerators(config)["tensorrt"]["max_workspace_size_bytes"] == str(3 << 20)
        assert list(config.instance_group[0].gpus) == [1]
        text = (tmp_path / "repository" / "name" / "config.pbtxt").read_text(encoding="utf-8")
        assert parameters(configuration.parse_config(text, "test"))["response_cache"] == str(64 << 20)

    def test_the_cache_needs_a_text_model(self, make_bundle: MakeBundle, tmp_path: Path) -> None:
        bundle = make_bundle(has_tokenizer=False)
        with pytest.raises(RepositoryError, match=r"no tokenizer, .* leave --response-cache out"):
            build_repository(bundle, "name", tmp_path / "r", RepositoryOptions(response_cache=True))

    def test_a_plan_means_a_gpu(self, make_bundle: MakeBundle, tmp_path: Path) -> None:
        path = make_bundle()
        plan = write_plan(tmp_path / "engine", Bundle.open(path))
        given = [str(path), "--name", "name", "-o", str(tmp_path / "r"), "--max-batch-size", "4"]
        given += ["--backend", "tensorrt", "--plan", str(plan)]
        assert self.run(*given).exit_code == 0
        refused = self.run(*given, "--device", "cpu")
        assert refused.exit_code == 2 and "--plan runs on a GPU" in refused.output

    @pytest.mark.parametrize(
        "given", [["--gpu", "0"], ["--gpu-memory", "5"], ["--device", "cpu", "--allow-tf32"]]
    )
    def test_options_for_gpus_without_one_are_refused(
        self, make_bundle: MakeBundle, tmp_path: Path, given: list[str]
    ) -> None:
        result = self.run(str(make_bundle()), "--name", "name", "-o", str(tmp_path / "r"), *given)
        assert result.exit_code == 2 and "add --device gpu" in result.output
