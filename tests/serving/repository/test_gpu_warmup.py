"""The runs that warm up the profiles of TensorRT engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from longserve.serving import Bundle, Task
from longserve.serving.cli.server import repo_command
from longserve.serving.repository import Backend, RepositoryOptions, build_repository
from longserve.serving.repository import config as configuration
from longserve.serving.repository.gpu_placement import Accelerator, GpuPlacement
from longserve.serving.repository.lint import Target, lint_repository
from longserve.serving.repository.warmup import profile_samples
from longserve.serving.runtime.manifest import Layout
from longserve.serving.runtime.profiles import OptimizationProfile, default_profiles, parse_profile

from .conftest import make_manifest
from .plans import record_of, write_plan

MakeBundle = Callable[..., Path]


class TestWarmup:
    @pytest.mark.parametrize("task", list(Task))
    @pytest.mark.parametrize("texts", [None, ("batch=1:1:4,tokens=1:1:1", "batch=1:1:4,tokens=2:3000:4096")])
    def test_each_profile_is_warmed_by_a_valid_run_of_its_own(
        self, task: Task, texts: tuple[str, ...] | None
    ) -> None:
        manifest = make_manifest(task)
        profiles: tuple[OptimizationProfile, ...] = default_profiles(Layout.PACKED, 1024, sequences=4)
        if texts is not None:
            profiles = tuple(parse_profile(text, Layout.PACKED) for text in texts)
        record = record_of(manifest, profiles=profiles)
        for index, sample in enumerate(profile_samples(manifest, profiles, 4)):
            (length,) = {array.size for array in sample.tensors.values()}
            assert length <= manifest.max_length
            feeds = {name: np.tile(array, sample.requests) for name, array in sample.tensors.items()}
            ends = np.cumsum([length] * sample.requests, dtype=np.int32)
            assert record.check_run({**feeds, "sequence_ends": ends}) == index

    @pytest.mark.parametrize(
        ("max_batch_size", "texts", "runs"),
        [
            (1, None, {"profile0": (1, 128), "profile1": (1, 1024)}),
            (2, None, {"profile0": (1, 128), "profile1": (1, 1024), "profile2": (2, 1024)}),
            (
                2,
                ("batch=1:1:4,tokens=1:1024:2048", "batch=1:1:4,tokens=2049:3000:4096"),
                {"profile0": (1, 1024)},
            ),
            (
                4,
                ("batch=1:1:4,tokens=1:9:1026", "batch=1:1:4,tokens=1027:1027:1029"),
                {"profile0": (1, 9), "profile1": (2, 514)},
            ),
            (4, ("batch=3:3:4,tokens=1:9:1024",), {"profile0": (3, 3)}),
        ],
    )
    def test_a_profile_that_no_batch_reaches_is_left_out(
        self, max_batch_size: int, texts: tuple[str, ...] | None, runs: dict[str, tuple[int, int]]
    ) -> None:
        manifest = make_manifest()
        profiles = default_profiles(Layout.PACKED, 1024, sequences=8)
        if texts is not None:
            profiles = tuple(parse_profile(text, Layout.PACKED) for text in texts)
        samples = profile_samples(manifest, profiles, max_batch_size)
        assert {s.name: (s.requests, s.tensors["input_ids"].size) for s in samples} == runs

    @pytest.mark.parametrize("backend", [Backend.ONNXRUNTIME, Backend.PYTHON])
    def test_the_tensorrt_accelerators_profiles_are_warmed_too(
        self, make_bundle: MakeBundle, tmp_path: Path, backend: Backend
    ) -> None:
        """The first run in a profile is not left to a caller."""
        runs = {"profile0": (1, 128), "profile1": (1, 1024), "profile2": (8, 1024)}
        if backend is Backend.PYTHON:  # whose runs have at most 8192 tokens
            runs["profile2"] = (4, 1024)
        for accelerator, expected in (
            (Accelerator.TENSORRT, runs),
            (Accelerator.CUDA, {"short": (2, 64), "long": (1, 512)}),
        ):
            options = RepositoryOptions(backend=backend, gpu=GpuPlacement(accelerator=accelerator))
            built = build_repository(make_bundle(accelerator.value), "name", tmp_path / "r", options)
            text = (built.encoder / "config.pbtxt").read_text(encoding="utf-8")
            config = configuration.parse_config(text, "test")
            samples = {
                sample.name: (sample.batch_size, sample.inputs["input_ids"].dims[0])
                for sample in config.model_warmup
            }
            assert samples == expected

    def test_its_context_is_left_out_too_and_the_command_says_so(
        self, make_bundle: MakeBundle, tmp_path: Path
    ) -> None:
        path = make_bundle()
        plan = write_plan(tmp_path / "engine", Bundle.open(path))
        given = [str(path), "--name", "name", "-o", str(tmp_path / "r"), "--max-batch-size", "1"]
        result = CliRunner().invoke(repo_command, [*given, "--backend", "tensorrt", "--plan", str(plan)])
        assert result.exit_code == 0, result.output
        assert "no batch reaches the engine's profile batch=1:1:4,tokens=1025:2048:4096" in result.stderr
        text = (tmp_path / "r" / "name_encoder" / "config.pbtxt").read_text(encoding="utf-8")
        config = configuration.parse_config(text, "test")
        assert list(config.instance_group[0].profile) == ["0", "1"]
        assert [sample.name for sample in config.model_warmup] == ["profile0", "profile1"]
        found = lint_repository(tmp_path / "r", server=Target.CONTAINER, cores=8)
        assert [finding for finding in found if finding.rule == "bad-warmup"] == []
