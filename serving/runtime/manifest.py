"""The manifest: what a bundle says of itself.

A bundle is a directory that `longserve export` writes and everything else reads. `manifest.json` in it is
the contract between the two halves; this module defines it, once, without torch, transformers or any
package beyond the standard library, because a copy of it travels into every Triton repository.
"""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from .errors import CorruptBundle, IncompatibleBundle

__all__ = [
    "FileRecord",
    "GlobalAttention",
    "GraphSpec",
    "Layout",
    "MANIFEST_NAME",
    "Manifest",
    "ParitySummary",
    "Precision",
    "ProblemType",
    "Quantization",
    "SCHEMA_VERSION",
    "Task",
    "TensorSpec",
    "decode",
]

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = "1.4"
"""`major.minor`. A reader refuses another major; a new minor only adds fields that have defaults."""


class Task(str, Enum):
    """What the model's head does, by the Hugging Face name of the task."""

    TEXT_CLASSIFICATION = "text-classification"
    QUESTION_ANSWERING = "question-answering"


class Precision(str, Enum):
    """The arithmetic of a bundle's weights."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class Quantization(str, Enum):
    """How the products of an int8 bundle are quantized."""

    DYNAMIC = "dynamic"
    """Products of integers, as ONNX Runtime multiplies them: weights per column; activations as they come,
    with one scale for all tokens, some of them divided by the token's largest value before."""
    WEIGHTS = "weights"
    """Weights per column behind a standard DequantizeLinear, which any engine reads, rounded so that the
    layers' results change least. OpenVINO multiplies them as integers and quantizes the activations in groups
    of a token's values; others compute in float32."""


class Layout(str, Enum):
    """How the tokens of several sequences lie in a graph's inputs."""

    PADDED = "padded"
    """`[batch, sequence]`, shorter rows padded, `attention_mask` 0 on padding."""
    PACKED = "packed"
    """`[tokens]`, one sequence after the other, `sequence_ends` holding the accumulated lengths."""


class GlobalAttention(str, Enum):
    """Which tokens the task's checkpoints were trained to attend from and to globally."""

    FIRST_TOKEN = "first-token"
    """Token 0 alone: Hugging Face's `LongformerForSequenceClassification`."""
    QUESTION = "question"
    """Every token before the first separator: Hugging Face's `LongformerForQuestionAnswering`."""
    NONE = "none"
    """No token: the architecture has no such attention, and its graphs no input `global_attention_mask`."""


class ProblemType(str, Enum):
    """How the logits of a classifier are to be read (Hugging Face's `config.problem_type`)."""

    SINGLE_LABEL = "single_label_classification"
    MULTI_LABEL = "multi_label_classification"
    REGRESSION = "regression"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: the tensor's name.
        dtype: numpy's name of its element type, e.g. `int64`.
        axes: a name for each dynamic axis, a number for each fixed one.
    """

    name: str
    dtype: str
    axes: tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """One ONNX file of the bundle."""

    file: str
    layout: Layout
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file of the bundle, as it was written: name, SHA-256 in hexadecimal, size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParitySummary:
    """The worst figures of the parity run that let the bundle pass (details in `parity.json`).

    Attributes:
        provider: execution provider that was compared with PyTorch.
        cases: number of compared cases.
        worst_case: the case with the largest error.
        max_abs: largest absolute difference of any logit.
        max_relative: largest `max_abs / max(1, largest reference logit)` of a case.
        min_cosine: smallest cosine similarity of a case.
        argmax_agreement: share of equal predictions, 0 to 1.
        tolerance: bound on `max_relative` that applied.
    """

    provider: str
    cases: int
    worst_case: str
    max_abs: float
    max_relative: float
    min_cosine: float
    argmax_agreement: float
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything a reader needs to know of a bundle.

    Attributes:
        schema_version: see `SCHEMA_VERSION`.
        task: what the head does.
        model_id: hub id or the checkpoint directory's name, as given to the export.
        revision: commit of the hub repository, or None for a local directory.
        architecture: `longformer`, `bert`, or another that longserve exports.
        attention_window: attention window of each layer, in tokens (both sides together); empty where every
            token sees every other.
        max_length: longest sequence, in tokens, special tokens included.
        block_size: tokens per block of the exported attention.
        max_global_tokens: global tokens per sequence that the graph can take; None: any number.
        vocab_size, type_vocab_size: sizes of the embedding tables; ids must be below them.
        graphs: the ONNX files.
        labels: label names by index (classification; empty for question answering).
        problem_type: how the logits are read (classification; None for question answering).
        special_tokens: role (`cls`, `sep`, `pad`, `unk`, `mask`, `bos`, `eos`) to token id.
        global_attention: the task's convention.
        precision: arithmetic of the weights.
        quantization: how an int8 bundle is quantized; None: not at all, or (before schema 1.1) dynamic.
        question_separators: separators between question and context; before schema 1.3 Longformer's 2.
        context_token_type: token type of the context and what follows; the tokens before it have 0.
        random_blocks: blocks that a block of BigBird's attention sees beside its neighbours and the two
            global ones; None for other architectures.
        fused_attention: whether the local attention is one `Attention` operator of the graph.
        opset: ONNX opset of the graphs.
        tools: name to version of what wrote the bundle.
        files: every file of the bundle but the manifest itself.
        parity: worst figures against PyTorch; None marks the bundle *unvalidated*.
        has_tokenizer: whether `tokenizer.json` is there; text-level serving needs it.
    """

    schema_version: str
    task: Task
    model_id: str
    revision: str | None
    architecture: str
    attention_window: tuple[int, ...]
    max_length: int
    block_size: int
    max_global_tokens: int | None
    vocab_size: int
    type_vocab_size: int
    graphs: tuple[GraphSpec, ...]
    labels: tuple[str, ...]
    problem_type: ProblemType | None
    special_tokens: Mapping[str, int]
    global_attention: GlobalAttention
    precision: Precision
    opset: int
    tools: Mapping[str, str]
    files: tuple[FileRecord, ...]
    parity: ParitySummary | None
    has_tokenizer: bool = True
    quantization: Quantization | None = None
    question_separators: int = 2
    context_token_type: int = 0
    random_blocks: int | None = None
    fused_attention: bool = False

    @property
    def takes_global_attention(self) -> bool:
        """Whether the graphs have the input `global_attention_mask`."""
        return self.global_attention is not GlobalAttention.NONE

    @property
    def validated(self) -> bool:
        """Whether a parity run passed before the bundle was written."""
        return self.parity is not None

    def graph(self, layout: Layout) -> GraphSpec:
        """Return the graph of that layout.

        Raises:
            CorruptBundle: the manifest names none.
        """
        for graph in self.graphs:
            if graph.layout is layout:
                return graph
        raise CorruptBundle(f"the manifest names no {layout.value} graph; export the bundle again")

    def to_json(self) -> str:
        """Return the manifest as indented JSON with sorted keys, ending in a newline."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = MANIFEST_NAME) -> Manifest:
        """Read a manifest from JSON. Fields that a newer minor version added are ignored.

        Args:
            text: the JSON text.
            source: name for error messages.

        Raises:
            IncompatibleBundle: another major schema version, or a newer minor one with a value that this
                release does not know.
            CorruptBundle: not JSON, or a field is missing, of the wrong type or out of its range.
        """
        try:
            data = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise CorruptBundle(f"{source} is not JSON ({error}); export the bundle again") from error
        version = data.get("schema_version") if isinstance(data, dict) else None
        if not isinstance(version, str) or not re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}", version):
            raise CorruptBundle(
                f"{source} has no schema_version like {SCHEMA_VERSION!r}; it is no longserve manifest"
            )
        (major, minor), (own_major, own_minor) = (v.split(".") for v in (version, SCHEMA_VERSION))
        if major != own_major:
            raise IncompatibleBundle(
                f"{source} has schema version {version}, this longserve reads {own_major}.x; "
                "export the bundle again, or use the longserve that wrote it"
            )
        try:
            manifest = decode(cls, data, source)
        except CorruptBundle as error:
            if int(minor) <= int(own_minor):
                raise
            raise IncompatibleBundle(
                f"{error}; {source} has schema version {version}, newer than this longserve's "
                f"{SCHEMA_VERSION}: upgrade longserve"
            ) from error
        assert isinstance(manifest, Manifest)
        _check_sizes(manifest, source)
        return manifest


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _check_sizes(manifest: Manifest, source: str) -> None:
    for name in ("max_length", "block_size", "max_global_tokens", "vocab_size", "type_vocab_size"):
        size = getattr(manifest, name)
        if size is not None and size < 1:
            raise CorruptBundle(f"{source}.{name} is {size}; it must be positive; export the bundle again")
    window = manifest.attention_window
    if (manifest.takes_global_attention and not window) or any(size < 1 for size in window):
        raise CorruptBundle(
            f"{source}.attention_window is {list(window)}; it must hold a positive number per layer; "
            "export the bundle again"
        )
    if not 0 <= manifest.context_token_type < manifest.type_vocab_size:
        raise CorruptBundle(
            f"{source}.context_token_type is {manifest.context_token_type}; token types end at "
            f"{manifest.type_vocab_size - 1}; export the bundle again"
        )
    for name, least in (("question_separators", 1), ("random_blocks", 0)):
        number = getattr(manifest, name)
        if number is not None and number < least:
            raise CorruptBundle(
                f"{source}.{name} is {number}; it must be at least {least}; export the bundle again"
            )
    for role, token in manifest.special_tokens.items():
        if not 0 <= token < manifest.vocab_size:
            raise CorruptBundle(
                f"{source}.special_tokens.{role} is {token}; ids end at {manifest.vocab_size - 1}; "
                "export the bundle again"
            )


def _shown(value: Any) -> str:
    """A value for a message: its beginning, because a damaged manifest may hold anything."""
    shorten = reprlib.Repr()
    shorten.maxstring = shorten.maxother = 60
    return shorten.repr(value)


def decode(kind: Any, value: Any, where: str) -> Any:
    """Convert a JSON value to `kind` (a dataclass, enum, tuple, mapping, union or scalar), checking types.

    Raises:
        CorruptBundle: it is none; `where` names its place.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if origin in (Union, UnionType):
        return _decode_union(arguments, value, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            legal = ", ".join(str(member.value) for member in kind)
            raise CorruptBundle(f"{where} is {_shown(value)}; legal: {legal}") from None
    if origin is tuple and isinstance(value, list):
        return tuple(decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {key: decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise CorruptBundle(f"{where} is {_shown(value)}, which is not of the type that the schema gives")


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    candidates = [kind for kind in kinds if kind is not type(None)]
    for kind in candidates[:-1]:
        if type(value) is kind:
            return value
    return decode(candidates[-1], value, where)


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise CorruptBundle(f"{where} is {_shown(value)} where an object is expected")
    hints = get_type_hints(kind)
    fields = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            fields[field.name] = decode(hints[field.name], value[field.name], f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING:
            raise CorruptBundle(f"{where} has no field {field.name!r}; export the bundle again")
    return kind(**fields)
