"""Bundles of the other architectures, exported once for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import add_outliers, make_bert_checkpoint, make_small, train_tokenizer, train_unigram

from longserve.export import ExportSettings, export_bundle
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


@pytest.fixture(scope="session")
def bigbird_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A question-answering BigBird with blocks of 8 tokens: attention is sparse beyond 56."""
    source = tmp_path_factory.mktemp("bigbird") / "asks"
    size = train_unigram(source)
    model = make_small(
        "BigBirdForQuestionAnswering",
        vocab_size=size,
        max_position_embeddings=128,
        block_size=8,
        num_random_blocks=1,
        sep_token_id=4,
        hidden_act="gelu_new",
    )
    model.save_pretrained(source)
    return source


@pytest.fixture(scope="session")
def bigbird_bundle(bigbird_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of `bigbird_checkpoint`, compared in a test of its own."""
    target = tmp_path_factory.mktemp("bundles") / "bigbird"
    settings = ExportSettings(validate=False)
    return export_bundle(str(bigbird_checkpoint), Task.QUESTION_ANSWERING, target, settings=settings).path
