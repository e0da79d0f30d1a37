"""`--response-cache` in a real Triton: what was read before is not encoded again, and each gets its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from kserve import GrpcCaller, Refused, bytes_tensor
from triton_fixture import CLASSIFIER, FREE_PORTS, QA

from longserve.serving.repository import RepositoryOptions, build_repository
from longserve.serving.server import TritonServer

ENCODER = f"{CLASSIFIER}_encoder"
TEXT = {"TEXT": bytes_tensor("the cat sat on the mat and looked at the dog")}
QUESTION = {"QUESTION": bytes_tensor("who sat"), "CONTEXT": bytes_tensor("the cat sat on the mat")}


@pytest.fixture(scope="module")
def caller(
    classification_bundle: Path, qa_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GrpcCaller]:
    repository = tmp_path_factory.mktemp("cached")
    options = RepositoryOptions(response_cache=True, text_instances=1)
    build_repository(classification_bundle, CLASSIFIER, repository, options)
    build_repository(qa_bundle, QA, repository, options)
    with TritonServer(repository, ports=FREE_PORTS, grace=2.0) as server:
        yield GrpcCaller(server.urls)


@pytest.mark.parametrize(("model", "request_"), [(CLASSIFIER, TEXT), (QA, QUESTION)])
def test_a_repeated_text_is_not_encoded_again(
    caller: GrpcCaller, model: str, request_: dict[str, np.ndarray]
) -> None:
    first = caller.infer(model, request_)
    before = caller.counts(f"{model}_encoder")
    again = caller.infer(model, request_)
    assert caller.counts(f"{model}_encoder") == before
    assert first.keys() == again.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
    one = caller.infer(model, request_, {"top_k": 1})
    assert one["SCORE"].shape == (1, 1), "the options are the request's own"
    assert caller.counts(f"{model}_encoder") == before


def test_the_encoder_answers_each_shape_for_itself(caller: GrpcCaller) -> None:
    """The same bytes as two rows and as one: Triton's own cache would not tell them apart."""
    ids = np.random.default_rng(0).integers(5, 250, 64)
    mask = np.zeros(64, np.int64)
    mask[0] = 1
    for rows in (2, 1, 2):
        request = {"input_ids": ids.reshape(rows, -1), "global_attention_mask": mask.reshape(rows, -1)}
        assert caller.infer(ENCODER, request)["logits"].shape[0] == rows


def test_an_error_stays_one(caller: GrpcCaller) -> None:
    """Triton's own cache would answer the second request without any output."""
    ones = np.ones((1, 8), np.int64)
    for _ in range(2):
        with pytest.raises(Refused, match="1000000 at position 0"):
            caller.infer(ENCODER, {"input_ids": ones * 10**6, "global_attention_mask": ones})
