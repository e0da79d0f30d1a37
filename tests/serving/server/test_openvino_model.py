"""A real Triton whose encoders run on OpenVINO: equal answers over both protocols, mixed lengths together."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kserve import Caller, GrpcCaller, HttpCaller, bytes_tensor
from openvino_support import require_bf16
from triton_fixture import FREE_PORTS

from longserve.serving import (
    Bundle,
    EncoderSequence,
    EngineName,
    InferencePrecision,
    LocalClient,
    encode,
    open_packed_engine,
)
from longserve.serving.repository import RepositoryOptions, build_repository
from longserve.serving.server import ServerUrls, TritonServer

EXACT, ROUNDED = "exact", "rounded"
LENGTHS = (1, 17, 64, 100, 255, 257, 400, 512)
TEXT = "the miller of the valley counted seven lanterns and two bridges before the winter came "
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Served:
    urls: ServerUrls
    log: io.StringIO


@pytest.fixture(scope="module")
def served(
    classification_bundle: Path, qa_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A classifier in fp32 and a reader in bf16, both on OpenVINO."""
    require_bf16()
    repository = tmp_path_factory.mktemp("openvino")
    exact = RepositoryOptions(engine=EngineName.OPENVINO, text_instances=1)
    rounded = RepositoryOptions(
        engine=EngineName.OPENVINO, inference_precision=InferencePrecision.BF16, text_instances=1
    )
    build_repository(classification_bundle, EXACT, repository, exact)
    build_repository(qa_bundle, ROUNDED, repository, rounded)
    log = io.StringIO()
    with TritonServer(repository, ports=FREE_PORTS, log=log, verbose=True, grace=2.0) as server:
        yield Served(server.urls, log)


@pytest.fixture(params=["http", "grpc"])
def caller(request: pytest.FixtureRequest, served: Served) -> Caller:
    """Each protocol in turn."""
    return HttpCaller(served.urls) if request.param == "http" else GrpcCaller(served.urls)


def request_of(length: int) -> dict[str, Array]:
    mask = np.zeros((1, length), dtype=np.int64)
    mask[:, : min(3, length)] = 1
    ids = np.random.default_rng(length).integers(5, 250, (1, length))
    return {"input_ids": ids, "global_attention_mask": mask}


def reference(path: Path, request: dict[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime says of a sequence alone."""
    bundle = Bundle.open(path)
    sequence = EncoderSequence(**{name: array[0] for name, array in request.items()})
    (output,) = encode(open_packed_engine(bundle), [sequence], bundle.manifest)
    names = ("logits", "start_logits", "end_logits")
    return {name: getattr(output, name)[None] for name in names if getattr(output, name) is not None}


def test_the_log_names_engine_and_arithmetic(served: Served) -> None:
    text = served.log.getvalue()
    assert "on openvino CPU fp32" in text and "on openvino CPU bf16" in text
    assert "on onnxruntime" not in text


@pytest.mark.parametrize("length", [1, 100, 512])
def test_logits_equal_those_of_onnxruntime(
    caller: Caller, classification_bundle: Path, qa_bundle: Path, length: int
) -> None:
    request = request_of(length)
    exact = caller.infer(f"{EXACT}_encoder", request)
    expected = reference(classification_bundle, request)
    np.testing.assert_allclose(exact["logits"], expected["logits"], atol=1e-5)
    rounded = caller.infer(f"{ROUNDED}_encoder", request)
    for name, values in reference(qa_bundle, request).items():
        difference = np.abs(rounded[name] - values).max() / max(1.0, np.abs(values).max())
        assert 1e-5 < difference < 0.1, "bf16 rounds, a little"


def test_concurrent_lengths_share_runs_and_equal_single_ones(
    served: Served, classification_bundle: Path
) -> None:
    grpc, model = GrpcCaller(served.urls), f"{EXACT}_encoder"
    requests = [request_of(length) for length in LENGTHS] * 4
    before = grpc.counts(model)
    with ThreadPoolExecutor(len(requests)) as pool:
        found = list(pool.map(lambda request: grpc.infer(model, request)["logits"], requests))
    after = grpc.counts(model)
    assert after[0] - before[0] == len(requests)
    assert after[1] - before[1] < len(requests)
    expected = [reference(classification_bundle, request)["logits"] for request in requests[: len(LENGTHS)]]
    for one, other in zip(found, expected * 4, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_texts_are_answered_as_in_process(
    caller: Caller, classification_bundle: Path, qa_bundle: Path
) -> None:
    with LocalClient(classification_bundle) as local:
        expected = local.classify(TEXT * 40, top_k=5)
    found = caller.infer(EXACT, {"TEXT": bytes_tensor(TEXT * 40)}, {"top_k": 5})
    assert [label.decode() for label in found["LABEL"][0]] == list(expected.scores)
    np.testing.assert_allclose(found["SCORE"][0], list(expected.scores.values()), atol=1e-5)
    assert found["WINDOWS"][0, 0] == expected.windows > 1
    asked = {"QUESTION": bytes_tensor("who counted?"), "CONTEXT": bytes_tensor(TEXT * 40)}
    answer = caller.infer(ROUNDED, asked)
    start, end = answer["START"][0, 0], answer["END"][0, 0]
    assert (TEXT * 40)[start:end] == answer["ANSWER"][0, 0].decode()
    with LocalClient(qa_bundle, engine="openvino") as local:
        (best,) = local.answer("who counted?", TEXT * 40)
    assert answer["SCORE"][0, 0] == pytest.approx(best.score, rel=0.2)
