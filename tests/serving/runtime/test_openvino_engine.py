"""The OpenVINO engine, with real compilations: a one-node graph for its failures, bundles for its results."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openvino_support import BF16, FP32, require_bf16, require_openvino

from longserve.serving import (
    Bundle,
    EncoderOutput,
    EncoderSequence,
    EngineError,
    EngineName,
    EngineSettings,
    InferencePrecision,
    Layout,
    OnnxRuntimeEngine,
    OpenVinoEngine,
    encode,
    open_engine,
    open_packed_engine,
)
from longserve.serving.runtime import cores, openvino_engine
from longserve.serving.runtime.packing import pad, unpad

require_openvino()
LENGTHS = (1, 2, 15, 16, 17, 100, 64, 333, 1, 512)


@pytest.fixture(scope="module")
def gather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that takes `rows[index]` and doubles it."""
    onnx = pytest.importorskip("onnx", reason="the graph is made with onnx")
    make, kind = onnx.helper, onnx.TensorProto
    graph = make.make_graph(
        [
            make.make_node("Gather", ["rows", "index"], ["found"]),
            make.make_node("Add", ["found", "found"], ["twice"]),
        ],
        "gather",
        [
            make.make_tensor_value_info("rows", kind.FLOAT, ["n"]),
            make.make_tensor_value_info("index", kind.INT64, ["m"]),
        ],
        [
            make.make_tensor_value_info("twice", kind.FLOAT, ["m"]),
            make.make_tensor_value_info("found", kind.FLOAT, ["m"]),
        ],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 20)], ir_version=10)
    path = tmp_path_factory.mktemp("graph") / "gather.onnx"
    onnx.save(model, path)
    return path


def feeds(**replaced: Any) -> dict[str, Any]:
    made = {"rows": np.array([1, 2, 3], np.float32), "index": np.array([2, 0]), **replaced}
    return {name: value for name, value in made.items() if value is not None}


def test_a_signal_after_two_engines_reaches_its_handler(gather: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from longserve.serving import OpenVinoEngine\n"
        "signal.signal(signal.SIGINT, lambda number, frame: sys.exit(7))\n"
        "first, second = OpenVinoEngine(sys.argv[1]), OpenVinoEngine(sys.argv[1])\n"
        "del first, second\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", code, gather], timeout=60)
    assert done.returncode == 7


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("arena", [False, True])
def test_a_run_gives_the_outputs_by_name_and_they_stay(gather: Path, kind: Any, arena: bool) -> None:
    settings = EngineSettings(engine=EngineName.OPENVINO, threads=1, memory_arena=arena)
    engine = open_engine(kind(gather), settings)
    assert isinstance(engine, OpenVinoEngine)
    assert engine.runs_on == "openvino CPU fp32"
    first = engine.run(feeds())
    again = engine.run(feeds(index=np.array([1, 1, 1])))
    assert {name: array.tolist() for name, array in first.items()} == {
        "twice": [6.0, 2.0],
        "found": [3.0, 1.0],
    }
    assert again["found"].tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        ({"index": None}, "inputs given are rows, the graph's are index, rows; give exactly these"),
        ({"further": np.array([0])}, "inputs given are further, index, rows, the graph's are index, rows"),
        ({"index": np.array([0.5])}, "index has element type float64; give int64"),
        ({"index": np.array([0], np.int32)}, "index has element type int32; give int64"),
        ({"index": np.array(["zero"])}, "index has element type <U4; give int64"),
        ({"index": np.array([[0]])}, "incompatible"),
    ],
    ids=["missing", "unknown", "float", "narrow", "text", "rank"],
)
def test_a_failed_run_is_an_engine_error_and_the_engine_goes_on(
    gather: Path, bad: dict[str, Any], cause: str
) -> None:
    """OpenVINO itself would take the last run's value for a missing input, and cast the others."""
    engine = OpenVinoEngine(gather)
    engine.run(feeds())
    with pytest.raises(EngineError, match=f"^openvino failed: .*{cause}") as caught:
        engine.run(feeds(**bad))
    assert "\n" not in str(caught.value)
    assert engine.run(feeds())["found"].tolist() == [3.0, 1.0]


@pytest.mark.parametrize(("asked", "threads"), [(0, 1), (2, 2)])
def test_a_quota_of_one_core_is_one_thread_unless_asked(
    gather: Path, monkeypatch: pytest.MonkeyPatch, asked: int, threads: int
) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: 1)
    engine = OpenVinoEngine(gather, EngineSettings(engine=EngineName.OPENVINO, threads=asked))
    assert engine._compiled.get_property("INFERENCE_NUM_THREADS") == threads


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, TypeError, MemoryError])
def test_every_exception_of_the_binding_is_an_engine_error(
    gather: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    class Request:
        def infer(self, *_: Any) -> None:
            raise kind("Exception from src/a.cpp:1:\nno more\n\n")

    engine = OpenVinoEngine(gather)
    monkeypatch.setattr(engine, "_request", Request())
    with pytest.raises(EngineError, match=r"^openvino failed: no more$"):
        engine.run(feeds())


@pytest.mark.parametrize(
    "content", [None, b"", b"junk", b"\x08\x0a" * 50, ...], ids=["missing", "empty", "junk", "noise", "cut"]
)
def test_a_file_that_is_no_graph_is_named(gather: Path, tmp_path: Path, content: Any) -> None:
    path = tmp_path / "model.onnx"
    if content is ...:
        path.write_bytes(gather.read_bytes()[:-20])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=f"^openvino cannot load {path}: "):
        OpenVinoEngine(path)


def test_weights_behind_a_link_to_elsewhere_are_refused_with_a_remedy(
    qa_bundle: Path, tmp_path: Path
) -> None:
    for file in qa_bundle.iterdir():
        (tmp_path / file.name).symlink_to(file)
    with pytest.raises(EngineError, match=r"model\.onnx\.data.*; copy the bundle's files, links followed"):
        OpenVinoEngine(tmp_path / "model.packed.onnx")


def test_a_graph_without_its_weights_is_named(qa_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.packed.onnx"
    shutil.copy(qa_bundle / "model.packed.onnx", path)
    with pytest.raises(EngineError, match=r"cannot load .*model\.onnx\.data"):
        OpenVinoEngine(path)


def test_without_openvino_the_extra_is_named(gather: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "_core", openvino_engine._core.__wrapped__)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"cannot be imported .* install 'longserve\[openvino\]'"):
        OpenVinoEngine(gather)


def test_bf16_where_the_cpu_has_none_is_refused(gather: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = openvino_engine._core()

    class OldCpu:
        def get_property(self, device: str, name: str) -> Any:
            found = real.get_property(device, name)
            return ["FP32", "INT8"] if name == "OPTIMIZATION_CAPABILITIES" else found

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    monkeypatch.setattr(openvino_engine, "_core", OldCpu)
    with pytest.raises(
        EngineError, match=r"precision is bf16, but .* are FP32, INT8; bf16 needs AVX512_BF16"
    ):
        OpenVinoEngine(gather, BF16)
    assert OpenVinoEngine(gather, FP32).run(feeds())["found"].tolist() == [3.0, 1.0]


def test_a_precision_that_openvino_replaces_is_refused(gather: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hint is no order: f16, for one, silently becomes bf16 or f32 on a CPU that has no f16."""
    import openvino

    monkeypatch.setattr(openvino.CompiledModel, "get_property", lambda *_: openvino.Type.bf16, raising=False)
    with pytest.raises(EngineError, match=r"told to compute .* in fp32 but chose bf16"):
        OpenVinoEngine(gather, FP32)


@pytest.mark.parametrize("kind", [OnnxRuntimeEngine, OpenVinoEngine])
def test_settings_of_the_other_engine_are_refused(gather: Path, kind: Any) -> None:
    other = EngineName.ONNXRUNTIME if kind is OpenVinoEngine else EngineName.OPENVINO
    with pytest.raises(EngineError, match=f"settings are for {other.value}; give settings for"):
        kind(gather, EngineSettings(engine=other))


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        (
            {"inference_precision": InferencePrecision.BF16},
            "onnxruntime computes in the precision of the graph",
        ),
        (
            {"engine": EngineName.OPENVINO, "provider": "CUDAExecutionProvider"},
            "one of ONNX Runtime's; leave it",
        ),
        ({"engine": EngineName.OPENVINO, "threads": -1}, "threads is -1; give 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields: dict[str, Any], cause: str) -> None:
    with pytest.raises(EngineError, match=cause):
        EngineSettings(**fields)


@pytest.fixture(scope="module", params=["classification_bundle", "qa_bundle"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    path: Path = request.getfixturevalue(request.param)
    return Bundle.open(path)


@pytest.fixture(scope="module")
def batch(bundle: Bundle) -> list[EncoderSequence]:
    """Sequences of all lengths, each with another pattern of global tokens, the first without any."""
    random = np.random.default_rng(7)
    rows = []
    for index, length in enumerate(LENGTHS):
        mask = (random.random(length) < (0, 0.02, 0.3, 1)[index % 4]).astype(np.int64)
        ids = random.integers(5, bundle.manifest.vocab_size, length)
        rows.append(EncoderSequence(input_ids=ids, global_attention_mask=mask))
    return rows


def difference(expected: EncoderOutput, found: EncoderOutput) -> float:
    """The largest difference, relative to the larger of 1 and the largest logit."""
    worst = 0.0
    for one, other in zip(expected.vectors(), found.vectors(), strict=True):
        assert one.shape == other.shape and other.dtype == np.float32
        worst = max(worst, float(np.abs(one - other).max()) / max(1.0, float(np.abs(one).max())))
    return worst


def test_both_layouts_give_what_onnxruntime_gives(bundle: Bundle, batch: list[EncoderSequence]) -> None:
    manifest = bundle.manifest
    reference = open_packed_engine(bundle, EngineSettings(threads=2))
    engine = open_packed_engine(bundle, FP32)
    expected = [encode(reference, [row], manifest)[0] for row in batch]
    padded = open_engine(bundle.model_path(Layout.PADDED), FP32)
    in_rows = unpad(padded.run(pad(batch, manifest)), list(LENGTHS), manifest.task)
    for found in (
        [encode(engine, [row], manifest)[0] for row in batch],
        encode(engine, batch, manifest),
        encode(engine, batch[::-1], manifest)[::-1],
        in_rows,
    ):
        assert max(map(difference, expected, found)) <= 1e-5


def test_bf16_differs_a_little(bundle: Bundle, batch: list[EncoderSequence]) -> None:
    require_bf16()
    engine = open_packed_engine(bundle, BF16)
    assert engine.runs_on == "openvino CPU bf16"
    expected = encode(open_packed_engine(bundle, FP32), batch, bundle.manifest)
    worst = max(map(difference, expected, encode(engine, batch, bundle.manifest)))
    assert 1e-4 < worst < 0.1


def test_threads_share_an_engine_and_each_gets_its_own_result(
    bundle: Bundle, batch: list[EncoderSequence]
) -> None:
    engine = open_packed_engine(bundle, FP32)
    alone = [encode(engine, [row], bundle.manifest)[0] for row in batch]
    order = [*range(len(batch))] * 8
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: encode(engine, [batch[i]], bundle.manifest)[0], order))
    for index, found in zip(order, together, strict=True):
        for one, other in zip(alone[index].vectors(), found.vectors(), strict=True):
            np.testing.assert_array_equal(one, other)
