"""Writing bundles: what they hold, and that a failure leaves nothing behind."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from checkpoints import make_checkpoint

from longserve.export import (
    ExportSettings,
    OutputError,
    ParityFailed,
    Tolerance,
    export_bundle,
    exporter,
    parity,
    validate_bundle,
)
from longserve.export.cli import stop_on_signals
from longserve.export.graph import export_graph
from longserve.export.progress import TerminalProgress
from longserve.export.quantization import quantize_models
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import OnnxRuntimeEngine, encode, open_packed_engine
from longserve.serving.runtime.errors import InvalidInput
from longserve.serving.runtime.manifest import (
    GlobalAttention,
    Layout,
    Precision,
    ProblemType,
    Quantization,
    Task,
)
from longserve.serving.runtime.packing import EncoderSequence, pad

COMMAND = [sys.executable, "-c", "from longserve.serving.command import main; main()"]


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer and 64 positions: exports in seconds."""
    return make_checkpoint(
        tmp_path_factory.mktemp("small") / "checkpoint",
        "text-classification",
        num_hidden_layers=1,
        attention_window=[16],
        max_position_embeddings=66,
        num_labels=3,
    )


class _ByContent(pickle.Pickler):
    """Pickles tensors by their values alone; PyTorch's way names the memory that they are in."""

    def persistent_id(self, thing: Any) -> Any:
        if isinstance(thing, torch.Tensor):
            return str(thing.dtype), tuple(thing.shape), thing.detach().numpy().tobytes()
        return None


def _digest(module: Any) -> bytes:
    content = io.BytesIO()
    _ByContent(content).dump(module)
    return hashlib.sha256(content.getvalue()).digest()


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
    """Trace equal modules once for all tests here, which takes most of the time of so small an export."""
    traced: dict[tuple[bytes, Layout, int], ir.Model] = {}

    def export_once(module: Any, config: Any, task: Task, layout: Layout, *, opset: int) -> ir.Model:
        key = (_digest(module), layout, opset)
        if key not in traced:
            traced[key] = export_graph(module, config, task, layout, opset=opset)
        return traced[key].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "export_graph", export_once)
        yield


def _left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_bundle_holds_what_its_manifest_says(classification_bundle: Path) -> None:
    bundle = Bundle.open(classification_bundle)
    manifest = bundle.manifest
    assert _left_in(classification_bundle) == [
        "config.json",
        "manifest.json",
        "model.onnx",
        "model.onnx.data",
        "model.packed.onnx",
        "parity.json",
        "tokenizer.json",
    ]
    assert {record.name for record in manifest.files} == set(_left_in(classification_bundle)) - {
        "manifest.json"
    }
    assert manifest.task is Task.TEXT_CLASSIFICATION
    assert manifest.labels == ("alpha", "beta", "gamma", "delta", "epsilon")
    assert manifest.problem_type is ProblemType.SINGLE_LABEL
    assert manifest.attention_window == (16, 32)
    assert manifest.max_length == 512
    assert manifest.global_attention is GlobalAttention.FIRST_TOKEN
    assert manifest.special_tokens["cls"] == 0 and manifest.special_tokens["pad"] == 1
    assert manifest.tools["torch"] and manifest.tools["transformers"] and manifest.tools["onnx-ir"]
    assert manifest.model_id == "classifier" and manifest.revision is None
    assert manifest.validated and manifest.parity is not None
    assert manifest.parity.max_relative <= 1e-5
    report = json.loads((classification_bundle / "parity.json").read_text(encoding="utf-8"))
    assert report["failures"] == [] and len(report["results"]) == manifest.parity.cases
    assert {result["layout"] for result in report["results"]} == {"padded", "packed"}


def test_the_tokenizer_of_a_bundle_is_the_checkpoints(qa_bundle: Path, qa_checkpoint: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    stock = AutoTokenizer.from_pretrained(qa_checkpoint)
    ours = Tokenizer.from_file(str(qa_bundle / "tokenizer.json"))
    for text in ("the quick brown fox", " seven  lanterns\n", "Ünïcode 🙂 漢字"):
        assert ours.encode(text).ids == stock(text)["input_ids"]


def test_a_failing_comparison_leaves_no_bundle(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impossible = {**parity.TOLERANCES, Precision.FP32: Tolerance(max_relative=1e-12, min_cosine=0.9)}
    monkeypatch.setattr("longserve.export.parity.TOLERANCES", impossible)
    with pytest.raises(ParityFailed, match=r"the worst is .* in the (padded|packed) layout"):
        export_bundle(str(small_checkpoint), Task.TEXT_CLASSIFICATION, tmp_path / "bundle")
    assert _left_in(tmp_path) == []


def test_an_existing_bundle_is_replaced_only_when_asked_and_no_validate_marks_it(
    small_checkpoint: Path, classification_bundle: Path, tmp_path: Path
) -> None:
    target, settings = tmp_path / "bundle", ExportSettings(validate=False)
    shutil.copytree(classification_bundle, target)
    (target / "parity.json").write_text("old", encoding="utf-8")
    with pytest.raises(OutputError, match="--overwrite"):
        export_bundle(str(small_checkpoint), Task.TEXT_CLASSIFICATION, target, settings=settings)
    assert (target / "parity.json").exists()
    result = export_bundle(
        str(small_checkpoint), Task.TEXT_CLASSIFICATION, target, settings=settings, overwrite=True
    )
    assert _left_in(tmp_path) == ["bundle"]
    assert result.parity is None
    assert not Bundle.open(target).manifest.validated
    assert not (target / "parity.json").exists()


def test_what_is_no_bundle_is_never_replaced(small_checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "photos"
    target.mkdir()
    (target / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(OutputError, match="is no bundle"):
        export_bundle(str(small_checkpoint), Task.TEXT_CLASSIFICATION, target, overwrite=True)
    assert (target / "holiday.jpg").read_bytes() == b"precious"


def test_a_place_that_cannot_be_written_to(small_checkpoint: Path, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot write into"):
        export_bundle(str(small_checkpoint), Task.TEXT_CLASSIFICATION, blocker / "bundle")


def test_too_little_space_is_said_before_the_work(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(OutputError, match="0 MB free, but the weights alone take"):
        export_bundle(str(small_checkpoint), Task.TEXT_CLASSIFICATION, tmp_path / "bundle")
    assert _left_in(tmp_path) == []


def test_a_disk_that_fills_up_leaves_nothing(
    longserve: Callable[..., tuple[object, str, str]], small_checkpoint: Path, tmp_path: Path
) -> None:
    """The limit on a file's size stands for a full disk: the write fails in the middle of the data file."""
    usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (39 << 10, most))
    try:
        status, _, errors = longserve(
            "export", small_checkpoint, "--task", "text-classification", "-o", tmp_path / "bundle"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))
    assert status == 1
    assert "cannot write to" in errors and "File too large" in errors
    assert _left_in(tmp_path) == []


def test_a_disk_that_fills_up_at_the_tokenizer(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_text

    def full(path: Path, *arguments: Any, **options: Any) -> int:
        if path.name == "tokenizer.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(
        OutputError, match=r"cannot write .*bundle: No space left on device; nothing was left"
    ):
        export_bundle(str(small_checkpoint), Task.TEXT_CLASSIFICATION, tmp_path / "bundle")
    assert _left_in(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(
    small_checkpoint: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [*COMMAND, "export", str(small_checkpoint), "--task", "text-classification", "-o", "bundle"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not _left_in(tmp_path):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the export never began to write"
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert _left_in(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_something_swallowed_is_raised_again(number: signal.Signals) -> None:
    stages = []
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as check, TerminalProgress(check) as progress:
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            time.sleep(10)
        stages.append("swallowed")
        progress.stage("the next stage")
        stages.append("gone on")
    assert stages == ["swallowed"]


def test_an_output_that_onnxruntime_could_not_open(small_checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "out\udcff" / "bundle"
    with pytest.raises(OutputError, match=r"the output '.*out\\udcff/bundle' is no UTF-8"):
        export_bundle(str(small_checkpoint), Task.TEXT_CLASSIFICATION, target)
    assert _left_in(tmp_path) == []


def test_a_fixed_number_of_global_tokens(small_checkpoint: Path, tmp_path: Path) -> None:
    settings = ExportSettings(max_global_tokens=4, max_length=40)
    result = export_bundle(
        str(small_checkpoint), Task.TEXT_CLASSIFICATION, tmp_path / "bundle", settings=settings
    )
    assert result.manifest.max_length == 40
    mask = np.zeros(20, dtype=np.int64)
    mask[:5] = 1
    sequence = EncoderSequence(input_ids=np.arange(3, 23), global_attention_mask=mask)
    with pytest.raises(InvalidInput, match=r"marks 5 tokens .* at most 4"):
        encode(open_packed_engine(Bundle.open(result.path)), [sequence], result.manifest)
    # who runs the graph without longserve gets no number rather than a wrong one
    unchecked = dataclasses.replace(result.manifest, max_global_tokens=None)
    fitting = EncoderSequence(input_ids=sequence.input_ids, global_attention_mask=np.roll(mask, -1))
    feeds = pad([sequence, fitting], unchecked)
    feeds["global_attention_mask"][1, -1] = 0
    logits = OnnxRuntimeEngine(result.path / "model.onnx").run(feeds)["logits"]
    assert np.isnan(logits[0]).all()
    assert np.isfinite(logits[1]).all()


def test_int8_is_quantized_within_its_own_tolerance(small_checkpoint: Path, tmp_path: Path) -> None:
    import onnx

    result = export_bundle(
        str(small_checkpoint),
        Task.TEXT_CLASSIFICATION,
        tmp_path / "bundle",
        settings=ExportSettings(precision=Precision.INT8),
    )
    assert result.manifest.precision is Precision.INT8
    assert result.manifest.quantization is Quantization.DYNAMIC
    assert result.manifest.parity is not None
    assert 1e-5 < result.manifest.parity.max_relative <= parity.TOLERANCES[Precision.INT8].max_relative
    for layout in Layout:
        path = Bundle.open(result.path).model_path(layout)
        model = onnx.load(path)
        assert {node.domain for node in model.graph.node} <= {""}
        products = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
        # this one layer is the last of a classifier: its own products run over one row; quantized are the
        # output's, and two of each of the feed-forward layer's two pieces
        assert len(products) == 5
        tables = {t.name: t.data_type for t in model.graph.initializer if "_embeddings" in t.name}
        for name in ("word", "position"):
            assert tables[f"core.{name}_embeddings.weight_half"] == onnx.TensorProto.FLOAT16
        scales = [t for t in model.graph.initializer if t.name.endswith("_scale")]
        assert scales and all(len(t.dims) == 1 and t.dims[0] > 1 for t in scales), "one scale per channel"
        integers = {t.name: t for t in model.graph.initializer if t.name.endswith("_int8")}
        for product in products:
            largest = np.abs(onnx.numpy_helper.to_array(integers[product.input[1]])).max(axis=0)
            assert set(largest) == {64}, "more would saturate on CPUs without VNNI"


def test_int8_weights_stand_behind_a_standard_operator(small_checkpoint: Path, tmp_path: Path) -> None:
    import onnx

    pytest.importorskip(
        "openvino", reason="the comparison is to run where the weights are multiplied as int8"
    )
    settings = ExportSettings(precision=Precision.INT8, quantization=Quantization.WEIGHTS)
    result = export_bundle(
        str(small_checkpoint), Task.TEXT_CLASSIFICATION, tmp_path / "bundle", settings=settings
    )
    assert result.manifest.quantization is Quantization.WEIGHTS
    assert result.manifest.parity is not None
    assert result.manifest.parity.provider == "openvino CPU fp32"
    assert 1e-5 < result.manifest.parity.max_relative <= parity.INT8_WEIGHTS.max_relative
    for layout in Layout:
        model = onnx.load(Bundle.open(result.path).model_path(layout))
        assert {node.domain for node in model.graph.node} <= {""}
        restored = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
        assert len(restored) == 5
        sizes = {t.name: t for t in model.graph.initializer}
        for node in restored:
            weight, scale = (onnx.numpy_helper.to_array(sizes[name]) for name in node.input)
            assert weight.dtype == np.int8 and scale.shape == (weight.shape[1],)
            assert np.abs(weight).max(axis=0).min() == 127, "each column uses its whole range"
    on_cpu = validate_bundle(Bundle.open(result.path), str(small_checkpoint))
    assert on_cpu.parity.runs_on == "onnxruntime CPUExecutionProvider"
    assert on_cpu.parity.failures == ()


def test_an_embedding_beyond_half_precision_stays_as_it_is(qa_bundle: Path, tmp_path: Path) -> None:
    file, name = "model.packed.onnx", "core.position_embeddings.weight"
    model = ir.load(qa_bundle / file)
    table = model.graph.initializers[name]
    assert table.const_value is not None
    values = table.const_value.numpy().copy()
    values[0, 0] = 1e5
    table.const_value = ir.tensor(values, name=name)
    found = quantize_models({file: model}, Quantization.WEIGHTS, tmp_path)[file].graph.initializers
    assert name in found and f"{name}_half" not in found
    assert "core.word_embeddings.weight_half" in found and "core.word_embeddings.weight" not in found
