"""What of an inference request over gRPC is passed on to Triton, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from longserve.serving import InvalidInput
from longserve.serving.server.infer_message import check_infer_message, count_fields

SIZE = 100


def request_of(shape: tuple[int, ...] = (1, 1), **fields: Any) -> Any:
    request = service_pb2.ModelInferRequest(
        model_name="m", id="7", raw_input_contents=[b"\5\0\0\0hello"], **fields
    )
    request.inputs.add(name="TEXT", datatype="BYTES", shape=shape)
    request.outputs.add(name="LABEL")
    return request


def changed(change: Callable[[Any], object]) -> Any:
    request = request_of()
    change(request)
    return request


def nested(content: bytes, *fields: int) -> bytes:
    """A field within a field, innermost last."""
    for number in reversed(fields):
        length = len(content)
        size = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
        content = bytes([number << 3 | 2]) + size + content
    return content


@pytest.mark.parametrize("shape", [(), (1, 1), (4, 25), (1,) * 8])
def test_what_is_right_is_left_alone(shape: tuple[int, ...]) -> None:
    request = request_of(shape)
    request.parameters["top_k"].int64_param = 2
    before = request.SerializeToString(deterministic=True)
    count_fields(before)
    check_infer_message(request, SIZE)
    assert request.SerializeToString(deterministic=True) == before


def test_the_parameters_of_tensors_go_no_further() -> None:
    request = request_of()
    request.inputs[0].parameters["content_type"].string_param = "str"
    request.outputs[0].parameters["binary_data"].bool_param = True
    check_infer_message(request, SIZE)
    assert request == request_of()


BAD: dict[str, tuple[Callable[[Any], object], str]] = {
    "an input in shared memory": (
        lambda r: r.inputs[0].parameters["shared_memory_region"],
        "shared memory",
    ),
    "an output in shared memory": (
        lambda r: r.outputs[0].parameters["shared_memory_region"],
        "shared memory",
    ),
    "classification": (lambda r: r.outputs[0].parameters["classification"], "'classification'"),
    "more elements than bytes": (lambda r: r.inputs.add(shape=[101]), "101 elements"),
    "a negative dimension": (lambda r: r.inputs.add(shape=[1, -1]), "holds -1"),
    "a rank without end": (lambda r: r.inputs.add(shape=[2] * 1_000_000), "1000000 dimensions; at most 8"),
    "inputs without end": (lambda r: [r.inputs.add() for _ in range(64)], "inputs has 65 entries"),
    "outputs without end": (lambda r: [r.outputs.add() for _ in range(64)], "outputs has 65 entries"),
    "contents without end": (
        lambda r: r.raw_input_contents.extend([b""] * 64),
        "raw_input_contents has 65 entries",
    ),
    "a name with NUL": (lambda r: r.inputs.add(name="TEXT\0x"), "a tensor's name holds a NUL"),
    "an output's name with NUL": (lambda r: r.outputs.add(name="X\0"), "a tensor's name holds a NUL"),
    "a model with NUL": (lambda r: setattr(r, "model_name", "m\0x"), "model_name holds a NUL"),
    "an id with NUL": (lambda r: setattr(r, "id", "a\0b"), "id holds a NUL"),
    "a parameter's name with NUL": (lambda r: r.parameters["top_k\0x"], "a parameter's name holds a NUL"),
    "a parameter with NUL": (
        lambda r: setattr(r.parameters["function_to_apply"], "string_param", "none\0x"),
        "a parameter holds a NUL",
    ),
    "parameters without end": (
        lambda r: [r.parameters[str(n)] for n in range(65)],
        "parameters has 65 entries",
    ),
    "a tensor's parameters without end": (
        lambda r: [r.inputs[0].parameters[str(n)] for n in range(65)],
        "a tensor's parameters has 65 entries",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_with_the_reason(case: str) -> None:
    change, reason = BAD[case]
    with pytest.raises(InvalidInput) as refused:
        check_infer_message(changed(change), SIZE)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    "more",
    [
        b"\x2a\0" * 1000,
        b"\x3a\0" * 1000,
        nested(b"\x22\0" * 1000, 5),
        nested(b"\x18\1" * 1000, 5),
        nested(b"\x12\0" * 1000, 6),
    ],
    ids=["inputs", "raw contents", "parameters of an input", "shape", "parameters of an output"],
)
def test_fields_without_end_are_refused_unparsed(more: bytes) -> None:
    content = request_of().SerializeToString() + more
    service_pb2.ModelInferRequest.FromString(content)
    with pytest.raises(InvalidInput, match=r"more than \d+ fields"):
        count_fields(content)


def test_elements_are_no_fields() -> None:
    request = request_of((300,))
    request.inputs[0].contents.bytes_contents.extend([b"a"] * 300)
    count_fields(request.SerializeToString())


@pytest.mark.parametrize("content", [b"\xff\xff", b"\x0a\5m", b"\x0b", b"\xff" * 11, b"\x0d\0"])
def test_what_is_no_message_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput, match="no ModelInferRequest"):
        count_fields(content)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
@example(b"0\1")  # what should be an output is a number: protobuf skips it
@example(b"-\1\2\3\4")
def test_what_protobuf_reads_is_counted(content: bytes) -> None:
    try:
        count_fields(content)
    except InvalidInput:
        groups = {3, 4}  # of old; our schema has none
        assert any(byte & 7 in groups for byte in content) or not readable(content)


def readable(content: bytes) -> bool:
    try:
        service_pb2.ModelInferRequest.FromString(content)
    except DecodeError:
        return False
    return True
