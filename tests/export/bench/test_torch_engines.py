"""PyTorch's engines: what each is, and that none quietly is another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from longserve.export.bench import BenchError, Case, EngineKind, EngineSpec, torch_engines
from longserve.export.bench.engines import open_bench_engine
from longserve.serving.runtime.manifest import Layout

CASE = Case(length=60, batch=2, global_tokens=1)


@pytest.fixture(autouse=True)
def settings_of_torch() -> Iterator[None]:
    """Leave this process's threads and compiler as they were."""
    threads, config = torch.get_num_threads(), torch._dynamo.config
    before = config.recompile_limit, config.fail_on_recompile_limit_hit
    yield
    torch.set_num_threads(threads)
    config.recompile_limit, config.fail_on_recompile_limit_hit = before


def logits(kind: EngineKind, bundle: Path, checkpoint: Path, layout: Layout = Layout.PADDED) -> Any:
    spec = EngineSpec(
        kind=kind, name="tried", bundle=str(bundle), reference=str(checkpoint), layout=layout, threads=2
    )
    engine = open_bench_engine(spec)
    prepared = engine.prepare(CASE, 0)
    assert prepared.logits is not None
    return engine, prepared.logits(prepared.run())


@pytest.fixture(scope="module")
def stock(qa_bundle: Path, qa_checkpoint: Path) -> Any:
    """The stock model's logits: start and end of every token of both rows."""
    _, found = logits(EngineKind.TORCH, qa_bundle, qa_checkpoint)
    assert found.shape == (2 * 2 * CASE.length,)
    return found


@pytest.mark.parametrize("layout", list(Layout))
def test_the_rewritten_module_gives_the_stock_logits(
    layout: Layout, stock: Any, qa_bundle: Path, qa_checkpoint: Path
) -> None:
    _, found = logits(EngineKind.REWRITE, qa_bundle, qa_checkpoint, layout)
    assert np.allclose(found, stock, atol=1e-5)


def test_kept_memory_changes_nothing_but_the_memory(
    stock: Any, qa_bundle: Path, qa_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    monkeypatch.setattr(torch_engines, "keep_freed_memory", lambda: kept.append(True) or True)
    _, found = logits(EngineKind.TORCH_KEPT, qa_bundle, qa_checkpoint)
    assert kept == [True]
    assert np.array_equal(found, stock)
    monkeypatch.setattr(torch_engines, "keep_freed_memory", lambda: False)
    with pytest.raises(BenchError, match="the engine tried needs glibc"):
        logits(EngineKind.TORCH_KEPT, qa_bundle, qa_checkpoint)


def test_autocast_computes_in_bf16(stock: Any, qa_bundle: Path, qa_checkpoint: Path) -> None:
    _, found = logits(EngineKind.TORCH_BF16, qa_bundle, qa_checkpoint)
    assert 1e-4 < np.abs(found - stock).max() < 0.1 * np.abs(stock).max()


def test_the_compiled_model_is_compiled(
    stock: Any, qa_bundle: Path, qa_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a backend that runs the captured graphs as they are: generating code takes too long for a test."""
    compiler, captured = torch.compile, []

    def backend(graph: Any, inputs: Any) -> Any:
        captured.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model: compiler(model, backend=backend))
    engine, found = logits(EngineKind.TORCH_COMPILE, qa_bundle, qa_checkpoint)
    assert np.allclose(found, stock, atol=1e-5)
    assert captured and engine.note.startswith(f"{len(captured)} compiled graphs, ")


def test_a_compiler_that_fails_is_no_silent_fallback(
    qa_bundle: Path, qa_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = torch.compile

    def backend(graph: Any, inputs: Any) -> Any:
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(torch, "compile", lambda model: compiler(model, backend=backend))
    with pytest.raises(RuntimeError, match="no such kernel"):
        logits(EngineKind.TORCH_COMPILE, qa_bundle, qa_checkpoint)


def test_without_a_checkpoint_there_is_no_stock_model(qa_bundle: Path) -> None:
    spec = EngineSpec(kind=EngineKind.TORCH, name="tried", bundle=str(qa_bundle), layout=Layout.PADDED)
    with pytest.raises(BenchError, match="tried names no checkpoint; give its model with --reference"):
        open_bench_engine(spec)
