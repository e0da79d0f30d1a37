"""Fixtures that the whole suite shares: random checkpoints and the bundles exported from them."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path

import pytest
from own_core import TESTS_ROOM, OwnCore
from triton_fixture import triton_server as triton_server

# `make test` runs several processes at once, and models as small as these gain nothing from further threads
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# pytest collects every log record; torch's trace of an export is tens of thousands of them
logging.getLogger("torch.__trace").propagate = False

own_core = OwnCore.from_environment(os.environ)


def pytest_runtest_setup() -> None:
    """Move to a core that has become free."""
    if own_core is not None:
        own_core.balance()


def pytest_sessionfinish() -> None:
    """Say that this process needs its core no more."""
    if own_core is not None:
        own_core.end()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of `tests/serving/server/test_fuzz.py`."""
    parser.addoption("--fuzz-examples", type=int, default=100, help="Inputs that each surface is tried with.")
    parser.addoption("--fuzz-report", help="File for the outcomes' counts, as JSON.")


def pytest_collection_finish() -> None:
    """Spare the collector what stays anyway: torch, and thousands of tests."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.fixture(scope="session")
def classification_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier of five labels."""
    pytest.importorskip("transformers", reason="checkpoints are made with transformers")
    from checkpoints import make_checkpoint

    names = ("alpha", "beta", "gamma", "delta", "epsilon")
    return make_checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "classifier",
        "text-classification",
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )


@pytest.fixture(scope="session")
def qa_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random question-answering model."""
    pytest.importorskip("transformers", reason="checkpoints are made with transformers")
    from checkpoints import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "qa", "question-answering", seed=1)


@pytest.fixture(scope="session")
def quick_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each task a random model of one layer and 128 positions, which exports in seconds."""
    pytest.importorskip("transformers", reason="checkpoints are made with transformers")
    from checkpoints import make_checkpoint

    folder = tmp_path_factory.mktemp("quick")
    sizes = {"num_hidden_layers": 1, "attention_window": [16], "max_position_embeddings": 130}
    names = {"id2label": {0: "alpha", 1: "beta"}, "label2id": {"alpha": 0, "beta": 1}}
    settings = {"text-classification": {**sizes, **names}, "question-answering": sizes}
    return {task: make_checkpoint(folder / task, task, **given) for task, given in settings.items()}


def exported(checkpoint: Path, task: str, name: str, factory: pytest.TempPathFactory) -> Path:
    """A validated fp32 bundle, exported by the first of the processes of `make test` that asks for it."""
    from filelock import FileLock

    from longserve.export import export_bundle
    from longserve.serving.runtime.manifest import Task

    given = os.environ.get(TESTS_ROOM)
    room = Path(given) if given else factory.mktemp("bundles")
    with FileLock(room / f"{name}.lock"):
        if not (room / name).exists():  # whole, or not there at all
            export_bundle(str(checkpoint), Task(task), room / name)
    return room / name


@pytest.fixture(scope="session")
def classification_bundle(classification_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A validated fp32 bundle of `classification_checkpoint`."""
    return exported(classification_checkpoint, "text-classification", "classifier", tmp_path_factory)


@pytest.fixture(scope="session")
def qa_bundle(qa_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A validated fp32 bundle of `qa_checkpoint`."""
    return exported(qa_checkpoint, "question-answering", "qa", tmp_path_factory)
