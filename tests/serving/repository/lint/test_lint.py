"""Each thing that people get wrong, done to a repository that was built right."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2 as triton

from longserve.serving import Task
from longserve.serving.repository import Backend, build_repository
from longserve.serving.repository.lint import Severity, Target, lint_repository
from longserve.serving.repository.lint import machine as machine_rules
from longserve.serving.runtime.engine_settings import EngineName
from longserve.serving.runtime.errors import TritonNotFound
from longserve.serving.server.environment import Fitness
from longserve.serving.server.installation import TritonInstallation

from .conftest import ENCODER, NAME, Repository

Build = Callable[..., Repository]
CLASSIFY, ASK = Task.TEXT_CLASSIFICATION, Task.QUESTION_ANSWERING
PYTHON, ONNXRUNTIME = Backend.PYTHON, Backend.ONNXRUNTIME
ERROR, WARNING = Severity.ERROR, Severity.WARNING


@pytest.mark.parametrize("portable", [False, True], ids=["", "portable"])
@pytest.mark.parametrize("token_types", [1, 2])
@pytest.mark.parametrize("engine", list(EngineName))
@pytest.mark.parametrize("backend", list(Backend))
@pytest.mark.parametrize("task", list(Task))
def test_what_was_just_built_is_clean(
    build: Build, task: Task, backend: Backend, engine: EngineName, token_types: int, portable: bool
) -> None:
    repository = build(task, backend, engine=engine, type_vocab_size=token_types, portable=portable)
    assert repository.lint(cores=1) == []


def test_both_demo_models_together_are_clean(build: Build) -> None:
    build(ASK, name="questions")
    repository = build(CLASSIFY)
    assert len(list(repository.path.iterdir())) == 4
    assert repository.lint() == []


def parameter(name: str, value: str | None) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        if value is None:
            del config.parameters[name]
        else:
            config.parameters[name].string_value = value

    return change


def put(path: str, value: Any) -> Callable[[Any], None]:
    """Set the field that a dotted path names."""

    def change(config: Any) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            config = getattr(config, parent)
        setattr(config, last, value)

    return change


def drop(field: str) -> Callable[[Any], None]:
    return lambda config: config.ClearField(field)


def of(sample: int, tensor: str, change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda config: change(config.model_warmup[sample].inputs[tensor])


def rigid(config: Any) -> None:
    config.input[1].allow_ragged_batch = False


def share_batch_output(config: Any) -> None:
    del config.batch_output[1:]
    config.batch_output[0].target_name.append("end_logits")


POLICY = "dynamic_batching.default_queue_policy"
EDITS: dict[str, tuple[Task, Backend, str, Callable[[Any], Any], str, str, Severity]] = {
    "batch size 0": (
        CLASSIFY,
        PYTHON,
        ENCODER,
        put("max_batch_size", 0),
        "no-batching",
        "max_batch_size is 0",
        ERROR,
    ),
    "no batching": (
        CLASSIFY,
        PYTHON,
        NAME,
        drop("dynamic_batching"),
        "no-batching",
        "no dynamic_batching",
        ERROR,
    ),
    "endless queue": (
        CLASSIFY,
        PYTHON,
        NAME,
        parameter("max_queue_size", "0"),
        "no-queue-limit",
        "max_queue_size is '0'",
        ERROR,
    ),
    "endless waiting": (
        ASK,
        PYTHON,
        NAME,
        parameter("queue_timeout", None),
        "no-queue-limit",
        "queue_timeout is ''",
        ERROR,
    ),
    "a policy for the text model's queue": (
        CLASSIFY,
        PYTHON,
        NAME,
        put(f"{POLICY}.max_queue_size", 128),
        "queue-policy",
        "half a second",
        WARNING,
    ),
    "a policy for the encoder's queue": (
        ASK,
        ONNXRUNTIME,
        ENCODER,
        put(f"{POLICY}.timeout_action", triton.ModelQueuePolicy.DELAY),
        "queue-policy",
        "half a second",
        WARNING,
    ),
    "no instances": (
        CLASSIFY,
        PYTHON,
        ENCODER,
        drop("instance_group"),
        "no-instance-group",
        "one instance per GPU",
        WARNING,
    ),
    "decoupled": (
        CLASSIFY,
        PYTHON,
        NAME,
        put("model_transaction_policy.decoupled", True),
        "decoupled",
        "true",
        ERROR,
    ),
    "threads": (
        CLASSIFY,
        PYTHON,
        ENCODER,
        parameter("threads", "5"),
        "too-many-threads",
        "1 instances of 5 threads are 5 threads for 4 cores",
        WARNING,
    ),
    "threads of the other backend": (
        CLASSIFY,
        ONNXRUNTIME,
        ENCODER,
        parameter("intra_op_thread_count", "8"),
        "too-many-threads",
        "8 threads for 4 cores",
        WARNING,
    ),
    "threads are no number": (
        CLASSIFY,
        PYTHON,
        ENCODER,
        parameter("threads", "all"),
        "bad-parameter",
        "threads is 'all'",
        ERROR,
    ),
    "no byte cap": (
        CLASSIFY,
        PYTHON,
        NAME,
        parameter("max_text_bytes", None),
        "no-cap",
        "max_text_bytes is missing",
        ERROR,
    ),
    "no window cap": (
        ASK,
        PYTHON,
        NAME,
        parameter("max_windows", "0"),
        "no-cap",
        "max_windows is '0'",
        ERROR,
    ),
    "nothing in flight": (
        ASK,
        PYTHON,
        NAME,
        parameter("max_in_flight", None),
        "bad-parameter",
        "max_in_flight is missing",
        ERROR,
    ),
    "runs too small": (
        ASK,
        PYTHON,
        ENCODER,
        parameter("max_tokens_per_run", "1000"),
        "bad-parameter",
        "1000, but one sequence may have 1024",
        ERROR,
    ),
    "other encoder": (
        ASK,
        PYTHON,
        NAME,
        parameter("encoder", "digits_encoder"),
        "no-encoder",
        "'digits_encoder'",
        ERROR,
    ),
    "other bundle named": (
        ASK,
        PYTHON,
        NAME,
        parameter("bundle", "0" * 64),
        "stale-config",
        "parameter bundle is '0000",
        ERROR,
    ),
    "other labels": (
        CLASSIFY,
        PYTHON,
        NAME,
        parameter("labels", '["a", "b", "c"]'),
        "stale-config",
        "labels",
        ERROR,
    ),
    "other length": (
        CLASSIFY,
        PYTHON,
        ENCODER,
        parameter("max_length", "4096"),
        "stale-config",
        "'4096'",
        ERROR,
    ),
    "other name": (
        CLASSIFY,
        PYTHON,
        NAME,
        put("name", "digits"),
        "wrong-name",
        "'digits'",
        ERROR,
    ),
    "no backend": (CLASSIFY, PYTHON, ENCODER, put("backend", ""), "no-backend", "no backend", ERROR),
    "other type": (
        CLASSIFY,
        PYTHON,
        ENCODER,
        lambda c: setattr(c.input[0], "data_type", triton.TYPE_INT32),
        "wrong-tensors",
        "input_ids TYPE_INT32",
        ERROR,
    ),
    "an output too few": (
        ASK,
        PYTHON,
        ENCODER,
        lambda c: c.output.pop(),
        "wrong-tensors",
        "end_logits",
        ERROR,
    ),
    "no ragged batching": (
        ASK,
        PYTHON,
        ENCODER,
        rigid,
        "no-ragged-batching",
        "global_attention_mask",
        ERROR,
    ),
    "no batch input": (
        CLASSIFY,
        ONNXRUNTIME,
        ENCODER,
        drop("batch_input"),
        "no-batch-input",
        "sequence_ends",
        ERROR,
    ),
    "other batch input": (
        CLASSIFY,
        ONNXRUNTIME,
        ENCODER,
        lambda c: setattr(c.batch_input[0], "kind", triton.BatchInput.BATCH_ELEMENT_COUNT),
        "no-batch-input",
        "accumulated",
        ERROR,
    ),
    "shared batch output": (
        ASK,
        ONNXRUNTIME,
        ENCODER,
        share_batch_output,
        "shared-batch-output",
        "start_logits, end_logits",
        ERROR,
    ),
    "no warm-up": (
        CLASSIFY,
        PYTHON,
        ENCODER,
        drop("model_warmup"),
        "no-warmup",
        "first callers wait",
        WARNING,
    ),
    "a text model's warm-up": (
        CLASSIFY,
        PYTHON,
        NAME,
        lambda c: c.model_warmup.add(name="s", batch_size=1),
        "bad-warmup",
        "crashes Triton",
        ERROR,
    ),
    "zeros as a mask": (
        CLASSIFY,
        PYTHON,
        ENCODER,
        of(0, "global_attention_mask", lambda e: setattr(e, "zero_data", True)),
        "bad-warmup",
        "'short' makes up global_attention_mask (zero_data)",
        ERROR,
    ),
    "random ids": (
        CLASSIFY,
        PYTHON,
        ENCODER,
        of(1, "input_ids", lambda e: setattr(e, "random_data", True)),
        "bad-warmup",
        "'long' makes up input_ids (random_data)",
        ERROR,
    ),
    "a sample without file": (
        CLASSIFY,
        PYTHON,
        ENCODER,
        of(0, "input_ids", lambda e: setattr(e, "input_data_file", "gone")),
        "bad-warmup",
        "warmup/gone, which is not there",
        ERROR,
    ),
    "a sample of another size": (
        CLASSIFY,
        PYTHON,
        ENCODER,
        of(0, "input_ids", lambda e: e.dims.__setitem__(0, 63)),
        "bad-warmup",
        "512 bytes, but its dims ask for 504",
        ERROR,
    ),
    "half a sample": (
        ASK,
        PYTHON,
        ENCODER,
        lambda c: c.model_warmup[0].inputs.pop("input_ids"),
        "bad-warmup",
        "gives global_attention_mask, but the model takes",
        ERROR,
    ),
    "too many samples at once": (
        CLASSIFY,
        PYTHON,
        ENCODER,
        lambda c: setattr(c.model_warmup[0], "batch_size", 17),
        "bad-warmup",
        "batch_size 17",
        ERROR,
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edited_configuration_is_found(build: Build, case: str) -> None:
    task, backend, model, change, rule, words, severity = EDITS[case]
    repository = build(task, backend)
    repository.edit(model, change)
    finding = repository.the_only(rule)
    assert words in finding.found
    assert finding.severity is severity
    assert finding.where == f"{model}/config.pbtxt"


def test_outputs_that_are_not_taken_apart(build: Build) -> None:
    repository = build(ASK, ONNXRUNTIME)
    repository.edit(ENCODER, drop("batch_output"))
    assert [finding.rule for finding in repository.lint()] == ["no-batch-output"] * 2


def test_instances_that_each_take_all_cores(build: Build) -> None:
    repository = build(CLASSIFY, ONNXRUNTIME, instances=2)
    repository.edit(ENCODER, parameter("intra_op_thread_count", "0"))
    finding = repository.the_only("too-many-threads")
    assert "8 threads for 4 cores" in finding.found and "intra_op_thread_count to 2" in finding.fix
    assert repository.lint(cores=8) != []
    repository.edit(ENCODER, parameter("intra_op_thread_count", "2"))
    assert repository.lint() == []


@pytest.mark.parametrize(
    ("tensor", "value", "words"),
    [
        ("input_ids", 300, "300 at position 3; legal values are 0 to 299"),
        ("input_ids", -1, "legal values"),
        ("global_attention_mask", 2, "legal values are 0 to 1"),
    ],
)
def test_a_sample_that_the_model_would_refuse(build: Build, tensor: str, value: int, words: str) -> None:
    repository = build()
    file = repository.path / ENCODER / "warmup" / f"short.{tensor}"
    values = np.fromfile(file, dtype="<i8")
    values[3] = value
    file.write_bytes(values.tobytes())
    assert words in repository.the_only("bad-warmup").found


@pytest.mark.parametrize(
    ("model", "file"),
    [(ENCODER, "model.onnx.data"), (ENCODER, "model.packed.onnx"), (NAME, "tokenizer.json")],
)
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_files(build: Build, model: str, file: str, damage: str) -> None:
    repository = build()
    path = repository.path / model / "1" / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[::-1])
    finding = repository.the_only("damaged-bundle")
    assert ("SHA-256" if damage == "changed" else "lacks the file") in finding.found
    assert file in finding.found and finding.where == f"{model}/1"


def test_a_manifest_that_is_none(build: Build) -> None:
    repository = build()
    (repository.path / ENCODER / "1" / "manifest.json").write_text("{}")
    assert "manifest.json" in repository.the_only("damaged-bundle").found


def test_an_unvalidated_bundle(build: Build) -> None:
    findings = build(parity=None).lint()
    assert [(f.rule, f.severity) for f in findings] == [("not-validated", Severity.WARNING)] * 2


def test_models_of_two_bundles(build: Build, make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    repository = build(portable=True)
    other = make_bundle("other", CLASSIFY, model_id="another")
    build_repository(other, NAME, tmp_path / "elsewhere")
    encoder = repository.path / ENCODER
    shutil.rmtree(encoder)
    shutil.copytree(tmp_path / "elsewhere" / ENCODER, encoder)
    finding = repository.the_only("two-bundles")
    assert finding.where == ENCODER and NAME in finding.found


@pytest.mark.parametrize("model", [ENCODER, NAME])
def test_code_that_is_missing_or_changed(build: Build, model: str) -> None:
    repository = build()
    version = repository.path / model / "1"
    with (version / "longserve_runtime" / "pipeline.py").open("a") as module:
        module.write("# mine\n")
    finding = repository.the_only("other-code")
    assert "pipeline.py" in finding.found and finding.severity is Severity.WARNING
    (version / "model.py").unlink()
    finding = repository.the_only("code-missing")
    assert "model.py" in finding.found and finding.severity is Severity.ERROR


def test_versions(build: Build) -> None:
    repository = build()
    (repository.path / NAME / "2").mkdir()
    assert "version 2" in repository.the_only("other-versions").found
    (repository.path / NAME / "2").rmdir()
    shutil.rmtree(repository.path / NAME / "1")
    rules = {finding.rule for finding in repository.lint()}
    assert {"no-version", "damaged-bundle", "code-missing"} == rules


@pytest.mark.parametrize("content", [b'name: "a" oops', b"\xff\xfe", None])
def test_configurations_that_cannot_be_read(build: Build, content: bytes | None) -> None:
    repository = build()
    directory = repository.path / "broken"
    directory.mkdir()
    if content is not None:
        (directory / "config.pbtxt").write_bytes(content)
    finding = repository.the_only("unreadable-config")
    assert finding.where == "broken/config.pbtxt"


def test_what_is_not_ours_is_left_alone(build: Build) -> None:
    repository = build()
    (repository.path / "theirs").mkdir()
    (repository.path / "theirs" / "config.pbtxt").write_text('name: "theirs" backend: "dali"')
    assert repository.the_only("not-ours").severity is Severity.NOTE
    (repository.path / ".longserve-x1").mkdir()
    assert [finding.rule for finding in repository.lint()] == ["left-over", "not-ours"]


def test_repositories_that_hold_nothing(tmp_path: Path) -> None:
    for path, rule in ((tmp_path, "no-models"), (tmp_path / "nowhere", "no-repository")):
        (finding,) = lint_repository(path, server=Target.CONTAINER)
        assert finding.rule == rule and str(path) in finding.found


def test_errors_come_first(build: Build) -> None:
    repository = build()
    repository.edit(ENCODER, drop("model_warmup"))
    repository.edit(NAME, drop("dynamic_batching"))
    assert [finding.severity for finding in repository.lint()] == [Severity.ERROR, Severity.WARNING]


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
            ({"engine": "tensorrt"}, "engine is 'tensorrt'"),
            ({"inference_precision": "fp8"}, "inference_precision is 'fp8'"),
            ({"inference_precision": "bf16"}, "onnxruntime computes in the precision of the graph"),
        ],
    )
    def test_an_engine_that_there_is_not(self, build: Build, parameters: dict[str, str], words: str) -> None:
        repository = build()
        for name, value in parameters.items():
            repository.edit(ENCODER, parameter(name, value))
        assert words in repository.the_only("bad-engine").found

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
