"""Lets the tests import the scripts of `examples/`, and loads the committed checkpoints once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of the examples."""
    return EXAMPLES


@pytest.fixture(scope="session")
def reader(examples: Path) -> tuple[Any, Any]:
    """The question-answering checkpoint, stock, and its tokenizer."""
    from transformers import AutoTokenizer, LongformerForQuestionAnswering

    path = examples / "checkpoints" / "longformer-tiny-qa"
    model: Any = LongformerForQuestionAnswering.from_pretrained(path)
    return model.eval(), AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="session")
def classifier(examples: Path) -> tuple[Any, Any]:
    """The classification checkpoint, stock, and its tokenizer."""
    from transformers import AutoTokenizer, LongformerForSequenceClassification

    path = examples / "checkpoints" / "longformer-tiny-classification"
    model: Any = LongformerForSequenceClassification.from_pretrained(path)
    return model.eval(), AutoTokenizer.from_pretrained(path)
