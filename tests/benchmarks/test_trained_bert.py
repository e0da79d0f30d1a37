"""A BERT as a Longformer: the same logits where a window sees the whole text, trained head and all."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
import torch
from real_weights_parity import convert
from trained_bert import write_reader
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    LongformerForQuestionAnswering,
    PreTrainedTokenizerFast,
)

from longserve.export.checkpoint import load_checkpoint
from longserve.serving.runtime.manifest import Task

SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]"}
LETTERS = [*string.ascii_lowercase, *string.digits, *string.punctuation]


def vocabulary() -> dict[str, int]:
    """BERT's special tokens at their places, and every letter, at the start of a word and within."""
    names = [SPECIAL.get(index, f"[unused{index}]") for index in range(103)]
    tokens = [*names, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return {token: index for index, token in enumerate(tokens)}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT for question answering with the tokenizer files of one."""
    from tokenizers import BertWordPieceTokenizer

    directory = tmp_path_factory.mktemp("bert")
    words = vocabulary()
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForQuestionAnswering(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    model.save_pretrained(directory)
    tokenizer = BertWordPieceTokenizer(words, lowercase=True)
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, **names).save_pretrained(directory)
    return directory


def test_a_converted_reader_gives_its_logits(bert: Path, tmp_path: Path) -> None:
    convert(bert, "question-answering", 512, tmp_path)
    ids = torch.randint(103, 103 + len(LETTERS), (2, 200), generator=torch.manual_seed(1))
    ids[:, 0], ids[:, 9:11], ids[:, -1] = 101, 102, 102
    with torch.no_grad():
        wanted = BertForQuestionAnswering.from_pretrained(bert).eval()(ids)
        found = LongformerForQuestionAnswering.from_pretrained(tmp_path).eval()(ids)
    torch.testing.assert_close(found.start_logits, wanted.start_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.end_logits, wanted.end_logits, rtol=1e-4, atol=1e-4)
    assert wanted.start_logits.std() > 0.1, "the head was not lost"


def test_a_trained_reader_is_a_checkpoint_that_longserve_takes(bert: Path, tmp_path: Path) -> None:
    write_reader(bert, tmp_path / "reader", steps=2)
    checkpoint = load_checkpoint(str(tmp_path / "reader"), Task.QUESTION_ANSWERING)
    assert checkpoint.frame.separators == 2
    before = BertForQuestionAnswering.from_pretrained(bert).qa_outputs.weight
    assert not torch.equal(checkpoint.model.qa_outputs.weight, before)
