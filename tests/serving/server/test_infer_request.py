"""What of an inference request over HTTP is passed on to Triton, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longserve.serving import InvalidInput
from longserve.serving.server.infer_request import InferBody, check_infer

TEXT: dict[str, Any] = {"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": ["é 😀"]}
IDS: dict[str, Any] = {
    "name": "input_ids",
    "shape": [2, 3],
    "datatype": "INT64",
    "data": [[1, 2, 3], [4, 5, 6]],
}


def body(inputs: Any, **others: Any) -> bytes:
    return json.dumps({"inputs": inputs, **others}).encode()


def checked(content: bytes, json_length: int | None = None) -> Any:
    result = check_infer(InferBody(content, json_length))
    return json.loads(result.content[: result.json_length])


def test_a_good_request_keeps_its_meaning() -> None:
    outputs = [{"name": "SCORE", "parameters": {"binary_data": False}}]
    request = {
        "id": "one",
        "parameters": {
            "top_k": 2,
            "function_to_apply": "none",
            "timeout": 5,
            "window_results": True,
            "x": 0.5,
        },
        "inputs": [TEXT],
        "outputs": outputs,
    }
    assert checked(json.dumps(request).encode()) == request
    assert checked(body([IDS]))["inputs"] == [{**IDS, "data": [1, 2, 3, 4, 5, 6]}]


def test_binary_tensors_follow_the_json_unchanged() -> None:
    tensor = {**IDS, "parameters": {"binary_data_size": 48}}
    del tensor["data"]
    header, payload = body([tensor]), bytes(range(48))
    result = check_infer(InferBody(header + payload, len(header)))
    assert result.json_length is not None
    assert result.content[result.json_length :] == payload
    assert json.loads(result.content[: result.json_length])["inputs"] == [tensor]


def test_a_body_that_is_one_raw_tensor_is_left_alone() -> None:
    raw = InferBody(b"any text at all", 0)
    assert check_infer(raw) == raw


def test_what_two_parsers_could_read_differently_is_written_anew() -> None:
    twice = body([TEXT]).replace(b'"name"', b'"name": "A", "name"').replace(b"{", b'{"inputs": [], ', 1)
    passed = check_infer(InferBody(twice, None)).content
    assert passed.count(b'"inputs"') == passed.count(b'"name"') == 1
    assert json.loads(passed)["inputs"][0]["name"] == "TEXT"


def without(tensor: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in tensor.items() if name != key}


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes"),
    "no JSON": (b"{", "not JSON"),
    "two documents": (body([TEXT]) * 2, "not JSON"),
    "not UTF-8": (b'{"inputs": "\xff"}', "not UTF-8"),
    "UTF-16": (body([TEXT]).decode().encode("utf-16"), "not UTF-8"),
    "half a surrogate pair": (
        b'{"inputs": [{"name": "\\ud800", "shape": [0], "datatype": "BYTES", "data": []}]}',
        "half a surrogate",
    ),
    "NaN": (b'{"parameters": {"x": NaN}, "inputs": []}', "NaN"),
    "too large for a float": (b'{"parameters": {"x": 1e999}, "inputs": []}', "too large"),
    "too many digits": (b'{"parameters": {"x": ' + b"9" * 5000 + b'}, "inputs": []}', "not JSON"),
    "nested too deep": (b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
    "data nested too deep": (
        body([TEXT]).replace(b'["\\u00e9', b"[" * 20 + b'"').replace(b'"]', b'"' + b"]" * 20),
        "nested deeper than 16",
    ),
    "no object": (b"[]", "no JSON object"),
    "no inputs": (b"{}", "no 'inputs'"),
    "inputs that are none": (b'{"inputs": 3}', "inputs is no list"),
    "an input that is none": (body([3]), "an input is no JSON object"),
    "too many inputs": (body([TEXT] * 65), "65 entries"),
    "no name": (body([without(TEXT, "name")]), "name"),
    "unknown datatype": (body([{**TEXT, "datatype": "TEXT"}]), "datatype"),
    "no datatype": (body([without(TEXT, "datatype")]), "datatype"),
    "no shape": (body([without(TEXT, "shape")]), "shape"),
    "negative size": (body([{**TEXT, "shape": [1, -1]}]), "holds -1"),
    "a size that is text": (body([{**TEXT, "shape": [1, "1"]}]), "shape"),
    "a size that is true": (body([{**TEXT, "shape": [1, True]}]), "holds True"),
    "a rank without end": (body([{**TEXT, "shape": [1] * 9}]), "9 dimensions; at most 8"),
    "more than any memory": (body([{**IDS, "shape": [1, 10**12]}]), "holds 1000000000000"),
    "a product beyond all": (body([{**IDS, "shape": [2**30, 2**30]}]), "more than 2147483647 elements"),
    "too few elements": (body([{**IDS, "shape": [2, 4]}]), "6 elements in 'data', but 8"),
    "too many elements": (body([{**TEXT, "data": ["a", "b"]}]), "2 elements in 'data', but 1"),
    "elements of another type": (body([{**IDS, "data": [1, 2, 3, 4, 5, "6"]}]), "something else than INT64"),
    "whole numbers with a point": (body([{**IDS, "data": [1.0] * 6}]), "something else than INT64"),
    "numbers that do not fit": (body([{**IDS, "data": [2**63] * 6}]), "something else than INT64"),
    "no data": (body([without(TEXT, "data")]), "no 'data'"),
    "half precision as JSON": (body([{**TEXT, "datatype": "FP16", "data": [1]}]), "binary data"),
    "data twice": (body([{**TEXT, "parameters": {"binary_data_size": 3}}]), "both"),
    "announced but not sent": (
        body([{**without(TEXT, "data"), "parameters": {"binary_data_size": 9}}]),
        "add up to 9, but 0",
    ),
    "a negative binary size": (
        body([{**without(TEXT, "data"), "parameters": {"binary_data_size": -1}}]),
        "binary_data_size",
    ),
    "a binary size against the shape": (
        body([{**without(IDS, "data"), "parameters": {"binary_data_size": 8}}]),
        "has 48 bytes, not 8",
    ),
    "shared memory": (
        body([{**without(TEXT, "data"), "parameters": {"shared_memory_region": "x"}}]),
        "shared memory",
    ),
    "an output in shared memory": (
        body([TEXT], outputs=[{"name": "SCORE", "parameters": {"shared_memory_region": "x"}}]),
        "shared memory",
    ),
    "classification": (
        body([TEXT], outputs=[{"name": "SCORE", "parameters": {"classification": 9}}]),
        "labels",
    ),
    "an output without a name": (body([TEXT], outputs=[{}]), "output's name"),
    "outputs without end": (body([TEXT], outputs=[{"name": "SCORE"}] * 65), "65 entries"),
    "an id that is a number": (body([TEXT], id=3), "id is no text"),
    "a name with NUL": (body([{**TEXT, "name": "TEXT\0x"}]), "an input's name holds a NUL"),
    "an output's name with NUL": (body([TEXT], outputs=[{"name": "X\0"}]), "an output's name holds a NUL"),
    "an id with NUL": (body([TEXT], id="a\0b"), "id holds a NUL"),
    "a parameter's name with NUL": (body([TEXT], parameters={"top_k\0x": 1}), "parameter's name holds a NUL"),
    "a parameter with NUL": (body([TEXT], parameters={"a": "none\0x"}), "a parameter holds a NUL"),
    "parameters that are a list": (body([TEXT], parameters=[]), "parameters is no JSON object"),
    "parameters without end": (body([TEXT], parameters={str(n): n for n in range(65)}), "65 entries"),
    "a parameter that is an object": (body([TEXT], parameters={"a": {}}), "a parameter is neither"),
    "a parameter beyond 64 bits": (body([TEXT], parameters={"a": 2**63}), "too large"),
    "a negative timeout": (body([TEXT], parameters={"timeout": -5}), "timeout is no whole number"),
    "a timeout that is text": (body([TEXT], parameters={"timeout": "5"}), "timeout is no whole number"),
    "a sequence that starts maybe": (body([TEXT], parameters={"sequence_start": 1}), "sequence_start"),
    "Triton's own parameter": (
        body([TEXT], parameters={"triton_enable_empty_final_response": True}),
        "triton_",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_with_the_reason(case: str) -> None:
    content, reason = BAD[case]
    with pytest.raises(InvalidInput) as refused:
        check_infer(InferBody(content, None))
    assert reason in str(refused.value)


LONG = 1 << 19


def repr_of(value: Any) -> str:
    return repr(value[:4])


@pytest.mark.parametrize(
    "data", [[1] * (LONG + 1), ["a"] * (LONG + 1), [[]] * (LONG + 1), ['\\",'] * (LONG + 1)], ids=repr_of
)
def test_json_of_too_many_values_is_refused(data: list[Any]) -> None:
    with pytest.raises(InvalidInput, match="more than 524288 values"):
        check_infer(InferBody(body([{**IDS, "data": data}]), None))


@pytest.mark.parametrize("text", ["," * 2 * LONG, '",' * LONG, "\\," * LONG, '\\",' * LONG], ids=repr_of)
def test_commas_within_a_text_are_no_values(text: str) -> None:
    assert checked(body([{**TEXT, "data": [text]}]))["inputs"][0]["data"] == [text]


@pytest.mark.parametrize("length", [-1, 1000])
def test_json_that_would_be_longer_than_the_body_is_refused(length: int) -> None:
    with pytest.raises(InvalidInput, match="of which"):
        check_infer(InferBody(body([TEXT]), length))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = ("id", "parameters", "inputs", "outputs", "name", "shape", "datatype", "data", "binary_data_size")


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES), st.binary(max_size=8), st.integers(0, 200) | st.none())
def test_any_json_is_passed_on_as_json_or_refused(request: Any, tail: bytes, length: int | None) -> None:
    try:
        result = check_infer(InferBody(json.dumps(request).encode() + tail, length))
    except InvalidInput:
        return
    if result.json_length != 0:
        text = result.content[: result.json_length]
        assert isinstance(json.loads(text.decode("utf-8"), parse_constant=pytest.fail)["inputs"], list)
