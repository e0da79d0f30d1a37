"""A defect in the pipeline is one request's internal error, and no user text reaches the log."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kserve import GrpcCaller, Refused, bytes_tensor
from triton_fixture import FREE_PORTS

from longserve.serving.repository import build_repository
from longserve.serving.server import TritonServer

DEFECT = """
_finish = ClassificationPipeline.finish


def _failing(self, prepared, outputs, observer):
    if prepared.tokens > 40:
        raise RuntimeError("the text was: " + "terces"[::-1])
    return _finish(self, prepared, outputs, observer)


ClassificationPipeline.finish = _failing
"""


def test_a_defect_is_one_requests_internal_error(classification_bundle: Path, tmp_path: Path) -> None:
    built = build_repository(classification_bundle, "defective", tmp_path)
    assert built.text is not None
    with (built.text / "1" / "longserve_runtime" / "pipeline.py").open("a", encoding="utf-8") as module:
        module.write(DEFECT)
    log = io.StringIO()
    with TritonServer(tmp_path, ports=FREE_PORTS, log=log, grace=1.0) as server:
        caller = GrpcCaller(server.urls)

        def ask(index: int) -> str:
            try:
                caller.infer("defective", {"TEXT": bytes_tensor("secret " * (60 if index % 2 else 1))})
            except Refused as refused:
                return f"{refused.status}: {refused.message}"
            return "answered"

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(ask, range(8)))
    for index, outcome in enumerate(outcomes):
        if index % 2:
            assert outcome.startswith("StatusCode.INTERNAL") and "RuntimeError" in outcome
        else:
            assert outcome == "answered"
    assert "_failing" in log.getvalue()
    assert "secret" not in log.getvalue() and not any("secret" in outcome for outcome in outcomes)
