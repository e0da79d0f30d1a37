"""All architectures behind one Triton, asked by the same client."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from triton_fixture import FREE_PORTS

from longserve.serving import Client, InvalidInput, LocalClient
from longserve.serving.client.readiness import ask_models
from longserve.serving.repository import build_repository
from longserve.serving.server import TritonServer

WORDS = "the quick brown fox jumps over the lazy dog while every invoice of the northern harbour was paid"


@pytest.fixture(scope="module")
def served(
    bert_bundle: Path, bigbird_bundle: Path, roberta_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    repository = tmp_path_factory.mktemp("architectures") / "models"
    build_repository(bert_bundle, "bert", repository)
    build_repository(bigbird_bundle, "bigbird", repository)
    build_repository(roberta_bundle, "roberta", repository)
    with TritonServer(repository, ports=FREE_PORTS, log=sys.stderr, grace=2.0) as server:
        yield server.urls.grpc


def test_mixed_lengths_at_once_are_answered_as_one_by_one(
    served: str, bert_bundle: Path, bigbird_bundle: Path, roberta_bundle: Path
) -> None:
    texts = [" ".join(WORDS.split()[: n % 18 + 1] * (n % 5 + 1)) for n in range(24)]
    with Client(served) as client, ThreadPoolExecutor(8) as pool:
        for model, path in (("bert", bert_bundle), ("bigbird", bigbird_bundle)):
            found = list(pool.map(lambda text: client.answer("who was paid", text, model=model), texts))  # noqa: B023
            with LocalClient(str(path)) as local:
                for text, answers in zip(texts, found, strict=True):
                    (expected,) = local.answer("who was paid", text)
                    assert [(answer.start, answer.end) for answer in answers] == [
                        (expected.start, expected.end)
                    ]
                    assert answers[0].score == pytest.approx(expected.score, rel=1e-3)
        labels = client.classify(texts, model="roberta")
        with LocalClient(str(roberta_bundle)) as local:
            for ours, theirs in zip(labels, local.classify(texts), strict=True):
                assert ours.scores == pytest.approx(theirs.scores, abs=1e-4)
                assert ours.tokens == theirs.tokens


@pytest.mark.parametrize("model", ["bert", "bigbird"])
def test_sequences_of_mixed_lengths_share_a_run_without_touching_each_other(served: str, model: str) -> None:
    """Ragged batching: BigBird's rows around its switch too, each as if alone."""
    random = np.random.default_rng(3)
    rows = [random.integers(5, 60, length) for length in (3, 120, 56, 57, 1, 90)]
    encoder = f"{model}_encoder"
    with Client(served) as client, ThreadPoolExecutor(len(rows)) as pool:

        def ask(row: np.ndarray) -> np.ndarray:
            output = client.logits(row, token_type_ids=np.zeros_like(row), model=encoder)
            assert output.start_logits is not None
            return output.start_logits

        alone = [ask(row) for row in rows]
        for _ in range(3):
            for expected, found in zip(alone, pool.map(ask, rows), strict=True):
                np.testing.assert_allclose(found, expected, atol=1e-5)


def test_each_model_answers_when_it_is_asked_whether_it_is_ready(served: str) -> None:
    names = ["bert", "bert_encoder", "bigbird", "roberta", "roberta_encoder"]
    found = ask_models(served, names)
    assert {each.model: each.readiness.value for each in found} == dict.fromkeys(names, "answers")


def test_a_mask_for_global_tokens_is_refused(served: str) -> None:
    with Client(served) as client, pytest.raises(InvalidInput, match="global_attention_mask"):
        client.logits([2, 5, 3], [1, 0, 0], model="bert_encoder")
