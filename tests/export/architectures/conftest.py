"""Bundles of the other architectures, exported once for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import add_outliers, make_bert_checkpoint, make_small, train_tokenizer

from longserve.export import export_bundle
from longserve.serving.runtime.manifest import Task


@pytest.fixture(scope="session")
def bert_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A question-answering BERT of 128 positions with an uncased tokenizer."""
    return make_bert_checkpoint(tmp_path_factory.mktemp("bert") / "asks", "question-answering")


@pytest.fixture(scope="session")
def bert_bundle(bert_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A validated fp32 bundle of `bert_checkpoint`."""
    target = tmp_path_factory.mktemp("bundles") / "bert"
    return export_bundle(str(bert_checkpoint), Task.QUESTION_ANSWERING, target).path


@pytest.fixture(scope="session")
def roberta_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A validated fp32 bundle of a RoBERTa classifier of 512 tokens, outliers in its weights."""
    source = tmp_path_factory.mktemp("roberta") / "classifies"
    size = train_tokenizer(source)
    model = make_small(
        "RobertaForSequenceClassification",
        vocab_size=size,
        max_position_embeddings=514,
        num_labels=3,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    add_outliers(model).save_pretrained(source)
    target = tmp_path_factory.mktemp("bundles") / "roberta"
    return export_bundle(str(source), Task.TEXT_CLASSIFICATION, target).path
