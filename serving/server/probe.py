"""Trying a Triton out: does it start here, and does a Python model of it return what it was given?"""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from ..runtime.errors import ServerFailed
from .installation import TritonInstallation
from .ports import Ports
from .process import TritonServer

__all__ = ["probe_triton"]

_MODEL = "longserve_probe"
_VALUES = [3, 1, 4, 1, 5, 9, 2, 6, 2**40, -7, 0, 8]
_SHAPE = [3, 4]
_TIMEOUT = 60.0


def probe_triton(installation: TritonInstallation) -> str:
    """Start a Triton with one small Python model on free loopback ports, ask it once, stop it.

    Returns:
        The server's version.

    Raises:
        ServerError: it cannot be started here, or the model returned something else than it was given.
    """
    with tempfile.TemporaryDirectory(prefix="longserve-probe-") as directory:
        _write_model(Path(directory) / _MODEL)
        server = TritonServer(
            directory,
            ports=Ports(http=0, grpc=0, metrics=0),
            installation=installation,
            ready_timeout=_TIMEOUT,
            grace=1.0,
        )
        with server:
            tensor = {"name": "INPUT", "datatype": "INT64", "shape": _SHAPE, "data": _VALUES}
            answer = _call(f"{server.urls.http}/v2/models/{_MODEL}/infer", {"inputs": [tensor]})
            returned = answer["outputs"][0]
            if returned["shape"] != _SHAPE or returned["data"] != _VALUES:
                raise ServerFailed(
                    f"a Python model was to return {_VALUES} as {_SHAPE} and returned {returned['data']} as "
                    f"{returned['shape']}: this Triton does not fit this environment's numpy"
                )
            return str(_call(f"{server.urls.http}/v2")["version"])


def _write_model(target: Path) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as triton

    config: Any = triton.ModelConfig(name=_MODEL, backend="python")
    config.input.add(name="INPUT", data_type=triton.TYPE_INT64, dims=_SHAPE)
    config.output.add(name="OUTPUT", data_type=triton.TYPE_INT64, dims=_SHAPE)
    config.instance_group.add(kind=triton.ModelInstanceGroup.KIND_CPU, count=1)
    (target / "1").mkdir(parents=True)
    (target / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("probe_model.py"), target / "1" / "model.py")


def _call(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, data=data), timeout=_TIMEOUT) as response:
        return json.load(response)
