"""The ONNX Runtime engine, with real sessions: a one-node graph for its failures, bundles for its results."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import (
    CPU_PROVIDER,
    EngineSettings,
    OnnxRuntimeEngine,
    encode,
    open_packed_engine,
)
from longserve.serving.runtime.errors import EngineError, InvalidInput
from longserve.serving.runtime.manifest import Layout, Task
from longserve.serving.runtime.packing import EncoderOutput, EncoderSequence, pad, unpad

ort = pytest.importorskip("onnxruntime", reason="the engine runs on onnxruntime")
LENGTHS = (1, 2, 15, 16, 17, 100, 64, 333)
TOLERANCE = 1e-5
"""The fp32 row of the parity table: relative to the larger of 1 and the largest logit."""


@pytest.fixture(scope="module")
def gather(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that takes `rows[index]`: out of range, it fails while it runs."""
    onnx = pytest.importorskip("onnx", reason="the graph is made with onnx")
    make, kind = onnx.helper, onnx.TensorProto
    graph = make.make_graph(
        [make.make_node("Gather", ["rows", "index"], ["found"])],
        "gather",
        [
            make.make_tensor_value_info("rows", kind.FLOAT, ["n"]),
            make.make_tensor_value_info("index", kind.INT64, ["m"]),
        ],
        [make.make_tensor_value_info("found", kind.FLOAT, ["m"])],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 20)], ir_version=10)
    path = tmp_path_factory.mktemp("graph") / "gather.onnx"
    onnx.save(model, path)
    return path


def feeds(**replaced: Any) -> dict[str, Any]:
    made = {"rows": np.array([1, 2, 3], np.float32), "index": np.array([2, 0]), **replaced}
    return {name: value for name, value in made.items() if value is not None}


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("settings", [None, EngineSettings(threads=1, memory_arena=True)])
def test_a_run_gives_the_outputs_by_name(gather: Path, kind: Any, settings: EngineSettings | None) -> None:
    engine = OnnxRuntimeEngine(kind(gather), settings)
    assert engine.runs_on == f"onnxruntime {CPU_PROVIDER}"
    outputs = engine.run(feeds())
    assert {name: array.tolist() for name, array in outputs.items()} == {"found": [3.0, 1.0]}


@pytest.mark.parametrize("spins", [True, False])
def test_spinning_ends_with_the_run_where_others_need_the_cores(gather: Path, spins: bool) -> None:
    sessions: list[Any] = []

    class Runtime:
        def __getattr__(self, name: str) -> Any:
            return getattr(ort, name)

        def InferenceSession(self, *arguments: Any, **options: Any) -> Any:  # noqa: N802
            sessions.append(ort.InferenceSession(*arguments, **options))
            return sessions[-1]

    settings = EngineSettings(spin_between_runs=spins)
    OnnxRuntimeEngine(gather, settings, runtime=Runtime()).run(feeds())
    options = sessions[0].get_session_options()
    if spins:  # ONNX Runtime's own default
        with pytest.raises(RuntimeError, match="force_spinning_stop"):
            options.get_session_config_entry("session.force_spinning_stop")
    else:
        assert options.get_session_config_entry("session.force_spinning_stop") == "1"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux's affinity")
def test_a_process_that_may_use_one_core_starts_no_thread_on_others(gather: Path) -> None:
    """ONNX Runtime's own number of threads is that of the machine's cores, and it puts them there."""
    code = f"""
import os
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
from longserve.serving.runtime.engine import OnnxRuntimeEngine
engine = OnnxRuntimeEngine({str(gather)!r})
print(*{{core for thread in os.listdir("/proc/self/task") for core in os.sched_getaffinity(int(thread))}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(min(os.sched_getaffinity(0)))]


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        ({"index": np.array([5])}, "out of data bounds"),
        ({"index": None}, "index"),
        ({"index": np.array([0.5])}, "data type"),
        ({"index": np.array([[0]])}, "rank"),
        ({"index": np.array(["zero"])}, "data type"),
        ({"further": np.array([0])}, "further"),
    ],
    ids=["value", "missing", "type", "rank", "text", "unknown"],
)
def test_a_failed_run_is_an_engine_error_and_the_engine_goes_on(
    gather: Path, bad: dict[str, Any], cause: str
) -> None:
    engine = OnnxRuntimeEngine(gather)
    with pytest.raises(EngineError, match=f"^onnxruntime failed: .*{cause}"):
        engine.run(feeds(**bad))
    assert engine.run(feeds())["found"].tolist() == [3.0, 1.0]


def test_every_exception_of_the_binding_is_an_engine_error(
    gather: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    engine = OnnxRuntimeEngine(gather)
    kinds = [value for value in vars(state).values() if isinstance(value, type)]
    raised = [kind for kind in kinds if issubclass(kind, Exception)] + [MemoryError]
    assert len(raised) > 8
    for kind in raised:

        class Session:
            def run(self, *_: Any, kind: type[Exception] = kind) -> None:
                raise kind("no more")

        monkeypatch.setattr(engine, "_session", Session())
        with pytest.raises(EngineError, match="onnxruntime failed: no more"):
            engine.run(feeds())


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "NoSuchProvider", "cpu", ""])
def test_a_provider_that_is_not_there_is_refused(gather: Path, provider: str) -> None:
    if provider in ort.get_available_providers():
        pytest.skip(f"this onnxruntime has {provider}")
    with pytest.raises(EngineError) as caught:
        OnnxRuntimeEngine(gather, EngineSettings(provider=provider))
    message = str(caught.value)
    assert message.startswith(f"onnxruntime {ort.__version__} has no {provider}, only ")
    assert CPU_PROVIDER in message and "install the extra" in message


def test_a_provider_that_would_leave_all_to_the_cpu_is_refused(gather: Path) -> None:
    """It is in every onnxruntime package, calls web services, and would be named by `runs_on`."""
    with pytest.raises(EngineError, match="has no AzureExecutionProvider"):
        OnnxRuntimeEngine(gather, EngineSettings(provider="AzureExecutionProvider"))


def test_a_provider_that_falls_back_is_refused(gather: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu without a usable GPU lists its providers, then runs on the CPU with a log line only."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["GoneExecutionProvider", CPU_PROVIDER])
    real = ort.InferenceSession
    monkeypatch.setattr(
        ort,
        "InferenceSession",
        lambda model, options, providers, **_: real(model, options, providers[1:]),
    )
    with pytest.raises(EngineError, match=f"told to use GoneExecutionProvider .* but runs on {CPU_PROVIDER}"):
        OnnxRuntimeEngine(gather, EngineSettings(provider="GoneExecutionProvider"))


@pytest.mark.parametrize("threads", [-1, -100])
def test_a_negative_number_of_threads_is_refused(threads: int) -> None:
    with pytest.raises(EngineError, match=f"threads is {threads}; give 0"):
        EngineSettings(threads=threads)


@pytest.mark.parametrize(
    "content", [None, b"", b"junk", b"\x08\x0a" * 50, ...], ids=["missing", "empty", "junk", "noise", "cut"]
)
def test_a_file_that_is_no_graph_is_named(gather: Path, tmp_path: Path, content: Any) -> None:
    path = tmp_path / "model.onnx"
    if content is ...:
        path.write_bytes(gather.read_bytes()[:-20])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=f"^onnxruntime cannot load {path}: "):
        OnnxRuntimeEngine(path)


def test_without_onnxruntime_the_extras_are_named(gather: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        EngineError, match=r"cannot be imported .* install 'longserve\[cpu\]' or 'longserve\[gpu"
    ):
        OnnxRuntimeEngine(gather)


@pytest.fixture(scope="module", params=["classification_bundle", "qa_bundle"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    path: Path = request.getfixturevalue(request.param)
    return Bundle.open(path)


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> OnnxRuntimeEngine:
    return open_packed_engine(bundle, EngineSettings(threads=1))


@pytest.fixture
def batch(bundle: Bundle) -> list[EncoderSequence]:
    """Sequences of all lengths, each with another pattern of global tokens, the first without any."""
    random = np.random.default_rng(7)
    rows = []
    for index, length in enumerate(LENGTHS):
        mask = (random.random(length) < (0, 0.02, 0.3, 1)[index % 4]).astype(np.int64)
        ids = random.integers(5, bundle.manifest.vocab_size, length)
        rows.append(EncoderSequence(input_ids=ids, global_attention_mask=mask))
    return rows


def assert_equal(expected: EncoderOutput, found: EncoderOutput) -> None:
    for one, other in zip(expected.vectors(), found.vectors(), strict=True):
        assert one.shape == other.shape and other.dtype == np.float32
        assert np.abs(one - other).max() <= TOLERANCE * max(1.0, float(np.abs(one).max()))


def test_a_packed_batch_gives_what_each_sequence_gives_alone(
    bundle: Bundle, engine: OnnxRuntimeEngine, batch: list[EncoderSequence]
) -> None:
    manifest = bundle.manifest
    alone = [encode(engine, [row], manifest)[0] for row in batch]
    for order in (range(len(batch)), reversed(range(len(batch)))):
        indices = list(order)
        together = encode(engine, [batch[index] for index in indices], manifest)
        for index, found in zip(indices, together, strict=True):
            assert_equal(alone[index], found)
            sizes = {vector.size for vector in found.vectors()}
            classifies = manifest.task is Task.TEXT_CLASSIFICATION
            assert sizes == {len(manifest.labels) if classifies else LENGTHS[index]}
    spread = [np.concatenate(output.vectors()) for output in alone]
    assert min(float(np.ptp(values)) for values in spread[1:]) > 100 * TOLERANCE, "else anything is equal"


def test_the_padded_graph_gives_the_same(
    bundle: Bundle, engine: OnnxRuntimeEngine, batch: list[EncoderSequence]
) -> None:
    padded = OnnxRuntimeEngine(bundle.model_path(Layout.PADDED), EngineSettings(threads=1))
    found = unpad(padded.run(pad(batch, bundle.manifest)), list(LENGTHS), bundle.manifest.task)
    for expected, one in zip(encode(engine, batch, bundle.manifest), found, strict=True):
        assert_equal(expected, one)


def test_bad_input_is_refused_before_the_run(bundle: Bundle, engine: OnnxRuntimeEngine) -> None:
    manifest = bundle.manifest
    size = manifest.vocab_size
    bad = EncoderSequence(input_ids=np.array([size]), global_attention_mask=np.array([0]))
    with pytest.raises(InvalidInput, match=f"input_ids has the value {size} at position 0"):
        encode(engine, [bad], manifest)


def test_a_graph_without_its_weights_is_named(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "model.packed.onnx"
    shutil.copy(bundle.model_path(Layout.PACKED), path)
    with pytest.raises(EngineError, match=r"cannot load .*model\.onnx\.data"):
        OnnxRuntimeEngine(path)
