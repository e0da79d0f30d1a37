"""How requests wait, are batched and run: queues, batches, instances, threads."""

from __future__ import annotations

from collections.abc import Iterator

from tritonclient.grpc import model_config_pb2 as triton

from .findings import Finding
from .models import Model, Surroundings, error, warning

__all__ = ["check_batching", "check_encoder_queue", "check_instances", "check_queue", "check_threads"]


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
            "there is no dynamic_batching, so every request runs alone and the queue has no limit",
            "add dynamic_batching with a default_queue_policy, or build the model again",
        )


def check_queue(model: Model, around: Surroundings) -> Iterator[Finding]:
    """Overload must be answered at once, not by a queue that grows."""
    if not model.config.HasField("dynamic_batching"):
        return
    policy = model.config.dynamic_batching.default_queue_policy
    where, fix = model.config_file, "in dynamic_batching.default_queue_policy set "
    if policy.max_queue_size == 0:
        yield error(
            "no-queue-limit",
            where,
            "max_queue_size is 0: the queue has no limit and grows under overload until memory ends",
            fix + "max_queue_size (128 is `longserve repo`'s)",
        )
    if policy.default_timeout_microseconds == 0:
        yield warning(
            "no-queue-timeout",
            where,
            "default_timeout_microseconds is 0: a request waits for ever, also after its caller has gone",
            fix + "default_timeout_microseconds",
        )
    elif policy.timeout_action != triton.ModelQueuePolicy.REJECT:
        yield warning(
            "late-requests-run",
            where,
            "timeout_action is DELAY: a request whose time is over is run all the same",
            fix + "timeout_action: REJECT",
        )
    if not policy.allow_timeout_override:
        yield warning(
            "deadlines-ignored",
            where,
            "allow_timeout_override is false: the deadlines that clients send do not count in the queue",
            fix + "allow_timeout_override: true",
        )


def check_encoder_queue(model: Model, around: Surroundings) -> Iterator[Finding]:
    """What the text models send at the same time must fit into their encoder's queue."""
    if model.is_text_model or not model.config.HasField("dynamic_batching"):
        return
    size = model.config.dynamic_batching.default_queue_policy.max_queue_size
    senders = list(around.text_models_of(model))
    in_flight = sum(sender.instances * (sender.number("max_in_flight") or 0) for sender in senders)
    if 0 < size < in_flight:
        names = ", ".join(sender.name for sender in senders)
        yield error(
            "encoder-queue-too-small",
            model.config_file,
            f"max_queue_size is {size}, but {names} may send {in_flight} sequences at the same time "
            "(instances times max_in_flight), so a single long document can be refused",
            f"set max_queue_size to {in_flight} or more, or lower max_in_flight",
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
    """Encoder instances must not compete for cores."""
    if model.is_text_model:
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
