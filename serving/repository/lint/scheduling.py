"""How requests wait, are batched and run: queues, batches, instances, threads."""

from __future__ import annotations

from collections.abc import Iterator

from .findings import Finding
from .models import Model, Surroundings, error, warning

__all__ = ["check_batching", "check_instances", "check_queue", "check_response_cache", "check_threads"]

_BOUNDS = {
    "max_queue_size": "how many requests may wait under overload is not bounded",
    "queue_timeout": "how long a request may wait is not bounded",
}


def check_batching(model: Model, around: Surroundings) -> Iterator[Finding]:
    """Requests must be batched."""
    config = model.config
    if config.max_batch_size < 1:
        yield error(
            "no-batching",
            model.config_file,
            f"max_batch_size is {config.max_batch_size}, so every request runs alone",
            "set max_batch_size (16 is `longserve repo`'s), or build the model again",
        )
    if not config.HasField("dynamic_batching"):
        yield error(
            "no-batching",
            model.config_file,
            "there is no dynamic_batching, so every request runs alone",
            "add dynamic_batching { }, or build the model again",
        )


def check_queue(model: Model, around: Surroundings) -> Iterator[Finding]:
    """Overload must be answered at once, and by the text model itself: Triton's queue policy has a price."""
    if model.config.dynamic_batching.HasField("default_queue_policy"):
        yield warning(
            "queue-policy",
            model.config_file,
            "dynamic_batching has a default_queue_policy, with which Triton stops fetching ahead and its "
            "batcher may sleep for half a second beside a free model",
            "remove it; a text model bounds what it holds by its parameter max_queue_size",
        )
    if not model.is_text_model:
        return
    for name, why in _BOUNDS.items():
        value = model.parameters.get(name, "")
        if not _is_positive(value):
            yield error(
                "no-queue-limit",
                model.config_file,
                f"the parameter {name} is {value!r}; {why}",
                f"set it to a positive number, or build the model again with --{name.replace('_', '-')}",
            )


def _is_positive(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def check_response_cache(model: Model, around: Surroundings) -> Iterator[Finding]:
    """Triton's own cache must be off: its key leaves out shapes and parameters, and it keeps errors."""
    if model.config.response_cache.enable:
        yield error(
            "triton-response-cache",
            model.config_file,
            "response_cache is enabled, but Triton's cache takes requests of other shapes or options for the "
            "same, and gives an error back as an answer without outputs",
            "remove it; `longserve repo --response-cache` has the text model keep the encoder's answers",
        )


def check_instances(model: Model, around: Surroundings) -> Iterator[Finding]:
    """Instances must be stated, and on a device that the server has."""
    if not model.config.instance_group:
        yield warning(
            "no-instance-group",
            model.config_file,
            "there is no instance_group, so Triton chooses: one instance per GPU where there are any",
            "add instance_group { count: 1 kind: KIND_CPU }",
        )
    if model.is_text_model and model.config.model_transaction_policy.decoupled:
        yield error(
            "decoupled",
            model.config_file,
            "model_transaction_policy.decoupled is true, but the model gives one response per request",
            "set it to false",
        )


def check_threads(model: Model, around: Surroundings) -> Iterator[Finding]:
    """Encoder instances must not compete for cores; on a GPU they hardly use any."""
    if model.is_text_model or model.uses_gpu:
        return
    instances = model.instances
    name = "threads" if model.uses_python else "intra_op_thread_count"
    threads = model.number(name)
    if threads is None:
        return
    if threads == 0:
        if model.uses_python or instances == 1:
            return  # all cores, shared among the instances
        threads = around.cores
    if threads * instances > around.cores:
        yield warning(
            "too-many-threads",
            model.config_file,
            f"{instances} instances of {threads} threads are {threads * instances} threads for "
            f"{around.cores} cores: they slow each other down",
            f"set {name} to {max(1, around.cores // instances)}, or count to "
            f"{max(1, around.cores // threads)}; if the server has more cores, give --cores",
        )
