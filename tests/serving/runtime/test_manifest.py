"""The bundle's contract: old manifests stay readable, and what is no manifest is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longserve.serving.runtime.errors import BundleError, CorruptBundle, IncompatibleBundle
from longserve.serving.runtime.manifest import (
    SCHEMA_VERSION,
    FileRecord,
    GlobalAttention,
    GraphSpec,
    Layout,
    Manifest,
    ParitySummary,
    Precision,
    ProblemType,
    Quantization,
    Task,
    TensorSpec,
)

GOLDEN = Path(__file__).parent / "golden" / "manifest-1.0.json"
"""Written by schema version 1.0. Never write it anew: it stands for the bundles that are out there."""

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = TEXT.filter(bool)
POSITIVE = st.integers(1, 2**40)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TENSORS = st.builds(
    TensorSpec, name=TEXT, dtype=TEXT, axes=st.lists(st.one_of(TEXT, POSITIVE), max_size=3).map(tuple)
)
MANIFESTS = st.builds(
    Manifest,
    schema_version=st.just(SCHEMA_VERSION),
    task=st.sampled_from(Task),
    model_id=TEXT,
    revision=st.one_of(st.none(), TEXT),
    architecture=TEXT,
    attention_window=st.lists(POSITIVE, min_size=1, max_size=4).map(tuple),
    max_length=POSITIVE,
    block_size=POSITIVE,
    max_global_tokens=st.one_of(st.none(), POSITIVE),
    vocab_size=st.just(1000),
    type_vocab_size=POSITIVE,
    graphs=st.lists(
        st.builds(
            GraphSpec,
            file=NAMES,
            layout=st.sampled_from(Layout),
            inputs=st.lists(TENSORS, max_size=3).map(tuple),
            outputs=st.lists(TENSORS, max_size=2).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
    labels=st.lists(TEXT, max_size=4).map(tuple),
    problem_type=st.one_of(st.none(), st.sampled_from(ProblemType)),
    special_tokens=st.dictionaries(TEXT, st.integers(0, 999), max_size=4),
    global_attention=st.sampled_from(GlobalAttention),
    question_separators=st.integers(1, 3),
    random_blocks=st.one_of(st.none(), st.integers(0, 9)),
    precision=st.sampled_from(Precision),
    opset=POSITIVE,
    tools=st.dictionaries(TEXT, TEXT, max_size=3),
    files=st.lists(
        st.builds(FileRecord, name=NAMES, sha256=TEXT, size=st.integers(0, 2**60)), max_size=3
    ).map(tuple),
    parity=st.one_of(
        st.none(),
        st.builds(
            ParitySummary,
            provider=TEXT,
            cases=POSITIVE,
            worst_case=TEXT,
            max_abs=FLOATS,
            max_relative=FLOATS,
            min_cosine=FLOATS,
            argmax_agreement=FLOATS,
            tolerance=FLOATS,
        ),
    ),
    has_tokenizer=st.booleans(),
    quantization=st.one_of(st.none(), st.sampled_from(Quantization)),
)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(2**1024), st.floats(), st.text(max_size=8)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture
def golden() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return data


def tensor(name: str, dtype: str, *axes: str | int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, axes=axes)


def replaced(data: Any, path: tuple[str | int, ...], value: Any) -> str:
    """Return `data` as JSON with the value at a path replaced (`...` removes it)."""
    place = data
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(data)


def test_the_golden_manifest_reads_as_it_was_written() -> None:
    manifest = Manifest.from_json(GOLDEN.read_text(encoding="utf-8"))
    padded, packed = ("batch", "sequence"), ("tokens",)
    assert manifest == Manifest(
        schema_version="1.0",
        task=Task.TEXT_CLASSIFICATION,
        model_id="someone/longformer-news",
        revision="0123456789abcdef0123456789abcdef01234567",
        architecture="longformer",
        attention_window=(4, 8),
        max_length=64,
        block_size=16,
        max_global_tokens=32,
        vocab_size=320,
        type_vocab_size=2,
        graphs=(
            GraphSpec(
                file="model.onnx",
                layout=Layout.PADDED,
                inputs=(
                    tensor("input_ids", "int64", *padded),
                    tensor("attention_mask", "int64", *padded),
                    tensor("global_attention_mask", "int64", *padded),
                    tensor("token_type_ids", "int64", *padded),
                ),
                outputs=(tensor("logits", "float32", "batch", 3),),
            ),
            GraphSpec(
                file="model.packed.onnx",
                layout=Layout.PACKED,
                inputs=(
                    tensor("input_ids", "int64", *packed),
                    tensor("global_attention_mask", "int64", *packed),
                    tensor("sequence_ends", "int32", "batch"),
                    tensor("token_type_ids", "int64", *packed),
                ),
                outputs=(tensor("logits", "float32", "batch", 3),),
            ),
        ),
        labels=("sport", "économie", "天気"),
        problem_type=ProblemType.MULTI_LABEL,
        special_tokens={"bos": 0, "cls": 0, "eos": 2, "mask": 4, "pad": 1, "sep": 2, "unk": 3},
        global_attention=GlobalAttention.FIRST_TOKEN,
        precision=Precision.FP32,
        opset=20,
        tools={
            "longserve": "0.1.0",
            "onnx": "1.23.2",
            "onnx-ir": "1.1.0",
            "onnxruntime": "1.32.0",
            "onnxscript": "0.7.2",
            "optimum": "2.3.0",
            "torch": "2.13.0+cpu",
            "transformers": "5.23.0",
        },
        files=(
            FileRecord(
                name="config.json",
                sha256="20373784f10a8717adde9b062b2dcc9c4bd7797b08fd3ffe274981dd1ee210f3",
                size=774,
            ),
            FileRecord(
                name="model.onnx",
                sha256="42e9de14786807b8d161c3edf7e57a1ac9302371e2218c091b7663db65683cba",
                size=44360,
            ),
            FileRecord(
                name="model.onnx.data",
                sha256="1f1c323cab4742e528d9db7e82295721e9f6d200526b87789464db01bdaedd27",
                size=14400,
            ),
            FileRecord(
                name="model.packed.onnx",
                sha256="e3fd68c3e2c591ffe7d1d94700db0369644d8fc5099aed0910ab2eb8ccb6423f",
                size=45318,
            ),
            FileRecord(
                name="parity.json",
                sha256="627716b0212b9d31b2f249cb11104bff8e3ffe9d117289c280631a32fa68476b",
                size=44041,
            ),
            FileRecord(
                name="tokenizer.json",
                sha256="c0f89c24ac8dc3913ff0311dbcaa14e0a979e68f970e8a2837c147270b67e021",
                size=9524,
            ),
        ),
        parity=ParitySummary(
            provider="onnxruntime CPUExecutionProvider",
            cases=168,
            worst_case="packed 17+8+14[none,first,task]",
            max_abs=6.25e-07,
            max_relative=5.0e-07,
            min_cosine=0.9999999999996688,
            argmax_agreement=0.9921875,
            tolerance=1e-05,
        ),
        has_tokenizer=True,
    )
    assert manifest.validated
    assert manifest.quantization is None
    assert manifest.graph(Layout.PACKED).file == "model.packed.onnx"


def test_the_golden_manifest_is_what_this_release_writes() -> None:
    """Another text under the same schema version would be a change that readers are not told of."""
    path = GOLDEN.with_name(f"manifest-{SCHEMA_VERSION}.json")
    text = path.read_text(encoding="utf-8")
    manifest = Manifest.from_json(text)
    assert manifest.fused_attention
    assert manifest.to_json() == text


def test_a_manifest_of_another_architecture_reads_as_it_was_written() -> None:
    text = GOLDEN.with_name("manifest-1.3.json").read_text(encoding="utf-8")
    manifest = Manifest.from_json(text)
    assert manifest.architecture == "bert"
    assert manifest.global_attention is GlobalAttention.NONE and not manifest.takes_global_attention
    assert (manifest.question_separators, manifest.context_token_type) == (1, 1)
    assert json.loads(manifest.to_json()) == {**json.loads(text), "fused_attention": False}


@pytest.mark.parametrize(
    ("version", "precision", "quantization"),
    [("1.1", Precision.INT8, Quantization.WEIGHTS), ("1.2", Precision.FP16, None)],
)
def test_an_older_manifest_reads_as_it_was_written(
    version: str, precision: Precision, quantization: Quantization | None
) -> None:
    """With Longformer's values of what schema 1.3 added, and without what 1.4 did."""
    text = GOLDEN.with_name(f"manifest-{version}.json").read_text(encoding="utf-8")
    manifest = Manifest.from_json(text)
    assert (manifest.precision, manifest.quantization) == (precision, quantization)
    added = {
        "question_separators": 2,
        "context_token_type": 0,
        "random_blocks": None,
        "fused_attention": False,
    }
    assert json.loads(manifest.to_json()) == {**json.loads(text), **added}
    assert manifest.takes_global_attention


@settings(max_examples=60, deadline=None)
@given(manifest=MANIFESTS)
def test_a_manifest_survives_the_way_through_json(manifest: Manifest) -> None:
    text = manifest.to_json()
    again = Manifest.from_json(text)
    assert again == manifest
    assert again.to_json() == text
    assert text.encode("utf-8")


def test_fields_that_have_defaults_may_be_missing(golden: dict[str, Any]) -> None:
    assert Manifest.from_json(replaced(golden, ("has_tokenizer",), ...)).has_tokenizer


@pytest.mark.parametrize("path", [("quality",), ("graphs", 0, "quality"), ("parity", "quality")], ids=str)
@pytest.mark.parametrize("version", ["1.0", "1.7", "1.10"])
def test_fields_of_a_newer_minor_version_are_ignored(
    golden: dict[str, Any], path: tuple[str, ...], version: str
) -> None:
    known = Manifest.from_json(json.dumps({**golden, "schema_version": version}))
    golden["schema_version"] = version
    assert Manifest.from_json(replaced(golden, path, {"deep": [1, 2]})) == known


@pytest.mark.parametrize("version", ["2.0", "0.9", "10.0", "11.0"])
def test_another_major_version_is_refused(golden: dict[str, Any], version: str) -> None:
    text = json.dumps({"schema_version": version, "all": "else may differ"})
    cause = f"^here has schema version {version}, this longserve reads 1.x; export the bundle again, or use"
    with pytest.raises(IncompatibleBundle, match=cause):
        Manifest.from_json(text, source="here")


def test_a_value_of_a_newer_minor_version_is_not_called_damage(golden: dict[str, Any]) -> None:
    golden["schema_version"] = "1.10"
    with pytest.raises(IncompatibleBundle, match=r"precision is 'fp64'.*schema version 1\.10.*upgrade"):
        Manifest.from_json(replaced(golden, ("precision",), "fp64"))


@pytest.mark.parametrize(
    "version", ["", "1", "1.", "one.0", "1.0.0", " 1.0", "1.٣", "1." + "9" * 5000, 1.0, 1, None, ["1.0"], ...]
)
def test_what_is_no_schema_version(golden: dict[str, Any], version: Any) -> None:
    with pytest.raises(CorruptBundle, match="schema_version"):
        Manifest.from_json(replaced(golden, ("schema_version",), version))


@pytest.mark.parametrize(
    "path",
    [
        ("task",),
        ("attention_window",),
        ("files", 1, "sha256"),
        ("graphs", 1, "inputs", 2, "axes"),
        ("parity", "tolerance"),
    ],
    ids=str,
)
def test_a_missing_field_is_named(golden: dict[str, Any], path: tuple[str | int, ...]) -> None:
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path[:-1])
    with pytest.raises(CorruptBundle) as caught:
        Manifest.from_json(replaced(golden, path, ...), source="here")
    assert str(caught.value) == f"here{where} has no field '{path[-1]}'; export the bundle again"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("max_length",), "64"),
        (("max_length",), 64.0),
        (("max_length",), True),
        (("max_length",), None),
        (("max_global_tokens",), "all"),
        (("has_tokenizer",), 1),
        (("revision",), 7),
        (("attention_window",), 8),
        (("attention_window",), "48"),
        (("attention_window", 1), "8"),
        (("labels",), {"0": "sport"}),
        (("labels", 2), None),
        (("special_tokens",), [0, 1]),
        (("special_tokens", "cls"), "0"),
        (("tools", "torch"), 2.13),
        (("files", 0), "config.json"),
        (("files", 0, "size"), "774"),
        (("graphs",), {}),
        (("graphs", 0, "layout"), "sparse"),
        (("graphs", 0, "inputs", 0, "axes", 0), 1.5),
        (("graphs", 0, "inputs", 0, "axes", 0), False),
        (("graphs", 0, "inputs", 0, "axes", 0), None),
        (("task",), "fill-mask"),
        (("task",), ["text-classification"]),
        (("precision",), None),
        (("problem_type",), "ranking"),
        (("parity",), []),
        (("parity",), "passed"),
        (("parity", "max_abs"), "small"),
        (("parity", "max_abs"), 10**400),
        (("parity", "cases"), 1.0),
    ],
    ids=str,
)
def test_a_wrong_type_is_named_with_its_value(
    golden: dict[str, Any], path: tuple[str | int, ...], value: Any
) -> None:
    where = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in path)
    with pytest.raises(CorruptBundle) as caught:
        Manifest.from_json(replaced(golden, path, value), source="here")
    message = str(caught.value)
    assert message.startswith(f"here{where} is ")
    assert repr(value) in message or len(repr(value)) > 60
    assert len(message) < 300


@pytest.mark.parametrize(
    ("path", "value", "cause"),
    [
        (("max_length",), 0, "max_length is 0"),
        (("block_size",), -16, "block_size is -16"),
        (("vocab_size",), 0, "vocab_size is 0"),
        (("type_vocab_size",), 0, "type_vocab_size is 0"),
        (("max_global_tokens",), 0, "max_global_tokens is 0"),
        (("attention_window",), [], r"attention_window is \[\]"),
        (("attention_window",), [4, 0], r"attention_window is \[4, 0\]"),
        (("context_token_type",), 2, "context_token_type is 2; token types end at 1"),
        (("question_separators",), 0, "question_separators is 0"),
        (("random_blocks",), -1, "random_blocks is -1"),
        (("special_tokens", "sep"), 320, "special_tokens.sep is 320"),
        (("special_tokens", "cls"), -1, "special_tokens.cls is -1"),
    ],
)
def test_sizes_that_no_model_has_are_refused(
    golden: dict[str, Any], path: tuple[str, ...], value: Any, cause: str
) -> None:
    with pytest.raises(CorruptBundle, match=f"^here.{cause}; .*export the bundle again$"):
        Manifest.from_json(replaced(golden, path, value), source="here")


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "7", '"1.0"', "{}", "\ufeff{}", "[" * 100_000, '{"a":' * 100_000, "9" * 10_000],
    ids=lambda text: f"{text[:6]}x{len(text)}",
)
def test_what_is_no_manifest(text: str) -> None:
    with pytest.raises(CorruptBundle, match=r"^here (is not JSON|has no schema_version)") as caught:
        Manifest.from_json(text, source="here")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have(golden: dict[str, Any], number: float) -> None:
    with pytest.raises(CorruptBundle, match="here is not JSON"):
        Manifest.from_json(replaced(golden, ("parity", "max_abs"), number), source="here")


def test_a_long_value_is_not_repeated_whole(golden: dict[str, Any]) -> None:
    with pytest.raises(CorruptBundle) as caught:
        Manifest.from_json(replaced(golden, ("max_length",), "x" * 100_000))
    assert len(str(caught.value)) < 300


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for step, item in inner for found in _paths(item, (*path, step))]


@settings(max_examples=200, deadline=None)
@given(
    path=st.sampled_from(_paths(json.loads(GOLDEN.read_text(encoding="utf-8")))),
    value=st.one_of(JSON, st.just(...)),
)
def test_any_other_value_anywhere_is_read_or_refused_as_a_bundle(
    path: tuple[str | int, ...], value: Any
) -> None:
    data = json.loads(GOLDEN.read_text(encoding="utf-8"))
    try:
        manifest = Manifest.from_json(replaced(data, path, value))
    except BundleError:
        return
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_layout_that_the_bundle_lacks_is_named(golden: dict[str, Any]) -> None:
    manifest = Manifest.from_json(replaced(golden, ("graphs", 1), ...))
    assert manifest.graph(Layout.PADDED).file == "model.onnx"
    with pytest.raises(CorruptBundle, match="names no packed graph; export the bundle again"):
        manifest.graph(Layout.PACKED)


def test_without_parity_a_bundle_is_not_validated(golden: dict[str, Any]) -> None:
    assert not Manifest.from_json(replaced(golden, ("parity",), None)).validated
