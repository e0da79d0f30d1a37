"""The encoder as a Triton model: token ids in, logits out (python backend).

Triton hands `execute` requests of different lengths, which its dynamic batcher put together because the
inputs allow ragged batches. Their sequences go end to end into one run of the packed graph,
without padding.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from longserve_runtime.bundle import Bundle
from longserve_runtime.cores import available_cores
from longserve_runtime.engine import (
    EngineName,
    EngineSettings,
    InferencePrecision,
    TensorRtEngine,
    encode,
    open_packed_engine,
)
from longserve_runtime.errors import EngineError, InvalidInput
from longserve_runtime.gpu_settings import Arena, GpuSettings
from longserve_runtime.manifest import Layout, Manifest
from longserve_runtime.metrics import EncoderMetrics
from longserve_runtime.packing import EncoderOutput, EncoderSequence, check_sequence
from longserve_runtime.pauses import PauseWatch
from longserve_runtime.profiles import parse_profile
from longserve_runtime.runs import plan_runs

_SENDERS = 4
_NAMES = ("input_ids", "global_attention_mask", "token_type_ids")


@dataclass(slots=True)
class _Work:
    """One request: who takes its answer, its sequences or why there are none, and what became of them."""

    sender: Any
    sequences: list[EncoderSequence]
    error: Any = None
    outputs: list[EncoderOutput] | None = None


class TritonPythonModel:
    """Loads the packed graph of a bundle and runs it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check the files against the manifest and load the graph."""
        config = json.loads(args["model_config"])
        parameters = {key: entry["string_value"] for key, entry in config["parameters"].items()}
        directory = Path(args["model_repository"]) / args["model_version"]
        engine = EngineName(parameters["engine"])
        # the engine's plan has its hash in a record of its own
        bundle = Bundle.open(directory, only=() if engine is EngineName.TENSORRT else _graph_files(directory))
        self._manifest = bundle.manifest
        self._max_tokens = int(parameters["max_tokens_per_run"])
        instances = sum(group["count"] for group in config["instance_group"])
        threads = int(parameters["threads"]) or max(1, available_cores() // instances)
        settings = EngineSettings(
            engine=engine,
            inference_precision=InferencePrecision(parameters["inference_precision"]),
            threads=threads,
            spin_between_runs=False,  # Triton and the text model need the cores then
            **_gpu(args, parameters, engine),
        )
        self._engine = open_packed_engine(bundle, settings)
        self._metrics = EncoderMetrics(
            pb_utils.MetricFamily,
            {"model": args["model_name"], "version": args["model_version"]},
            {**bundle.described(), "engine": self._engine.runs_on},
        )
        self._pauses = PauseWatch()
        self._sending = ThreadPoolExecutor(_SENDERS, thread_name_prefix="sender")
        name = args["model_instance_name"]
        pb_utils.Logger.log_info(
            f"{name}: bundle {bundle.fingerprint[:12]} ({self._manifest.precision.value}) on "
            f"{self._engine.runs_on}, {threads} threads"
        )
        if not self._manifest.validated:
            pb_utils.Logger.log_warn(
                f"{name}: this bundle was exported without validation; nobody has compared it with PyTorch. "
                "Run `longserve validate`, or export it again"
            )
        if isinstance(self._engine, TensorRtEngine) and self._engine.record.validation is None:
            pb_utils.Logger.log_warn(
                f"{name}: this engine was built where it could not be run; nobody has compared it with the "
                "bundle. Build it with `longserve tensorrt` on a machine with this GPU"
            )

    def finalize(self) -> None:
        """Let go of the metrics: one that outlives its model ends the process with a fault of memory."""
        self._sending.shutdown()
        self._pauses.close()
        del self._metrics
        if isinstance(self._engine, TensorRtEngine):
            self._engine.close()  # keeps what it compiled

    def execute(self, requests: list[Any]) -> None:
        """Run all sequences of all requests; a bad request gets its error and does not touch the others.

        Each is answered through its own sender. A list of answers, returned, would go to whatever requests
        Triton waits for by then (`pauses.py`).
        """
        with self._pauses.executing():
            work = [self._read(request) for request in requests]
            sequences = [(item, index) for item in work for index in range(len(item.sequences))]
            for run in plan_runs([w.sequences[i].input_ids.size for w, i in sequences], self._max_tokens):
                self._run([sequences[position] for position in run])
            responses = [_respond(item) for item in work]
        for item, response in zip(work, responses, strict=True):
            self._sending.submit(self._send, item.sender, response)

    def _send(self, sender: Any, response: Any) -> None:
        self._pauses.look()
        try:
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except pb_utils.TritonModelException as error:
            pb_utils.Logger.log_error(f"a response could not be sent: {error}")

    def _run(self, members: Sequence[tuple[_Work, int]]) -> None:
        members = [(item, index) for item, index in members if item.error is None]
        if not members:
            return
        try:
            sequences = [item.sequences[index] for item, index in members]
            outputs = encode(self._engine, sequences, self._manifest, self._metrics)
        except EngineError as error:
            pb_utils.Logger.log_error(f"a run of {len(members)} sequences failed: {error}")
            for item, _ in members:
                item.error = pb_utils.TritonError(str(error), pb_utils.TritonError.INTERNAL)
            return
        for (item, _), output in zip(members, outputs, strict=True):
            item.outputs = [*(item.outputs or []), output]

    def _read(self, request: Any) -> _Work:
        sender = request.get_response_sender()
        try:
            return _Work(sender, _sequences(request, self._manifest))
        except InvalidInput as error:
            return _Work(sender, [], pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))


def _gpu(args: dict[str, str], parameters: dict[str, str], engine: EngineName) -> dict[str, Any]:
    """The settings of an instance on a GPU, whose number Triton gives; none for one on the CPU."""
    if args["model_instance_kind"] != "GPU":
        return {}
    limit, workspace = parameters.get("gpu_memory_limit"), parameters.get("gpu_workspace")
    profiles = [text for text in parameters.get("gpu_profiles", "").split(";") if text]
    settings = GpuSettings(
        device=int(args["model_instance_device_id"]),
        memory_limit=None if limit is None else int(limit),
        arena=Arena(parameters["gpu_arena"]),
        allow_tf32=parameters["allow_tf32"] == "true",
        profiles=tuple(parse_profile(text, Layout.PACKED) for text in profiles),
        workspace=None if workspace is None else int(workspace),
        cache=parameters["gpu_cache"],
    )
    if engine is EngineName.TENSORRT:
        return {"gpu": settings}
    return {"gpu": settings, "provider": parameters["provider"]}


def _graph_files(directory: Path) -> set[str]:
    """The files that the packed graph consists of."""
    manifest = Bundle.open(directory, only=()).manifest
    data = {record.name for record in manifest.files if record.name.endswith(".data")}
    return {manifest.graph(Layout.PACKED).file} | data


def _sequences(request: Any, manifest: Manifest) -> list[EncoderSequence]:
    """Return the checked sequences of one request, whose tensors are `[rows, tokens]`.

    Raises:
        InvalidInput: a row is unfit for the model.
    """
    tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in _NAMES}
    rows = {name: tensor.as_numpy() for name, tensor in tensors.items() if tensor is not None}
    sequences = []
    for index in range(rows["input_ids"].shape[0]):
        sequence = EncoderSequence(**{name: array[index] for name, array in rows.items()})
        try:
            check_sequence(sequence, manifest)
        except InvalidInput as error:
            if rows["input_ids"].shape[0] == 1:
                raise
            raise InvalidInput(f"row {index}: {error}", reason=error.reason) from None
        sequences.append(sequence)
    return sequences


def _respond(work: _Work) -> Any:
    if work.error is not None:
        return pb_utils.InferenceResponse(error=work.error)
    outputs = work.outputs or []
    tensors = [
        pb_utils.Tensor(name, np.stack([getattr(output, name) for output in outputs]))
        for name in ("logits", "start_logits", "end_logits")
        if getattr(outputs[0], name) is not None
    ]
    return pb_utils.InferenceResponse(output_tensors=tensors)
