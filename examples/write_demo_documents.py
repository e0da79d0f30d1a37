"""Write the documents that the demo reads, and check that the trained checkpoints answer them right.

    python examples/write_demo_documents.py

`examples/documents/` gets the texts and `documents.json`, which lists for each its file, task, length in
tokens and the question with its answer, or the label. `evidence_token` is where the answer begins, counted in
tokens of the text; `evidence_tokens` of a claim file, where each sentence of evidence begins.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from demo_accuracy import answer_question, classify_text, evidence_token
from demo_documents import write_claim_file, write_minutes
from train_demo_checkpoints import TASKS
from transformers import AutoTokenizer, LongformerForQuestionAnswering, LongformerForSequenceClassification

__all__ = ["main"]

_HERE = Path(__file__).parent
_MINUTES: dict[str, dict[str, float]] = {
    "minutes-2000-tokens.txt": {"words": 2000, "position": 0.6},
    "minutes-9000-tokens.txt": {"words": 9000, "position": 0.75},
}
_CLAIMS: dict[str, dict[str, float]] = {
    "claim-3000-tokens.txt": {"words": 3000},
    "claim-7000-tokens.txt": {"words": 7000},
}


def main() -> int:
    """Write the documents; return the number of those that a checkpoint gets wrong."""
    folder = _HERE / "documents"
    folder.mkdir(exist_ok=True)
    reader = _load(LongformerForQuestionAnswering, "question-answering")
    classifier = _load(LongformerForSequenceClassification, "text-classification")
    listing: list[dict[str, Any]] = []
    wrong = 0
    for name, shape in _MINUTES.items():
        entry, text, found = _question(name, shape, *reader)
        wrong += found != entry["answer"]
        listing.append(entry)
        (folder / name).write_text(text, encoding="utf-8")
        _say(f"{name}: {entry['question']} {found!r} (expected {entry['answer']!r})")
    for name, shape in _CLAIMS.items():
        entry, text, found = _claim(name, shape, *classifier)
        wrong += found != entry["label"]
        listing.append(entry)
        (folder / name).write_text(text, encoding="utf-8")
        _say(f"{name}: {found} (expected {entry['label']})")
    (folder / "documents.json").write_text(json.dumps(listing, indent=2) + "\n", encoding="utf-8")
    return wrong


def _load(architecture: Any, task: str) -> tuple[Any, Any]:
    path = _HERE / "checkpoints" / TASKS[task].directory
    return architecture.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


def _question(
    name: str, shape: dict[str, Any], model: Any, tokenizer: Any
) -> tuple[dict[str, Any], str, str]:
    # The key is varied until the answer's text occurs once, so that a reader can find it by searching.
    attempt = 0
    while True:
        minutes = write_minutes(f"demo/{name}/{attempt}", **shape)
        if minutes.text.count(minutes.answer) == 1:
            break
        attempt += 1
    entry = {
        "file": name,
        "task": "question-answering",
        "question": minutes.question,
        "answer": minutes.answer,
        "tokens": _length(tokenizer, minutes.text),
        "evidence_token": evidence_token(tokenizer, minutes),
    }
    return entry, minutes.text, answer_question(model, tokenizer, minutes.question, minutes.text)


def _claim(name: str, shape: dict[str, Any], model: Any, tokenizer: Any) -> tuple[dict[str, Any], str, str]:
    file = write_claim_file(f"demo/{name}", **shape)
    assert file.label is not None
    entry = {
        "file": name,
        "task": "text-classification",
        "label": file.label,
        "tokens": _length(tokenizer, file.text),
        "evidence_tokens": [_length(tokenizer, file.text[: piece.start]) for piece in file.evidence],
    }
    return entry, file.text, classify_text(model, tokenizer, file.text)


def _length(tokenizer: Any, text: str) -> int:
    return len(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
