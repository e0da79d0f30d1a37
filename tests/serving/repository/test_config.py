"""The configurations: they parse back to what was built, and say what Triton needs for ragged batches."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2 as triton

from longserve.serving import EngineName, InferencePrecision, RepositoryError, Task
from longserve.serving.repository import Backend, RepositoryOptions
from longserve.serving.repository import config as configuration
from longserve.serving.repository.options import parse_backend
from longserve.serving.repository.warmup import warmup_samples

from .conftest import make_manifest

TASKS = list(Task)
BACKENDS = [Backend.PYTHON, Backend.ONNXRUNTIME]
MAXIMAL: dict[str, Any] = {
    "instances": 2,
    "threads": 3,
    "max_batch_size": 5,
    "max_queue_size": 70,
    "queue_timeout": 1.5,
    "max_queue_delay": 0.004,
    "text_instances": 3,
    "max_in_flight": 7,
    "max_text_bytes": 1000,
    "max_windows": 9,
}


def maximal(backend: Backend) -> dict[str, Any]:
    """Every choice that a backend has."""
    return MAXIMAL | ({"max_tokens_per_run": 5000} if backend is Backend.PYTHON else {})


def encoder(task: Task, backend: Backend, **choices: Any) -> Any:
    changes = {key: choices.pop(key) for key in ("type_vocab_size", "parity") if key in choices}
    manifest = make_manifest(task, **changes)
    options = RepositoryOptions(backend=backend, **choices)
    return configuration.encoder_config(manifest, "name", options, warmup_samples(manifest), "f" * 64)


def text(task: Task, **choices: Any) -> Any:
    return configuration.text_config(make_manifest(task), "name", RepositoryOptions(**choices), "f" * 64)


def parameters(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_text_parses_back_to_the_same_message(task: Task, backend: Backend) -> None:
    for config in (encoder(task, backend, **maximal(backend)), text(task, **MAXIMAL)):
        assert configuration.parse_config(configuration.render_config(config), "test") == config


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_choice_reaches_the_encoder(task: Task, backend: Backend) -> None:
    config = encoder(task, backend, **maximal(backend))
    assert (config.name, config.backend) == ("name_encoder", backend.value)
    assert config.max_batch_size == 5
    assert [(group.kind, group.count) for group in config.instance_group] == [
        (triton.ModelInstanceGroup.KIND_CPU, 2)
    ]
    assert config.dynamic_batching.max_queue_delay_microseconds == 4000
    assert list(config.version_policy.specific.versions) == [1]
    threads = "threads" if backend is Backend.PYTHON else "intra_op_thread_count"
    assert parameters(config)[threads] == "3"
    if backend is Backend.PYTHON:
        assert parameters(config)["max_tokens_per_run"] == "5000"


def test_every_choice_reaches_the_text_model() -> None:
    config = text(Task.QUESTION_ANSWERING, **MAXIMAL)
    assert (config.name, config.backend, config.max_batch_size) == ("name", "python", 5)
    assert config.instance_group[0].count == 3
    assert config.HasField("dynamic_batching")
    assert parameters(config)["max_queue_size"] == "70"
    assert parameters(config)["queue_timeout"] == "1.5"
    assert parameters(config)["encoder"] == "name_encoder"
    assert parameters(config)["max_in_flight"] == "7"
    assert parameters(config)["max_text_bytes"] == "1000"
    assert parameters(config)["max_windows"] == "9"
    assert not config.model_warmup


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_queue_has_a_policy(task: Task, backend: Backend) -> None:
    """With one, Triton's batcher stops fetching ahead and may sleep for half a second beside a free model."""
    for config in (encoder(task, backend, **maximal(backend)), text(task, **MAXIMAL)):
        assert config.HasField("dynamic_batching")
        assert not config.dynamic_batching.HasField("default_queue_policy")


def test_the_text_model_tells_its_labels() -> None:
    assert json.loads(parameters(text(Task.TEXT_CLASSIFICATION))["labels"]) == ["alpha", "beta", "gamma"]
    assert "labels" not in parameters(text(Task.QUESTION_ANSWERING))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_encoders_tensors(backend: Backend) -> None:
    config = encoder(Task.TEXT_CLASSIFICATION, backend)
    assert [item.name for item in config.input] == ["input_ids", "global_attention_mask"]
    for item in config.input:
        assert (item.data_type, list(item.dims), item.allow_ragged_batch) == (triton.TYPE_INT64, [-1], True)
    assert [(item.name, item.data_type, list(item.dims)) for item in config.output] == [
        ("logits", triton.TYPE_FP32, [3])
    ]
    qa = encoder(Task.QUESTION_ANSWERING, backend)
    assert [(item.name, list(item.dims)) for item in qa.output] == [
        ("start_logits", [-1]),
        ("end_logits", [-1]),
    ]


def test_token_types_are_optional_where_the_backend_can_do_it() -> None:
    for backend in BACKENDS:
        config = encoder(Task.TEXT_CLASSIFICATION, backend, type_vocab_size=2)
        optional = {item.name: item.optional for item in config.input}
        assert optional == {
            "input_ids": False,
            "global_attention_mask": False,
            "token_type_ids": backend is Backend.PYTHON,
        }


def test_the_onnxruntime_backend_packs_by_batch_inputs_and_outputs() -> None:
    config = encoder(Task.QUESTION_ANSWERING, Backend.ONNXRUNTIME)
    assert config.default_model_filename == "model.packed.onnx"
    (ends,) = config.batch_input
    assert ends.kind == triton.BatchInput.BATCH_ACCUMULATED_ELEMENT_COUNT
    assert (list(ends.target_name), list(ends.source_input)) == (["sequence_ends"], ["input_ids"])
    assert ends.data_type == triton.TYPE_INT32
    scattered = [
        (entry.kind, list(entry.target_name), list(entry.source_input)) for entry in config.batch_output
    ]
    kind = triton.BatchOutput.BATCH_SCATTER_WITH_INPUT_SHAPE
    assert scattered == [(kind, ["start_logits"], ["input_ids"]), (kind, ["end_logits"], ["input_ids"])]
    assert not encoder(Task.TEXT_CLASSIFICATION, Backend.ONNXRUNTIME).batch_output


@pytest.mark.parametrize("task", TASKS)
def test_the_python_backend_packs_by_itself(task: Task) -> None:
    config = encoder(task, Backend.PYTHON)
    assert not config.batch_input and not config.batch_output and not config.default_model_filename


def test_the_python_backend_is_told_its_engine_and_arithmetic() -> None:
    values = parameters(encoder(Task.TEXT_CLASSIFICATION, Backend.PYTHON))
    assert (values["engine"], values["inference_precision"]) == ("onnxruntime", "fp32")
    choice = {"engine": EngineName.OPENVINO, "inference_precision": InferencePrecision.BF16}
    values = parameters(encoder(Task.TEXT_CLASSIFICATION, Backend.PYTHON, **choice))
    assert (values["engine"], values["inference_precision"]) == ("openvino", "bf16")


def test_what_a_choice_rests_on_is_kept_unless_portable() -> None:
    record = {"engine_record": '{"speedup": {"openvino fp32": 1.2}}'}
    values = parameters(encoder(Task.TEXT_CLASSIFICATION, Backend.PYTHON, **record))
    assert values["engine_measured"] == record["engine_record"]
    portable = parameters(encoder(Task.TEXT_CLASSIFICATION, Backend.PYTHON, portable=True, **record))
    assert "engine_measured" not in portable
    assert "engine_measured" not in parameters(text(Task.TEXT_CLASSIFICATION, **record))


def test_openvino_in_the_onnxruntime_backend_is_its_accelerator() -> None:
    config = encoder(Task.TEXT_CLASSIFICATION, Backend.ONNXRUNTIME, engine=EngineName.OPENVINO)
    accelerators = config.optimization.execution_accelerators
    assert [item.name for item in accelerators.cpu_execution_accelerator] == ["openvino"]
    assert config.batch_input and config.default_model_filename == "model.packed.onnx"
    assert not encoder(Task.TEXT_CLASSIFICATION, Backend.ONNXRUNTIME).HasField("optimization")
    assert not encoder(Task.TEXT_CLASSIFICATION, Backend.PYTHON, engine=EngineName.OPENVINO).HasField(
        "optimization"
    )


@pytest.mark.parametrize(
    ("choice", "cause"),
    [
        (
            {"inference_precision": InferencePrecision.BF16},
            "accelerator .* computes in fp32 and takes no other",
        ),
        ({"threads": 2}, "threads is 2 and instances 1, but .* takes no number of threads"),
        ({"instances": 2}, "threads is 0 and instances 2, but"),
    ],
)
def test_what_the_accelerator_cannot_be_told_is_refused(choice: dict[str, Any], cause: str) -> None:
    with pytest.raises(RepositoryError, match=cause):
        RepositoryOptions(backend=Backend.ONNXRUNTIME, engine=EngineName.OPENVINO, **choice)


def test_bf16_without_openvino_is_refused() -> None:
    for backend in BACKENDS:
        with pytest.raises(RepositoryError, match="onnxruntime computes in the precision of the graph"):
            RepositoryOptions(backend=backend, inference_precision=InferencePrecision.BF16)


def test_backends_are_read_and_the_unfit_ones_refused_with_the_reason() -> None:
    assert [parse_backend(backend.value) for backend in BACKENDS] == BACKENDS
    with pytest.raises(RepositoryError, match="has no ragged batching"):
        parse_backend("openvino")
    with pytest.raises(RepositoryError, match="'tensorflow'; give python or onnxruntime"):
        parse_backend("tensorflow")


def test_the_onnxruntime_backend_keeps_no_arena_and_shares_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "available_cores", lambda: 8)
    values = parameters(encoder(Task.TEXT_CLASSIFICATION, Backend.ONNXRUNTIME, instances=2))
    assert values["intra_op_thread_count"] == "4"
    assert values["enable_mem_arena"] == values["enable_mem_pattern"] == "0"
    one = parameters(encoder(Task.TEXT_CLASSIFICATION, Backend.ONNXRUNTIME))
    assert one["intra_op_thread_count"] == "0"  # every core of the machine that serves


@pytest.mark.parametrize(("size", "requests"), [(1, [1, 1]), (8, [2, 1])])
def test_a_warmup_run_is_no_larger_than_a_batch(size: int, requests: list[int]) -> None:
    """Triton does not load a model whose sample is: `batch size 2 …, max allowed is 1`."""
    config = encoder(Task.QUESTION_ANSWERING, Backend.PYTHON, max_batch_size=size)
    assert [sample.batch_size for sample in config.model_warmup] == requests


def test_the_text_models_tensors() -> None:
    def tensors(items: Any) -> list[tuple[str, int, list[int]]]:
        return [(item.name, item.data_type, list(item.dims)) for item in items]

    classifier = text(Task.TEXT_CLASSIFICATION)
    assert tensors(classifier.input) == [("TEXT", triton.TYPE_STRING, [1])]
    assert tensors(classifier.output) == [
        ("LABEL", triton.TYPE_STRING, [-1]),
        ("SCORE", triton.TYPE_FP32, [-1]),
        ("TOKENS", triton.TYPE_INT32, [1]),
        ("WINDOWS", triton.TYPE_INT32, [1]),
        ("WINDOW_RESULTS", triton.TYPE_STRING, [1]),
    ]
    qa = text(Task.QUESTION_ANSWERING)
    assert tensors(qa.input) == [("QUESTION", triton.TYPE_STRING, [1]), ("CONTEXT", triton.TYPE_STRING, [1])]
    assert tensors(qa.output) == [
        ("ANSWER", triton.TYPE_STRING, [-1]),
        ("SCORE", triton.TYPE_FP32, [-1]),
        ("START", triton.TYPE_INT32, [-1]),
        ("END", triton.TYPE_INT32, [-1]),
        ("TOKENS", triton.TYPE_INT32, [1]),
        ("WINDOWS", triton.TYPE_INT32, [1]),
        ("WINDOW_RESULTS", triton.TYPE_STRING, [1]),
    ]


def test_the_bundle_is_named_unless_portable() -> None:
    for portable in (False, True):
        for config in (
            encoder(Task.TEXT_CLASSIFICATION, Backend.PYTHON, portable=portable),
            text(Task.TEXT_CLASSIFICATION, portable=portable),
        ):
            assert parameters(config).get("bundle") == (None if portable else "f" * 64)
            assert parameters(config)["precision"] == "fp32"
            assert parameters(config)["validated"] == "true"


def test_an_unvalidated_bundle_is_called_so() -> None:
    config = encoder(Task.TEXT_CLASSIFICATION, Backend.PYTHON, parity=None)
    assert parameters(config)["validated"] == "false"


def test_a_run_must_have_room_for_a_sequence() -> None:
    with pytest.raises(RepositoryError, match="1024 or more"):
        encoder(Task.TEXT_CLASSIFICATION, Backend.PYTHON, max_tokens_per_run=1000)


def test_text_that_is_no_configuration_is_refused() -> None:
    with pytest.raises(RepositoryError, match=r"here\.pbtxt"):
        configuration.parse_config("nonsense {", "here.pbtxt")


@pytest.mark.parametrize(
    ("choice", "value"),
    [
        ("instances", 0),
        ("threads", -1),
        ("max_batch_size", 0),
        ("max_queue_size", 0),
        ("queue_timeout", 0.0),
        ("text_instances", 0),
        ("max_in_flight", 0),
    ],
)
def test_impossible_choices_are_refused(choice: str, value: float) -> None:
    with pytest.raises(RepositoryError, match=f"{choice} is {value}"):
        RepositoryOptions(**{choice: value})  # type: ignore[arg-type]
