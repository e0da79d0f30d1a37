"""The encoder model in a real Triton: mixed lengths in one run, right values, clear refusals."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kserve import Caller, GrpcCaller, HttpCaller, Refused, kept_busy
from triton_fixture import CLASSIFIER, QA, RunningServer

from longserve.serving import Bundle, EncoderSequence, encode, open_packed_engine

ENCODER = f"{CLASSIFIER}_encoder"
QA_ENCODER = f"{QA}_encoder"
LENGTHS = (1, 17, 64, 100, 255, 257, 400, 512)
Array = npt.NDArray[Any]


def request_of(length: int, rows: int = 1, seed: int = 0) -> dict[str, Array]:
    """Random ids from the ordinary part of the vocabulary, global attention on the first tokens."""
    generator = np.random.default_rng([seed, length, rows])
    mask = np.zeros((rows, length), dtype=np.int64)
    mask[:, : min(3, length)] = 1
    return {"input_ids": generator.integers(5, 250, (rows, length)), "global_attention_mask": mask}


def reference(server: RunningServer, model: str, request: dict[str, Array]) -> dict[str, Array]:
    """What the bundle's packed graph says of each row alone, run here."""
    bundle = Bundle.open(server.qa_bundle if model == QA_ENCODER else server.classification_bundle)
    engine = open_packed_engine(bundle)
    outputs = []
    for row in range(request["input_ids"].shape[0]):
        sequence = EncoderSequence(**{name: array[row] for name, array in request.items()})
        outputs += encode(engine, [sequence], bundle.manifest)
    names = ("start_logits", "end_logits") if model == QA_ENCODER else ("logits",)
    return {name: np.stack([getattr(output, name) for output in outputs]) for name in names}


@pytest.mark.parametrize("model", [ENCODER, QA_ENCODER])
def test_eight_concurrent_lengths_share_runs_and_equal_single_ones(
    triton_server: RunningServer, grpc: GrpcCaller, model: str
) -> None:
    requests = [request_of(length) for length in LENGTHS]
    alone = [grpc.infer(model, request) for request in requests]
    long_one = request_of(512)
    before = grpc.counts(model)
    with kept_busy(lambda: grpc.infer(model, long_one)), ThreadPoolExecutor(len(requests)) as pool:
        together = list(pool.map(lambda request: grpc.infer(model, request), requests))
    after = grpc.counts(model)
    sequences, runs = after[0] - before[0], after[1] - before[1]
    assert runs < sequences > len(requests)
    for request, one, other in zip(requests, alone, together, strict=True):
        expected = reference(triton_server, model, request)
        assert one.keys() == other.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(one[name], values, atol=1e-5)
            np.testing.assert_allclose(other[name], values, atol=1e-5)


@pytest.mark.parametrize("model", [ENCODER, QA_ENCODER])
def test_rows_of_one_request_are_sequences_of_their_own(
    triton_server: RunningServer, caller: Caller, model: str
) -> None:
    request = request_of(33, rows=3)
    expected = reference(triton_server, model, request)
    for name, values in caller.infer(model, request).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5)


def test_more_tokens_than_one_run_may_have_are_split(triton_server: RunningServer, grpc: GrpcCaller) -> None:
    request = request_of(512, rows=16)  # 8192 tokens fill one run; its neighbour needs another
    with ThreadPoolExecutor(2) as pool:
        for result in pool.map(lambda _: grpc.infer(ENCODER, request), range(2)):
            np.testing.assert_allclose(
                result["logits"], reference(triton_server, ENCODER, request)["logits"], atol=1e-5
            )


def test_plain_json_over_http_is_answered(triton_server: RunningServer, http: HttpCaller) -> None:
    request = request_of(7)
    body = {
        "inputs": [
            {"name": name, "shape": [1, 7], "datatype": "INT64", "data": array.tolist()}
            for name, array in request.items()
        ]
    }
    answer = http.post(f"/v2/models/{ENCODER}/infer", json.dumps(body).encode())
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [1, 5])
    np.testing.assert_allclose(
        np.reshape(output["data"], (1, 5)), reference(triton_server, ENCODER, request)["logits"], atol=1e-5
    )


def spoiled(**changes: Array) -> dict[str, Array]:
    return {**request_of(8), **changes}


BAD = {
    "ids of the wrong type": (spoiled(input_ids=np.ones((1, 8), np.int32)), "INT32"),
    "ids as floats": (spoiled(input_ids=np.ones((1, 8), np.float32)), "FP32"),
    "one axis too few": (spoiled(input_ids=np.ones(8, np.int64)), "input_ids"),
    "one axis too many": (spoiled(input_ids=np.ones((1, 8, 1), np.int64)), "shape"),
    "an id beyond the vocabulary": (spoiled(input_ids=np.full((1, 8), 10**6)), "1000000 at position 0"),
    "a negative id": (spoiled(input_ids=np.full((1, 8), -1)), "-1 at position 0"),
    "a mask of 2": (spoiled(global_attention_mask=np.full((1, 8), 2)), "legal values are 0 to 1"),
    "a mask of -1": (spoiled(global_attention_mask=np.full((1, 8), -1)), "legal values are 0 to 1"),
    "lengths that differ": (spoiled(global_attention_mask=np.ones((1, 7), np.int64)), "7 elements"),
    "rows that differ": (spoiled(global_attention_mask=np.ones((2, 8), np.int64)), "batch size"),
    "no token": (request_of(0), "empty"),
    "no row": (request_of(8, rows=0), "byte size"),
    "too long": (request_of(513), "513 tokens"),
    "too many rows": (request_of(8, rows=17), "<= 16"),
    "a missing input": ({"input_ids": request_of(8)["input_ids"]}, "global_attention_mask"),
    "an input too many": ({**request_of(8), "surplus": np.ones((1, 8), np.int64)}, "surplus"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tensors_are_the_callers_fault(caller: Caller, case: str) -> None:
    request, expected = BAD[case]
    with pytest.raises(Refused) as refused:
        caller.infer(ENCODER, request)
    assert refused.value.status == caller.invalid, refused.value
    assert expected in refused.value.message
    assert caller.ready()
    assert np.isfinite(caller.infer(ENCODER, request_of(8))["logits"]).all()


def test_fewer_bytes_than_the_shape_says_are_refused(http: HttpCaller) -> None:
    body = {"inputs": [{"name": "input_ids", "shape": [1, 8], "datatype": "INT64", "data": [5, 6]}]}
    with pytest.raises(Refused) as refused:
        http.post(f"/v2/models/{ENCODER}/infer", json.dumps(body).encode())
    assert refused.value.status == "400"
    assert http.ready()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"inputs": 3}', b"\xff\xfe"])
def test_malformed_json_is_refused(http: HttpCaller, body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        http.post(f"/v2/models/{ENCODER}/infer", body)
    assert refused.value.status == "400"
    assert refused.value.message
    assert http.ready()


def test_a_bad_request_does_not_touch_its_neighbours(triton_server: RunningServer, grpc: GrpcCaller) -> None:
    good = request_of(40)
    bad = spoiled(input_ids=np.full((1, 8), 10**6))
    expected = reference(triton_server, ENCODER, good)["logits"]

    def ask(index: int) -> Array | str:
        try:
            return grpc.infer(ENCODER, bad if index % 3 == 0 else good)["logits"]
        except Refused as refused:
            return refused.status

    with ThreadPoolExecutor(12) as pool:
        for index, answer in enumerate(pool.map(ask, range(12))):
            if index % 3 == 0:
                assert answer == grpc.invalid
            else:
                np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_an_unknown_model_is_not_found(caller: Caller) -> None:
    with pytest.raises(Refused) as refused:
        caller.infer("nowhere", request_of(8))
    assert refused.value.status == caller.missing
    assert "nowhere" in refused.value.message
