"""What an inference request over gRPC must be before Triton gets to read it.

Triton 2.51 ends on some that it takes: `classification` asked of an output of text, a dimension of 2^61 + 1.
And a message may be many times its size once it is parsed: an empty tensor is 2 bytes on the wire and 80 in
memory. So its fields are counted before that (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import math
from typing import Any

from ..runtime.errors import InvalidInput
from .infer_request import CLASSIFICATION, MAX_RANK, MAX_TENSORS, SHARED_MEMORY, check_whole

__all__ = ["check_infer_message", "count_fields"]

_TENSOR_FIELDS = (5, 6)
"""`inputs` and `outputs` of a `ModelInferRequest` (triton-inference-server/common, `grpc_service.proto`)."""
_MAX_FIELDS = 4 * MAX_TENSORS + 16
"""Of a message: its inputs, outputs, raw contents and parameters, and its name, version and id."""
_MAX_TENSOR_FIELDS = MAX_TENSORS + 2 * MAX_RANK + 16
"""Of a tensor: its parameters, the dimensions of its shape, and its name, datatype and contents."""
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


def count_fields(content: bytes) -> None:
    """Count the fields of a `ModelInferRequest` on the wire, and those of its tensors.

    What passes is parsed to 16 times its size at most: to an empty text of 2 bytes its place of 16.

    Raises:
        InvalidInput: it is no protobuf message, or has more fields than any request that is taken.
    """
    for number, start, end in _fields(content, 0, len(content), _MAX_FIELDS):
        if number in _TENSOR_FIELDS:
            for _ in _fields(content, start, end, _MAX_TENSOR_FIELDS):
                pass


def _fields(content: bytes, at: int, end: int, most: int) -> Any:
    """The number of each field of a message, and where its content is, if it has a length."""
    count = 0
    while at < end:
        count += 1
        if count > most:
            raise InvalidInput(
                f"the message, or a tensor of it, has more than {most} fields; at most {MAX_TENSORS} inputs, "
                f"outputs and parameters are taken, and shapes of at most {MAX_RANK} dimensions"
            )
        tag, at = _varint(content, at, end)
        kind, start = tag & 7, at
        if kind == _VARINT:
            _, start = _varint(content, at, end)
            at = start
        elif kind == _DELIMITED:
            size, start = _varint(content, at, end)
            at = start + size
        elif kind in (_FIXED32, _FIXED64):
            start = at = at + (4 if kind == _FIXED32 else 8)
        else:
            raise _malformed()
        if at > end:
            raise _malformed()
        yield tag >> 3, start, at


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _malformed()


def _malformed() -> InvalidInput:
    return InvalidInput("the message is no ModelInferRequest")


def check_infer_message(message: Any, size: int) -> None:
    """Check a `ModelInferRequest` of `size` bytes, and take out of it the tensors' parameters.

    None of those is passed on over HTTP either, but for what says where a tensor's bytes are.

    Raises:
        InvalidInput: there are too many tensors or parameters, a shape has too many dimensions, a negative
            one, or more elements than the message has bytes, a name holds a NUL, or it asks for an extension
            that is not served (shared memory, classification).
    """
    for name in ("inputs", "outputs", "parameters", "raw_input_contents"):
        _check_count(name, len(getattr(message, name)))
    check_whole("model_name", message.model_name)
    check_whole("id", message.id)
    for name, parameter in message.parameters.items():
        check_whole("a parameter's name", name)
        check_whole("a parameter", parameter.string_param)
    for tensor in (*message.inputs, *message.outputs):
        check_whole("a tensor's name", tensor.name)
        _check_count("a tensor's parameters", len(tensor.parameters))
        for name in tensor.parameters:
            if name.startswith("shared_memory"):
                raise InvalidInput(SHARED_MEMORY)
            if name == "classification":
                raise InvalidInput(CLASSIFICATION)
        tensor.ClearField("parameters")
    for tensor in message.inputs:
        _check_shape(tensor.shape, size)


def _check_count(what: str, count: int) -> None:
    if count > MAX_TENSORS:
        raise InvalidInput(f"{what} has {count} entries; at most {MAX_TENSORS} are taken")


def _check_shape(shape: Any, size: int) -> None:
    if len(shape) > MAX_RANK:
        raise InvalidInput(f"the shape of an input has {len(shape)} dimensions; at most {MAX_RANK} are taken")
    negative = [dimension for dimension in shape if dimension < 0]
    if negative:
        raise InvalidInput(f"the shape of an input holds {negative[0]}; dimensions are 0 or more")
    elements = max(math.prod(shape), *shape) if shape else 1
    if elements > size:
        raise InvalidInput(
            f"the shape of an input has {elements} elements, more than the request has bytes ({size})"
        )
