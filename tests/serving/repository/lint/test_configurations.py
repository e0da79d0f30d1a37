"""Each thing that people get wrong in a configuration, done to one that was built right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2 as triton

from longserve.serving import Task
from longserve.serving.repository import Backend
from longserve.serving.repository.lint import Severity

from .conftest import ENCODER, NAME, Repository, drop, of, parameter, put

Build = Callable[..., Repository]
CLASSIFY, ASK = Task.TEXT_CLASSIFICATION, Task.QUESTION_ANSWERING
PYTHON, ONNXRUNTIME = Backend.PYTHON, Backend.ONNXRUNTIME
ERROR, WARNING = Severity.ERROR, Severity.WARNING


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
    "Triton's response cache at the encoder": (
        CLASSIFY,
        PYTHON,
        ENCODER,
        put("response_cache.enable", True),
        "triton-response-cache",
        "response_cache is enabled",
        ERROR,
    ),
    "Triton's response cache at the text model": (
        CLASSIFY,
        PYTHON,
        NAME,
        put("response_cache.enable", True),
        "triton-response-cache",
        "response_cache is enabled",
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
