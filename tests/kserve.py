"""Plain KServe v2 calls over both protocols, without our client: HTTP by urllib, gRPC by tritonclient."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from longserve.serving.server import ServerUrls

Array = npt.NDArray[Any]
_DATATYPES = {"int64": "INT64", "int32": "INT32", "float32": "FP32", "object": "BYTES"}
_NUMPY = {"INT64": np.int64, "INT32": np.int32, "FP32": np.float32, "BYTES": np.object_}


@dataclass
class Refused(Exception):
    """The server answered with an error: HTTP's status number or gRPC's status name, and its message."""

    status: str
    message: str


class Caller(Protocol):
    """One protocol."""

    invalid: str
    missing: str

    def infer(
        self, model: str, inputs: Mapping[str, Array], parameters: Mapping[str, Any] | None = None
    ) -> dict[str, Array]: ...

    def ready(self) -> bool: ...


class HttpCaller:
    """KServe v2 over HTTP, as curl would speak it."""

    invalid = "400"
    missing = "404"

    def __init__(self, urls: ServerUrls) -> None:
        self.url = urls.http

    def infer(
        self, model: str, inputs: Mapping[str, Array], parameters: Mapping[str, Any] | None = None
    ) -> dict[str, Array]:
        header: dict[str, Any] = {"inputs": [], "parameters": dict(parameters or {})}
        payload = b""
        for name, array in inputs.items():
            raw = _bytes_elements(array) if array.dtype == np.object_ else array.tobytes()
            payload += raw
            header["inputs"].append(
                {
                    "name": name,
                    "shape": list(array.shape),
                    "datatype": _DATATYPES[array.dtype.name],
                    "parameters": {"binary_data_size": len(raw)},
                }
            )
        text = json.dumps(header).encode()
        answer = self.post(
            f"/v2/models/{model}/infer", text + payload, {"Inference-Header-Content-Length": str(len(text))}
        )
        return {output["name"]: _array(output) for output in answer["outputs"]}

    def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Any:
        """POST bytes and return the JSON answer; raises `Refused`."""
        request = urllib.request.Request(self.url + path, data=body, headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise Refused(str(error.code), json.loads(error.read() or b'{"error": ""}')["error"]) from None

    def ready(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=10) as response:
            return bool(response.status == 200)


class GrpcCaller:
    """KServe v2 over gRPC."""

    invalid = "StatusCode.INVALID_ARGUMENT"
    missing = "StatusCode.NOT_FOUND"

    def __init__(self, urls: ServerUrls) -> None:
        import tritonclient.grpc as triton

        self.triton = triton
        self.client = triton.InferenceServerClient(urls.grpc.removeprefix("grpc://"))

    def infer(
        self, model: str, inputs: Mapping[str, Array], parameters: Mapping[str, Any] | None = None
    ) -> dict[str, Array]:
        from tritonclient.utils import InferenceServerException

        tensors = []
        for name, array in inputs.items():
            tensor = self.triton.InferInput(name, list(array.shape), _DATATYPES[array.dtype.name])
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        others = dict(parameters or {})
        timeout = others.pop("timeout", None)  # tritonclient wants it apart
        try:
            result = self.client.infer(model, tensors, parameters=others, timeout=timeout, client_timeout=60)
        except InferenceServerException as error:
            raise Refused(str(error.status()), str(error.message())) from None
        except (TypeError, ValueError) as error:  # from protobuf: a timeout that is no 64-bit integer
            raise Refused("None", str(error)) from None
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    def ready(self) -> bool:
        return bool(self.client.is_server_ready())

    def counts(self, model: str) -> tuple[int, int]:
        """Number of inferences and of executions that a model has done, when they grow no more.

        Triton counts an execution after it has sent its answers.
        """
        found = self._counts(model)
        for _ in range(100):
            time.sleep(0.1)
            last, found = found, self._counts(model)
            if found == last:
                return found
        raise AssertionError(f"{model} is still counting: {found}")

    def _counts(self, model: str) -> tuple[int, int]:
        statistics = self.client.get_inference_statistics(model).model_stats[0]
        return statistics.inference_count, statistics.execution_count


@contextmanager
def kept_busy(ask: Callable[[], object]) -> Iterator[None]:
    """Two callers ask and ask again: while one is answered the other waits, and what else comes waits too."""
    enough = threading.Event()

    def keep_asking() -> None:
        while not enough.is_set():
            ask()

    with ThreadPoolExecutor(2) as pool:
        callers = [pool.submit(keep_asking) for _ in range(2)]
        try:
            yield
        finally:
            enough.set()
        for caller in callers:
            caller.result()


def bytes_tensor(*texts: str | bytes) -> Array:
    """Texts as a BYTES tensor `[texts, 1]`."""
    elements = [text.encode() if isinstance(text, str) else text for text in texts]
    return np.array(elements, dtype=np.object_).reshape(-1, 1)


def _bytes_elements(array: Array) -> bytes:
    return b"".join(len(item).to_bytes(4, "little") + item for item in array.reshape(-1))


def _array(output: Mapping[str, Any]) -> Array:
    data: Sequence[Any] = output["data"]
    if output["datatype"] == "BYTES":
        data = [item.encode() for item in data]
    return np.array(data, dtype=_NUMPY[output["datatype"]]).reshape(output["shape"])
