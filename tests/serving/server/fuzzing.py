"""Inputs for fuzzing: HTTP frames, v2 requests, texts with parameters, gRPC messages.

Most are good requests with something changed, so that they get past the first check.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from checkpoints import WORDS
from hypothesis import strategies as st
from triton_fixture import CLASSIFIER, QA

__all__ = ["Frame", "Message", "TextCall", "frames", "grpc_messages", "text_calls", "v2_frames"]

MODELS = (CLASSIFIER, QA, f"{CLASSIFIER}_encoder", f"{QA}_encoder")
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "PRI", "get", "\x00", "")
PATHS = (
    "/v2",
    "/v2/health/ready",
    "/v2/models/stats",
    "/v2/repository/index",
    "/v2/repository/models/x/load",
    "/v2/logging",
    "/v2/trace/setting",
    "/v2/systemsharedmemory/region/x/register",
    "/metrics",
    *(
        f"/v2/models/{model}{end}"
        for model in MODELS
        for end in ("", "/infer", "/ready", "/config", "/generate")
    ),
    *(f"/v2/models/{model}/versions/{v}/infer" for model in MODELS for v in ("1", "2", "-1", "9" * 30)),
)
HEADERS = (
    "Content-Length",
    "Transfer-Encoding",
    "Content-Encoding",
    "Content-Type",
    "Inference-Header-Content-Length",
    "Accept-Encoding",
    "Connection",
    "Upgrade",
    "Expect",
    "Host",
    "triton-request-id",
    "admin-key",
)
VALUES = (
    *("0", "1", "-1", "99999999999999999999", "1e3", "chunked", "gzip", "deflate", "identity", "close"),
    *("keep-alive", "100-continue", "websocket", "h2c", "application/json", "", " ", "\t", "x" * 9000),
)
PARAMETERS = (
    *("top_k", "stride", "function_to_apply", "window_combination", "window_results", "max_answer_tokens"),
    *(
        "handle_impossible_answer",
        "timeout",
        "priority",
        "sequence_id",
        "sequence_start",
        "binary_data_output",
    ),
    *("triton_enable_empty_final_response", "unknown"),
)


@dataclass(frozen=True)
class Frame:
    """Bytes to send; whole: they are a request that has to be answered."""

    content: bytes
    whole: bool


@dataclass(frozen=True)
class TextCall:
    """Texts for a text model, by input, and the request's parameters."""

    model: str
    texts: dict[str, list[bytes]]
    parameters: dict[str, Any]
    protocol: str


@dataclass(frozen=True)
class Message:
    """A gRPC request as the fields of `ModelInferRequest`."""

    fields: dict[str, Any]


USUAL = st.integers(0, 3).map(bool)
"""Mostly true."""
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [-1, 0, 1, 2, 2**31, 2**61 + 1, 2**62, 2**63, 10**12, "", "\ud800", "a\0b", "mean", "true"]
    )
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
TEXTS = (
    st.text(max_size=200)
    | st.text(alphabet=st.characters(), max_size=60).map(lambda text: text * 40)
    | st.builds(
        lambda words, times: " ".join(words) * times,
        st.lists(st.sampled_from(WORDS.split())),
        st.integers(0, 60),
    )
    | st.sampled_from(
        ["", " ", "\n", "\u200b", "\ufeff", "a\0b", "</s>", "<s>", "<mask>", "é 😀 日本語", WORDS, WORDS * 40]
    )
)


def good_request(model: str) -> dict[str, Any]:
    """A small request that the model answers."""
    if model.endswith("_encoder"):
        names = {"input_ids": [0, 5, 6, 7, 2], "global_attention_mask": [1, 0, 0, 0, 0]}
        inputs = [{"name": n, "shape": [1, 5], "datatype": "INT64", "data": d} for n, d in names.items()]
    else:
        names = {"TEXT": WORDS} if model == CLASSIFIER else {"QUESTION": "who", "CONTEXT": WORDS}
        inputs = [{"name": n, "shape": [1, 1], "datatype": "BYTES", "data": [t]} for n, t in names.items()]
    return {"id": "fuzz", "parameters": {}, "inputs": inputs, "outputs": []}


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value inside a JSON value."""
    places = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        places += _places(inner, (*path, key))
    return places


@st.composite
def changed(draw: st.DrawFn, value: Any, most: int = 3) -> Any:
    """A copy of a JSON value with up to `most` changes: replaced, removed, doubled, grown."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(0, most))):
        path = draw(st.sampled_from(_places(value)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return draw(JSON)
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        key, kind = path[-1], draw(st.sampled_from(["replace", "remove", "double", "grow"]))
        if kind == "remove":
            del holder[key]
        elif kind == "double" and isinstance(holder, list):
            holder.insert(key, holder[key])
        elif kind == "grow" and isinstance(holder[key], dict):
            names = [
                *PARAMETERS,
                "shared_memory_region",
                "binary_data_size",
                "classification",
                "data",
                "shape",
            ]
            holder[key][draw(st.sampled_from(names))] = draw(JSON)
        elif kind == "grow" and isinstance(holder[key], list):
            holder[key].append(draw(JSON))
        else:
            holder[key] = draw(JSON)
    return value


def _http(method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body


@st.composite
def v2_frames(draw: st.DrawFn) -> Frame:
    """A well-framed request to a model's `infer` whose JSON has been changed."""
    model = draw(st.sampled_from(MODELS))
    request = draw(changed(good_request(model)))
    body = json.dumps(request).encode() + draw(st.just(b"") | st.binary(max_size=40))
    headers = [("Host", "x"), ("Connection", "close"), ("Content-Length", str(len(body)))]
    if draw(st.integers(0, 3)) == 0:
        length = draw(st.integers(-1, len(body) + 2).map(str) | st.sampled_from(VALUES[:5]))
        headers.append(("Inference-Header-Content-Length", length))
    return Frame(_http("POST", f"/v2/models/{model}/infer", headers, body), whole=True)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """What may come over a TCP connection: requests with odd lines and headers, some cut or garbled."""
    if draw(st.integers(0, 9)) == 0:
        return Frame(draw(st.binary(max_size=300)), whole=False)
    model = draw(st.sampled_from(MODELS))
    body = json.dumps(good_request(model)).encode()
    headers = [("Host", "x"), ("Connection", "close"), ("Content-Length", str(len(body)))]
    method, path = "POST", f"/v2/models/{model}/infer"
    if not draw(USUAL):
        odd = st.tuples(st.sampled_from(HEADERS), st.sampled_from(VALUES) | st.text(max_size=20))
        headers = draw(st.permutations(headers + draw(st.lists(odd, max_size=4))))
    if not draw(USUAL):
        method = draw(st.sampled_from(METHODS))
    if not draw(USUAL):
        path = draw(st.sampled_from(PATHS) | st.text(max_size=30))
    if not draw(USUAL):
        body *= draw(st.sampled_from([0, 2]))
    content = _http(method, path, headers, body)
    if not draw(USUAL):
        for _ in range(draw(st.integers(1, 2))):
            where = draw(st.integers(0, len(content)))
            rest = content[where + draw(st.integers(0, 6)) :]
            content = content[:where] + draw(st.binary(max_size=6)) + rest
    if not draw(USUAL):
        content = content[: draw(st.integers(0, len(content)))]
    return Frame(content, whole=False)


@st.composite
def text_calls(draw: st.DrawFn) -> TextCall:
    """Texts and parameters for a text model, over either protocol."""
    model = draw(st.sampled_from([CLASSIFIER, QA]))
    rows = draw(st.just(1) | st.integers(0, 17))
    elements = TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=60)
    names = ("TEXT",) if model == CLASSIFIER else ("QUESTION", "CONTEXT")
    texts = {name: draw(st.lists(elements, min_size=rows, max_size=rows)) for name in names}
    likely = {"top_k": st.integers(1, 5), "stride": st.integers(0, 200), "window_results": st.booleans()}
    parameters = draw(
        st.fixed_dictionaries({}, optional=likely)
        | st.dictionaries(
            st.sampled_from(PARAMETERS),
            st.booleans()
            | st.integers(-(2**63), 2**63 - 1)
            | st.text(max_size=8)
            | st.floats(allow_nan=False),
            max_size=2,
        )
    )
    return TextCall(model, texts, parameters, draw(st.sampled_from(["http", "grpc"])))


def _good_contents(given: dict[str, Any]) -> tuple[str, list[Any]]:
    if given["datatype"] == "INT64":
        return "int64_contents", given["data"]
    return "bytes_contents", [text.encode() for text in given["data"]]


@st.composite
def grpc_messages(draw: st.DrawFn) -> Message:
    """A good `ModelInferRequest`, or one with changes, of sizes up to 2^31: Triton 2.51 does not survive 2^61
    elements."""
    model = draw(st.sampled_from(MODELS)) if draw(USUAL) else draw(st.sampled_from(["", "nothing"]))
    inputs = []
    for given in good_request(model if model in MODELS else CLASSIFIER)["inputs"]:
        keep = {
            "name": given["name"],
            "datatype": given["datatype"],
            "shape": given["shape"],
            "contents": _good_contents(given),
        }
        if not draw(USUAL):
            keep |= draw(st.fixed_dictionaries({}, optional=_CHANGED_INPUT))
        inputs.append(keep)
    if not draw(USUAL):
        keep_first = draw(st.integers(0, len(inputs)))
        inputs = inputs[:keep_first] + inputs[: draw(st.integers(0, 1))]
    outputs = st.lists(st.sampled_from(["LABEL", "SCORE", "logits", "", "x"]), max_size=3)
    parameters = st.dictionaries(
        st.sampled_from(PARAMETERS) | st.text(max_size=6),
        st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8),
        max_size=2,
    )
    return Message(
        {
            "model_name": model,
            "model_version": "" if draw(USUAL) else draw(st.sampled_from(["1", "2", "x", "-1"])),
            "id": draw(st.text(max_size=10)),
            "inputs": inputs,
            "raw": None if draw(USUAL) else draw(st.lists(st.binary(max_size=60), max_size=3)),
            "outputs": [] if draw(USUAL) else draw(outputs),
            "parameters": {} if draw(USUAL) else draw(parameters),
        }
    )


_CHANGED_INPUT: dict[str, st.SearchStrategy[Any]] = {
    "name": st.text(max_size=5),
    "datatype": st.sampled_from(["INT32", "FP16", "BOOL", "", "X"]),
    "shape": st.lists(st.integers(-2, 2**31), max_size=4),
    "contents": st.none()
    | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6).map(lambda values: ("int64_contents", values))
    | st.lists(st.binary(max_size=20), max_size=3).map(lambda values: ("bytes_contents", values))
    | st.lists(st.booleans(), max_size=3).map(lambda values: ("bool_contents", values)),
}
