"""Triton model configurations, as protobuf messages.

The messages are those of `model_config.proto` (triton-inference-server/common), which tritonclient ships.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

from ..runtime.cores import available_cores
from ..runtime.engine_settings import EngineName
from ..runtime.errors import RepositoryError
from ..runtime.manifest import Layout, Manifest, Task
from ..runtime.tensorrt_record import EngineRecord
from .gpu_config import (
    check_engine_fits,
    default_run,
    largest_run,
    onnxruntime_parameters,
    place_on_gpus,
    python_parameters,
    use_plan,
)
from .options import RESPONSE_CACHE_BYTES, Backend, RepositoryOptions
from .warmup import INPUT_IDS, WarmupSample

__all__ = [
    "SCHEMA_PARAMETER",
    "SEQUENCE_ENDS",
    "TRITON_TYPES",
    "encoder_config",
    "encoder_name",
    "parse_config",
    "render_config",
    "text_config",
]

SCHEMA_PARAMETER = "longserve_schema"
"""Parameter that marks a model as written by longserve."""
_SCHEMA = "1"
SEQUENCE_ENDS = "sequence_ends"
"""The packed graph's input that says where each sequence ends."""
_TOKEN_TYPE_IDS = "token_type_ids"
_HEADER = "# Written by `longserve repo`; build it again instead of editing it.\n"
_MICROSECONDS = 1_000_000
TRITON_TYPES = {"int64": triton.TYPE_INT64, "int32": triton.TYPE_INT32, "float32": triton.TYPE_FP32}
"""A manifest's element type to Triton's."""


def encoder_name(name: str) -> str:
    """Name of the encoder that belongs to the text model `name`."""
    return f"{name}_encoder"


def encoder_config(
    manifest: Manifest,
    name: str,
    options: RepositoryOptions,
    samples: tuple[WarmupSample, ...],
    fingerprint: str,
    record: EngineRecord | None = None,
) -> Any:
    """Return the `ModelConfig` of the encoder.

    Args:
        manifest: the bundle's manifest.
        name: the text model's name.
        options: see `RepositoryOptions`.
        samples: what the encoder runs before it counts as ready.
        fingerprint: the bundle's; left out of a portable configuration.
        record: of the TensorRT engine that runs it; None: it runs the graph.

    Raises:
        RepositoryError: the options or the engine do not fit the bundle.
    """
    if record is not None:
        check_engine_fits(record, manifest, fingerprint, options.max_batch_size)
    config = _base(encoder_name(name), options.backend, options)
    graph = manifest.graph(Layout.PACKED)
    for tensor in graph.inputs:
        if tensor.name == SEQUENCE_ENDS:
            continue
        config.input.add(
            name=tensor.name,
            data_type=_triton_type(tensor.dtype),
            dims=[-1],
            allow_ragged_batch=True,
            # NVIDIA's onnxruntime backend refuses an optional ragged input.
            optional=tensor.name == _TOKEN_TYPE_IDS and options.backend is Backend.PYTHON,
        )
    for tensor in graph.outputs:
        width = tensor.axes[-1] if manifest.task is Task.TEXT_CLASSIFICATION else -1
        if not isinstance(width, int):
            raise RepositoryError(
                f"the graph's output {tensor.name} has no fixed width; export the bundle again"
            )
        config.output.add(name=tensor.name, data_type=_triton_type(tensor.dtype), dims=[width])
    if options.gpu is None:
        config.instance_group.add(kind=triton.ModelInstanceGroup.KIND_CPU, count=options.instances)
    else:
        place_on_gpus(config, options.gpu, options.instances)
    config.dynamic_batching.max_queue_delay_microseconds = round(options.max_queue_delay * _MICROSECONDS)
    if options.backend is Backend.PYTHON:
        _use_python(config, manifest, options, record)
    else:
        _pack_in_triton(config, manifest)
        if record is not None:
            use_plan(config, record, largest_run(manifest, options))
        else:
            _use_onnxruntime(config, manifest, options, name)
    _describe(config, manifest, options, fingerprint)
    if options.engine_record and not options.portable:
        _set_parameters(config, {"engine_measured": options.engine_record})
    for sample in samples:
        _add_warmup(config, sample)
    return config


def text_config(manifest: Manifest, name: str, options: RepositoryOptions, fingerprint: str) -> Any:
    """Return the `ModelConfig` of the text model. It has no warm-up sample: running one would need the
    encoder, which Triton may load later; the model tokenizes a sample itself while it is initialized."""
    config = _base(name, Backend.PYTHON, options)
    classifies = manifest.task is Task.TEXT_CLASSIFICATION
    for text in ("TEXT",) if classifies else ("QUESTION", "CONTEXT"):
        config.input.add(name=text, data_type=triton.TYPE_STRING, dims=[1])
    outputs: list[tuple[str, int, int]]
    if classifies:
        outputs = [("LABEL", triton.TYPE_STRING, -1), ("SCORE", triton.TYPE_FP32, -1)]
    else:
        outputs = [("ANSWER", triton.TYPE_STRING, -1), ("SCORE", triton.TYPE_FP32, -1)]
        outputs += [("START", triton.TYPE_INT32, -1), ("END", triton.TYPE_INT32, -1)]
    outputs += [("TOKENS", triton.TYPE_INT32, 1), ("WINDOWS", triton.TYPE_INT32, 1)]
    outputs += [("WINDOW_RESULTS", triton.TYPE_STRING, 1)]  # sent where the request asks for it
    for output, data_type, width in outputs:
        config.output.add(name=output, data_type=data_type, dims=[width])
    config.instance_group.add(kind=triton.ModelInstanceGroup.KIND_CPU, count=options.text_instances)
    config.dynamic_batching.SetInParent()
    _set_parameters(
        config,
        {
            "encoder": encoder_name(name),
            "max_in_flight": str(options.max_in_flight),
            "max_queue_size": str(options.max_queue_size),
            "queue_timeout": str(options.queue_timeout),
            "max_text_bytes": str(options.max_text_bytes),
            "max_windows": str(options.max_windows),
        },
    )
    if options.response_cache:
        _set_parameters(config, {"response_cache": str(RESPONSE_CACHE_BYTES)})
    if classifies:
        _set_parameters(config, {"labels": json.dumps(manifest.labels, ensure_ascii=False)})
    _describe(config, manifest, options, fingerprint)
    return config


def render_config(config: Any) -> str:
    """Return a `ModelConfig` as the text of `config.pbtxt`."""
    return _HEADER + str(text_format.MessageToString(config))


def parse_config(text: str, source: str) -> Any:
    """Return the `ModelConfig` that a `config.pbtxt` holds.

    Raises:
        RepositoryError: it cannot be parsed.
    """
    try:
        return text_format.Parse(text, triton.ModelConfig())
    except text_format.ParseError as error:
        raise RepositoryError(f"{source} is no Triton model configuration: {error}") from error


def _base(name: str, backend: Backend, options: RepositoryOptions) -> Any:
    """What both models have in common.

    Neither has a queue policy, because with one Triton's batcher may oversee for half a second that the model
    is free (`WaitForPayloadSlotAvailable` in core's dynamic_batch_scheduler.cc; measured with 16 callers: 125
    requests a second instead of 4400). The text model itself bounds what it holds, and so what reaches the
    encoder.
    """
    config = triton.ModelConfig(name=name, backend=backend.value, max_batch_size=options.max_batch_size)
    config.version_policy.specific.versions.append(1)
    config.model_transaction_policy.decoupled = False
    return config


def _use_python(
    config: Any, manifest: Manifest, options: RepositoryOptions, record: EngineRecord | None
) -> None:
    largest = default_run(manifest) if record is None else record.largest_run
    tokens = options.max_tokens_per_run or largest
    if record is not None and tokens > largest:
        raise RepositoryError(
            f"max_tokens_per_run is {tokens}, but the engine takes at most {largest}; give that or less"
        )
    if tokens < manifest.max_length:
        raise RepositoryError(
            f"max_tokens_per_run is {tokens}, but one sequence may have {manifest.max_length} tokens; "
            f"give {manifest.max_length} or more"
        )
    _set_parameters(
        config,
        {
            "engine": options.engine.value,
            "inference_precision": options.inference_precision.value,
            "threads": str(_threads(options)),
            "max_tokens_per_run": str(tokens),
        },
    )
    if options.gpu is not None:
        _set_parameters(config, python_parameters(manifest, options))


def _pack_in_triton(config: Any, manifest: Manifest) -> None:
    """Have Triton itself lay the sequences end to end (ragged batching) and take the outputs apart.

    `BATCH_ACCUMULATED_ELEMENT_COUNT` counts elements per *request*, so a request must hold one sequence.
    """
    config.batch_input.add(
        kind=triton.BatchInput.BATCH_ACCUMULATED_ELEMENT_COUNT,
        target_name=[SEQUENCE_ENDS],
        data_type=triton.TYPE_INT32,
        source_input=[INPUT_IDS],
    )
    if manifest.task is Task.QUESTION_ANSWERING:
        # One entry per output: an entry that names both gets wrong shapes.
        for tensor in manifest.graph(Layout.PACKED).outputs:
            config.batch_output.add(
                kind=triton.BatchOutput.BATCH_SCATTER_WITH_INPUT_SHAPE,
                target_name=[tensor.name],
                source_input=[INPUT_IDS],
            )


def _use_onnxruntime(config: Any, manifest: Manifest, options: RepositoryOptions, name: str) -> None:
    config.default_model_filename = manifest.graph(Layout.PACKED).file
    if options.gpu is not None:
        _set_parameters(config, onnxruntime_parameters(config, manifest, options, encoder_name(name)))
    if options.engine is EngineName.OPENVINO:
        config.optimization.execution_accelerators.cpu_execution_accelerator.add(name="openvino")
    threads = _threads(options)
    if threads == 0 and options.instances > 1:  # 0 means every core to this backend, for each instance
        threads = max(1, available_cores() // options.instances)
    _set_parameters(
        config,
        {
            "intra_op_thread_count": str(threads),
            "inter_op_thread_count": "1",
            "execution_mode": "0",
            # With lengths that vary, the arena grows to the largest batch ever seen and stays there.
            "enable_mem_arena": "0",
            "enable_mem_pattern": "0",
        },
    )


def _threads(options: RepositoryOptions) -> int:
    """On a GPU the processor only computes shapes, for which one thread is enough."""
    return options.threads or (0 if options.gpu is None else 1)


def _describe(config: Any, manifest: Manifest, options: RepositoryOptions, fingerprint: str) -> None:
    described = {
        SCHEMA_PARAMETER: _SCHEMA,
        "task": manifest.task.value,
        "precision": manifest.precision.value,
        "validated": "true" if manifest.validated else "false",
        "max_length": str(manifest.max_length),
    }
    if not options.portable:
        described["bundle"] = fingerprint
    _set_parameters(config, described)


def _set_parameters(config: Any, values: Mapping[str, str]) -> None:
    for key, value in values.items():
        config.parameters[key].string_value = value


def _add_warmup(config: Any, sample: WarmupSample) -> None:
    requests = min(sample.requests, config.max_batch_size)
    warmup = config.model_warmup.add(name=sample.name, batch_size=requests, count=1)
    for tensor, array in sample.tensors.items():
        entry = warmup.inputs[tensor]
        entry.data_type = triton.TYPE_INT64
        entry.dims.append(array.size)
        entry.input_data_file = sample.file_name(tensor)


def _triton_type(dtype: str) -> int:
    if dtype not in TRITON_TYPES:
        raise RepositoryError(f"the graph has a tensor of type {dtype}, which a Longformer's has not")
    return int(TRITON_TYPES[dtype])
