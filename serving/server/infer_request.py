"""What an inference request over HTTP must be before Triton gets to read it.

Triton 2.51 answers many a malformed request with 500, and ends on some: a shape of 10^12 elements, a list
nested 100,000 deep (both fixed in later releases: triton-inference-server/server, pull requests 8172 and
8174). So the request is read here first, and what goes on to Triton is written anew from what was understood:
nothing that two JSON parsers could take for two different things gets through.

The format is the KServe v2 protocol with Triton's binary tensor extension (`docs/protocol` in
triton-inference-server/server, extension_binary_data.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from ..runtime.errors import InvalidInput

__all__ = [
    "CLASSIFICATION",
    "InferBody",
    "MAX_RANK",
    "MAX_TENSORS",
    "SHARED_MEMORY",
    "check_infer",
    "check_whole",
]

_SIZES = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
    "BF16": 2,
    "BYTES": 0,
}
"""Bytes of an element by datatype; those of BYTES differ."""
MAX_TENSORS = 64
"""Most inputs, outputs and parameters of a request."""
MAX_RANK = 8
"""Most dimensions of an input, as many as TensorRT has."""
_MAX_ELEMENTS = 1 << 19
"""Most values of the JSON: those of 16 sequences of 8,192 tokens in three inputs, and more. While Python's
parser reads them, no other thread runs."""
SHARED_MEMORY = "a tensor is to be in shared memory, which this server does not share"
CLASSIFICATION = "an output has 'classification'; ask a text model, which names the labels"
_MAX_NESTING = 16
_MAX_INT64 = 2**63 - 1
_UNSIGNED = ("timeout", "priority", "sequence_id")
_BOOLEAN = ("sequence_start", "sequence_end", "binary_data_output")


@dataclass(frozen=True, slots=True)
class InferBody:
    """The body of an inference request.

    Attributes:
        content: JSON, then the tensors' bytes if some are binary.
        json_length: length of the JSON (`Inference-Header-Content-Length`); None: all of it is JSON; 0: all
            of it is the one tensor.
        request_id: what the client called it, once it has been checked.
    """

    content: bytes
    json_length: int | None
    request_id: str = ""


def check_infer(body: InferBody) -> InferBody:
    """Check a request and return it written anew.

    Raises:
        InvalidInput: it is no KServe v2 request, its tensors do not have the sizes that it says, or it asks
            for an extension that is not served (shared memory, classification).
    """
    if body.json_length == 0:
        return body
    length = len(body.content) if body.json_length is None else body.json_length
    if not 0 < length <= len(body.content):
        raise InvalidInput(f"the body has {len(body.content)} bytes, of which {length} were to be JSON")
    given = _object("the body", _parse(body.content[:length]))
    tensors = body.content[length:]
    request: dict[str, Any] = {}
    if "id" in given:
        request["id"] = _text("id", given["id"])
    if "parameters" in given:
        request["parameters"] = _parameters(_object("parameters", given["parameters"]))
    request["inputs"] = _inputs(given, len(tensors))
    if "outputs" in given:
        request["outputs"] = [_output(item) for item in _list("outputs", given["outputs"])]
    written = _write(request)
    json_length = None if body.json_length is None else len(written)
    content = written + tensors if tensors else written
    return InferBody(content, json_length, request.get("id", ""))


def _parse(content: bytes) -> Any:
    _check_elements(content)
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the JSON is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise InvalidInput("the JSON is nested too deep") from None
    except ValueError as error:  # also a number of too many digits
        raise InvalidInput(f"the body is not JSON: {error}") from None


def _check_elements(content: bytes) -> None:
    """Refuse JSON of too many values by its commas outside of texts, before it is read."""
    if content.count(b",") < _MAX_ELEMENTS:
        return
    plain = content.replace(rb"\\", b"").replace(rb"\"", b"")  # now each quote begins or ends a text
    quotes = plain.count(b'"')
    count = quotes if quotes > 4 * _MAX_ELEMENTS else sum(p.count(b",") for p in plain.split(b'"')[::2])
    if count >= _MAX_ELEMENTS:
        raise InvalidInput(
            f"the JSON holds more than {_MAX_ELEMENTS} values; send large tensors as binary data"
        )


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidInput(f"the JSON holds {name}, which is no JSON")


def _write(request: dict[str, Any]) -> bytes:
    text = json.dumps(request, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInput("a text holds half a surrogate pair (\\ud800 to \\udfff alone)") from None


def _inputs(given: dict[str, Any], binary_bytes: int) -> list[dict[str, Any]]:
    if "inputs" not in given:
        raise InvalidInput("there is no 'inputs'")
    inputs = [_input(item) for item in _list("inputs", given["inputs"])]
    announced = sum(item["parameters"]["binary_data_size"] for item in inputs if "parameters" in item)
    if announced != binary_bytes:
        raise InvalidInput(
            f"the inputs' binary_data_size add up to {announced}, but {binary_bytes} bytes follow the JSON"
        )
    return inputs


def _input(given: Any) -> dict[str, Any]:
    item = _object("an input", given)
    name = _text("an input's name", item.get("name"))
    datatype = item.get("datatype")
    if not isinstance(datatype, str) or datatype not in _SIZES:
        raise InvalidInput(f"the datatype of an input is none of {', '.join(_SIZES)}")
    shape = _shape(item.get("shape"))
    parameters = _tensor_parameters(item)
    checked: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    size = parameters.get("binary_data_size")
    if size is None:
        checked["data"] = _data(item, datatype, math.prod(shape))
        return checked
    if "data" in item:
        raise InvalidInput("an input has both 'data' and 'binary_data_size'; send one of them")
    _unsigned("binary_data_size", size)
    due = math.prod(shape) * _SIZES[datatype]
    if datatype != "BYTES" and size != due:
        raise InvalidInput(f"an input of shape {shape} and type {datatype} has {due} bytes, not {size}")
    return {**checked, "parameters": {"binary_data_size": size}}


def _shape(given: Any) -> list[int]:
    shape = _list("an input's shape", given)
    if len(shape) > MAX_RANK:
        raise InvalidInput(f"an input's shape has {len(shape)} dimensions; at most {MAX_RANK} are taken")
    for size in shape:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**31:
            raise InvalidInput(f"an input's shape holds {str(size)[:40]}; give numbers from 0 to 2147483647")
    if math.prod(shape) >= 2**31:
        raise InvalidInput(f"an input has the shape {shape}, more than 2147483647 elements")
    return shape


def _data(item: dict[str, Any], datatype: str, count: int) -> list[Any]:
    data = item.get("data")
    if not isinstance(data, list):
        raise InvalidInput("an input has no 'data', which is a list; nor 'binary_data_size'")
    elements = list(_flat(data))
    if len(elements) != count:
        raise InvalidInput(f"an input has {len(elements)} elements in 'data', but {count} by its shape")
    fits = _FITTING.get(datatype)
    if fits is None:
        raise InvalidInput(f"an input of type {datatype} has no form in JSON; send it as binary data")
    if not all(map(fits, elements)):
        raise InvalidInput(f"an input's 'data' holds something else than {datatype}")
    return elements


def _flat(data: list[Any]) -> Iterator[Any]:
    """The elements of nested lists, in row-major order."""
    open_lists = [iter(data)]
    while open_lists:
        for item in open_lists[-1]:
            if isinstance(item, list):
                if len(open_lists) == _MAX_NESTING:
                    raise InvalidInput(f"an input's 'data' is nested deeper than {_MAX_NESTING}")
                open_lists.append(iter(item))
                break
            yield item
        else:
            open_lists.pop()


def _is_integer(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value <= _MAX_INT64


def _is_unsigned(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_INT64


def _is_number(value: Any) -> bool:
    return (type(value) is float and math.isfinite(value)) or _is_integer(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


_FITTING: dict[str, Callable[[Any], bool]] = {
    "BOOL": _is_boolean,
    "BYTES": _is_text,
    **{name: _is_integer for name in _SIZES if name.startswith("INT")},
    **{name: _is_unsigned for name in _SIZES if name.startswith("UINT")},
    **dict.fromkeys(("FP32", "FP64"), _is_number),
}
"""What an element of 'data' must be. The other types have no JSON form in Triton."""


def _output(given: Any) -> dict[str, Any]:
    item = _object("an output", given)
    checked: dict[str, Any] = {"name": _text("an output's name", item.get("name"))}
    binary = _tensor_parameters(item).get("binary_data")
    if binary is not None:
        checked["parameters"] = {"binary_data": _boolean("binary_data", binary)}
    return checked


def _tensor_parameters(item: dict[str, Any]) -> dict[str, Any]:
    parameters = _object("a tensor's parameters", item.get("parameters", {}))
    for name in parameters:
        if name.startswith("shared_memory"):
            raise InvalidInput(SHARED_MEMORY)
        if name == "classification":
            raise InvalidInput(CLASSIFICATION)
    return parameters


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    if len(given) > MAX_TENSORS:
        raise InvalidInput(f"parameters has {len(given)} entries; at most {MAX_TENSORS} are taken")
    for name, value in given.items():
        if name.startswith("triton_"):
            raise InvalidInput("a parameter's name begins with 'triton_', which Triton keeps for itself")
        check_whole("a parameter's name", name)
        if isinstance(value, str):
            check_whole("a parameter", value)
        if name in _UNSIGNED and not (name == "sequence_id" and isinstance(value, str)):
            _unsigned(name, value)
        elif name in _BOOLEAN:
            _boolean(name, value)
        elif not isinstance(value, (str, bool)) and not _is_number(value):
            raise InvalidInput("a parameter is neither text, number nor boolean, or too large a number")
    return given


def _object(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} is no JSON object")
    return value


def _list(what: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"{what} is no list, or is missing")
    if len(value) > MAX_TENSORS:
        raise InvalidInput(f"{what} has {len(value)} entries; at most {MAX_TENSORS} are taken")
    return value


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{what} is no text, or is missing")
    return check_whole(what, value)


def check_whole(what: str, text: str) -> str:
    """Return a name or an id as it is.

    Raises:
        InvalidInput: it holds a NUL, at which Triton would cut it off.
    """
    if "\0" in text:
        raise InvalidInput(f"{what} holds a NUL (\\u0000); leave it out")
    return text


def _unsigned(name: str, value: Any) -> int:
    if not _is_unsigned(value):
        raise InvalidInput(f"{name} is no whole number from 0 on")
    return int(value)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} is neither true nor false")
    return value
