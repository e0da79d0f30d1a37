"""On a GPU: bundles of every float precision against PyTorch, by ONNX Runtime's CUDA provider."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longserve.export import ExportSettings, export_bundle
from longserve.export.exporter import validate_bundle
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import EngineSettings, OnnxRuntimeEngine, open_packed_engine
from longserve.serving.runtime.errors import EngineError
from longserve.serving.runtime.gpu_providers import CUDA_PROVIDER
from longserve.serving.runtime.gpu_settings import GpuSettings
from longserve.serving.runtime.manifest import Layout, Precision, Task
from longserve.serving.runtime.packing import EncoderSequence, pack


def _there_is_none() -> bool:
    import onnxruntime
    import torch

    return CUDA_PROVIDER not in onnxruntime.get_available_providers() or not torch.cuda.is_available()


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(_there_is_none(), reason="needs a CUDA device")]

CUDA = EngineSettings(provider=CUDA_PROVIDER)


@pytest.fixture(params=list(Task), ids=lambda task: str(task.value))
def checkpoint(
    request: pytest.FixtureRequest, classification_checkpoint: Path, qa_checkpoint: Path
) -> tuple[Path, Task]:
    task = request.param
    return (classification_checkpoint if task is Task.TEXT_CLASSIFICATION else qa_checkpoint), task


@pytest.mark.parametrize("fused", [False, True], ids=["products", "fused"])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16])
def test_a_bundle_gives_the_logits_of_pytorch(
    checkpoint: tuple[Path, Task], precision: Precision, fused: bool, tmp_path: Path
) -> None:
    """All lengths and masks of the comparison, both layouts, under the precision's own tolerance."""
    path, task = checkpoint
    settings = ExportSettings(precision=precision, fused_attention=fused, validate=False)
    export_bundle(str(path), task, tmp_path / "bundle", settings=settings)
    compared = validate_bundle(Bundle.open(tmp_path / "bundle"), str(path), engine=CUDA).parity
    assert CUDA_PROVIDER in compared.runs_on
    assert {result.layout for result in compared.results} == {layout.value for layout in Layout}
    compared.raise_if_failed()


def _feeds(bundle: Bundle, sequences: int = 2) -> dict[str, Any]:
    """Sequences of 300 tokens."""
    random = np.random.default_rng(3)
    mask = np.zeros(300, dtype=np.int64)
    mask[0] = 1
    sequence = EncoderSequence(input_ids=random.integers(10, 90, 300), global_attention_mask=mask)
    return dict(pack([sequence] * sequences, bundle.manifest))


def test_bound_inputs_run_again_without_being_copied(classification_bundle: Path) -> None:
    bundle = Bundle.open(classification_bundle)
    engine = open_packed_engine(bundle, CUDA)
    assert isinstance(engine, OnnxRuntimeEngine)
    feeds = _feeds(bundle)
    wanted = open_packed_engine(bundle).run(feeds)["logits"]
    bound = engine.bind(feeds)
    for _ in range(3):
        bound.run()
        np.testing.assert_allclose(bound.outputs()["logits"], wanted, atol=1e-5)
    np.testing.assert_allclose(engine.run(feeds)["logits"], wanted, atol=1e-5)


def test_the_memory_limit_holds(classification_bundle: Path) -> None:
    bundle = Bundle.open(classification_bundle)
    settings = EngineSettings(provider=CUDA_PROVIDER, gpu=GpuSettings(memory_limit=1 << 24))
    with pytest.raises(EngineError, match=r"onnxruntime (failed|cannot load)"):
        open_packed_engine(bundle, settings).run(_feeds(bundle, sequences=200))  # 11 MB each hidden state


def test_a_gpu_that_is_not_there_is_an_error(classification_bundle: Path) -> None:
    settings = EngineSettings(provider=CUDA_PROVIDER, gpu=GpuSettings(device=99))
    with pytest.raises(EngineError):
        open_packed_engine(Bundle.open(classification_bundle), settings)


def test_the_fused_attention_is_the_providers_own_kernel(
    classification_checkpoint: Path, tmp_path: Path
) -> None:
    """Not the operator's definition, written out, which every provider can run."""
    import onnxruntime

    settings = ExportSettings(precision=Precision.FP16, fused_attention=True, validate=False)
    export_bundle(
        str(classification_checkpoint), Task.TEXT_CLASSIFICATION, tmp_path / "bundle", settings=settings
    )
    bundle = Bundle.open(tmp_path / "bundle")
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    path = bundle.model_path(Layout.PACKED)
    session = onnxruntime.InferenceSession(str(path), options, providers=[CUDA_PROVIDER])
    session.run(None, _feeds(bundle))
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [event["args"] for event in events if event.get("cat") == "Node" and "op_name" in event["args"]]
    found = {node["provider"] for node in nodes if node["op_name"] == "Attention"}
    assert found == {CUDA_PROVIDER}
