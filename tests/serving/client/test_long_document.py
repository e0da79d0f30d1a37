"""A document of 60,000 words: the right answer wherever it stands, also across seams, by every way to ask."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kserve import HttpCaller, bytes_tensor
from triton_fixture import FREE_PORTS, QA

from longserve.serving import Bundle, Client, LocalClient, QuestionAnsweringOptions
from longserve.serving.repository import build_repository
from longserve.serving.runtime.pipeline import QuestionAnsweringPipeline, make_pipeline
from longserve.serving.runtime.windows import plan_windows
from longserve.serving.server import ServerUrls, TritonServer

from .facade import BlockingAsyncClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
EXAMPLES = Path(__file__).parents[3] / "examples"
WORDS = 60_000
POSITIONS = 20
WORD = " the"


@pytest.fixture(scope="module")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's question-answering checkpoint; that its export is right is tested elsewhere."""
    pytest.importorskip("transformers", reason="the demo checkpoint is exported")
    from longserve.export import ExportSettings, export_bundle
    from longserve.serving import Task

    checkpoint = str(EXAMPLES / "checkpoints" / "longformer-tiny-qa")
    target = tmp_path_factory.mktemp("demo") / "qa"
    settings = ExportSettings(validate=False)
    return export_bundle(checkpoint, Task.QUESTION_ANSWERING, target, settings=settings).path


@pytest.fixture(scope="module")
def urls(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerUrls]:
    repository = tmp_path_factory.mktemp("long")
    build_repository(demo_bundle, QA, repository)
    with TritonServer(repository, ports=FREE_PORTS, log=sys.stderr, grace=2.0) as server:
        yield server.urls


@pytest.fixture(scope="module")
def write_minutes() -> Any:
    sys.path.insert(0, str(EXAMPLES))
    try:
        from demo_documents import write_minutes
    finally:
        sys.path.remove(str(EXAMPLES))
    return write_minutes


@pytest.fixture(scope="module")
def client(urls: ServerUrls) -> Iterator[Client]:
    with Client(urls.grpc, timeout=120) as client:
        yield client


@pytest.mark.parametrize("place", range(POSITIONS))
def test_the_answer_is_found_at_every_place(client: Client, write_minutes: Any, place: int) -> None:
    document = write_minutes(f"held-out/sixty/{place}", words=WORDS, position=(place + 0.5) / POSITIONS)
    (answer,) = client.answer(document.question, document.text)
    assert answer.answer == document.answer
    assert answer.start == document.answer_start
    assert answer.windows >= WORDS // 4096


@pytest.mark.parametrize("number", [1, 3, 4, 5])  # their answers have several words
def test_an_answer_across_a_seam_is_found(
    client: Client, demo_bundle: Path, write_minutes: Any, number: int
) -> None:
    """Words at the end and the stride move the seams: take such as put one into the answer."""
    document = write_minutes(f"held-out/sixty/{number}", words=WORDS, position=0.35 + 0.1 * number)
    bundle = Bundle.open(demo_bundle, verify=False)
    pipeline = make_pipeline(bundle.manifest, bundle.tokenizer_path)
    assert isinstance(pipeline, QuestionAnsweringPipeline)
    prepared = pipeline.prepare(document.question, document.text, QuestionAnsweringOptions())
    end = document.answer_start + len(document.answer)
    first, last = np.flatnonzero(
        (prepared.offsets[:, 1] > document.answer_start) & (prepared.offsets[:, 0] < end)
    )[[0, -1]]
    per_word = pipeline.tokenizer.encode(WORD * 100, "text").ids.size // 100
    capacity = bundle.manifest.max_length - prepared.prefix - 1

    def cuts(words: int, stride: int) -> bool:
        windows = plan_windows(len(prepared.offsets) + words * per_word, capacity, stride)
        seams = [seam for window in windows for seam in (window.start, window.end)]
        return any(first < seam <= last for seam in seams)

    places = ((words, stride) for stride in range(100, 1000, 100) for words in range(4000))
    after, stride = next(place for place in places if cuts(*place))
    text = document.text + WORD * after
    moved = pipeline.prepare(document.question, text, QuestionAnsweringOptions(stride=stride))
    assert any(first < seam <= last for w in moved.windows for seam in (w.start, w.end))
    (answer,) = client.answer(document.question, text, stride=stride)
    assert (answer.answer, answer.start) == (document.answer, document.answer_start)


def test_every_way_to_ask_gives_the_same_answer(
    urls: ServerUrls, demo_bundle: Path, write_minutes: Any, tmp_path: Path
) -> None:
    document = write_minutes("held-out/sixty/ways", words=WORDS, position=0.77)
    path = tmp_path / "minutes.txt"
    path.write_text(document.text, encoding="utf-8")
    answers: dict[str, tuple[str, int]] = {}
    for kind, make in (("Client", Client), ("AsyncClient", BlockingAsyncClient)):
        for protocol, url in (("grpc", urls.grpc), ("http", urls.http)):
            with make(url, timeout=120) as asks:
                (answer,) = asks.answer(document.question, document.text)
                answers[f"{kind} {protocol}"] = (answer.answer, answer.start)
    with LocalClient(demo_bundle) as local:
        (answer,) = local.answer(document.question, document.text)
        answers["LocalClient"] = (answer.answer, answer.start)
    inputs = {"QUESTION": bytes_tensor(document.question), "CONTEXT": bytes_tensor(document.text)}
    raw = HttpCaller(urls).infer(QA, inputs)
    answers["KServe v2"] = (raw["ANSWER"][0, 0].decode(), int(raw["START"][0, 0]))
    script = "from longserve.serving.command import main; main()"
    command = [
        sys.executable,
        "-c",
        script,
        "ask",
        "--json",
        "--url",
        urls.grpc,
        document.question,
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (found,) = json.loads(done.stdout)["answers"]
    answers["longserve ask"] = (found["answer"], found["start"])
    assert set(answers.values()) == {(document.answer, document.answer_start)}, answers
