"""What the machine must have that serves a repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from longserve.serving import Task
from longserve.serving.repository import Backend
from longserve.serving.repository.lint import Severity, Target
from longserve.serving.repository.lint import machine as machine_rules
from longserve.serving.runtime.engine_settings import EngineName
from longserve.serving.runtime.errors import TritonNotFound
from longserve.serving.runtime.manifest import Precision
from longserve.serving.server.environment import Fitness
from longserve.serving.server.installation import TritonInstallation

from .conftest import ENCODER, Repository, parameter

Build = Callable[..., Repository]
CLASSIFY = Task.TEXT_CLASSIFICATION
PYTHON = Backend.PYTHON
ONNXRUNTIME = Backend.ONNXRUNTIME


class TestMachine:
    """What the server has: this machine's Triton is the wheel's."""

    def test_the_embedded_server_has_one_backend(self, build: Build) -> None:
        repository = build(CLASSIFY, ONNXRUNTIME)
        finding = repository.the_only("backend-missing", server=Target.EMBEDDED)
        assert "onnxruntime" in finding.found and "--backend python" in finding.fix

    def test_the_embedded_server_runs_python_models(self, build: Build) -> None:
        assert build(CLASSIFY, PYTHON).lint(Target.EMBEDDED) == []

    def test_what_is_found_here_counts(self, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
        repository = build(CLASSIFY, ONNXRUNTIME)
        triton_here = TritonInstallation(executable=Path("/opt/tritonserver"), origin="PATH")
        monkeypatch.setattr(machine_rules, "find_triton", lambda: triton_here)
        assert repository.lint(Target.AUTO) == []

        def nothing() -> TritonInstallation:
            raise TritonNotFound("none")

        monkeypatch.setattr(machine_rules, "find_triton", nothing)
        finding = repository.the_only("no-server", server=Target.AUTO)
        assert finding.severity is Severity.NOTE
        assert repository.the_only("backend-missing", server=Target.EMBEDDED)

    @pytest.mark.parametrize(
        ("parameters", "words"),
        [
            ({"engine": "tvm"}, "engine is 'tvm'"),
            ({"inference_precision": "fp8"}, "inference_precision is 'fp8'"),
            ({"inference_precision": "bf16"}, "onnxruntime computes in the precision of the graph"),
        ],
    )
    def test_an_engine_that_there_is_not(self, build: Build, parameters: dict[str, str], words: str) -> None:
        repository = build()
        for name, value in parameters.items():
            repository.edit(ENCODER, parameter(name, value))
        assert words in repository.the_only("bad-engine").found

    def test_a_precision_that_the_engine_has_no_kernels_for(self, build: Build) -> None:
        repository = build(engine=EngineName.OPENVINO, precision=Precision.BF16)
        assert repository.lint() == []
        repository.edit(ENCODER, parameter("engine", "onnxruntime"))
        assert "in bf16, for which onnxruntime" in repository.the_only("no-kernels").found

    def test_an_engine_that_is_not_installed(self, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
        repository = build(engine=EngineName.OPENVINO)
        monkeypatch.setattr(machine_rules, "visible_packages", lambda: {"onnxruntime": "1.32.0"})
        finding = repository.the_only("engine-missing", server=Target.EMBEDDED)
        assert "'longserve[openvino]'" in finding.fix
        assert repository.lint(Target.CONTAINER) == []
        monkeypatch.setattr(machine_rules, "visible_packages", lambda: {"openvino": "2026.4.1"})
        assert repository.lint(Target.EMBEDDED) == []

    @pytest.mark.parametrize(
        ("check", "rule"),
        [
            ("check_numpy", "unfit-numpy"),
            ("check_packages", "missing-packages"),
            ("check_stub", "no-python-backend"),
            ("check_libpython", "no-libpython"),
        ],
    )
    def test_an_unfit_environment(
        self, build: Build, monkeypatch: pytest.MonkeyPatch, check: str, rule: str
    ) -> None:
        repository = build()
        unfit = Fitness("numpy 2.3.1, with which this Triton returns wrong tensors", "install 'numpy<2'")
        monkeypatch.setattr(machine_rules, check, lambda *_: unfit)
        finding = repository.the_only(rule, server=Target.EMBEDDED)
        assert (finding.severity, finding.where) == (Severity.ERROR, "")
        assert "numpy 2.3.1" in finding.found and finding.fix == unfit.remedy
        assert repository.lint(Target.CONTAINER) == []
