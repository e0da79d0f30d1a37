"""Classification tasks whose evidence stands in one place, in two distant places, or all over the document.

    python examples/evidence_tasks.py far --documents 200 --output far.jsonl

Each is a question to which an architecture may be unequal: `local` needs one sentence, `far` two sentences
that tell nothing alone, `scattered` a majority of many. The documents are those of `demo_documents.py`; a row
of the file is what `longserve compare` takes: `text`, `label` and `evidence`, a list of character ranges.

Only the standard library is used.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo_documents import (
    COVER_LABELS,
    LABELS,
    ClaimFile,
    PolicyFile,
    write_claim_file,
    write_policy_file,
)

__all__ = ["SHORTEST", "TASKS", "WARM_UP", "EvidenceTask", "LabelledText", "held_out", "main", "write_jsonl"]

SHORTEST = 60
"""Words of the shortest documents."""
_LONGEST = 1350


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText:
    """A document with its label and where the evidence for it stands.

    Attributes:
        text: the document.
        label: what it is.
        evidence: first character, and that after the last, of each piece, in order.
        causes: the cause that each piece names.
    """

    text: str
    label: str
    evidence: tuple[tuple[int, int], ...]
    causes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceTask:
    """A task.

    Attributes:
        labels: its labels, in the order of the logits.
        write: makes the document of a key with about so many words.
    """

    labels: tuple[str, ...]
    write: Callable[[str, int], LabelledText]


def _local(key: str, words: int) -> LabelledText:
    """One sentence decides, anywhere, and no other speaks of a cause."""
    return _labelled(write_claim_file(f"local/{key}", words=words, evidence=1, denied=0.0))


def _denied(key: str, words: int) -> LabelledText:
    """One sentence decides, anywhere, among others that deny the signs of causes."""
    return _labelled(write_claim_file(f"local/{key}", words=words, evidence=1))


def _far(key: str, words: int) -> LabelledText:
    """The opening names the insured cause, a sentence in the last quarter what happened."""
    rng = random.Random(f"places/{key}")
    return _labelled(
        write_policy_file(
            f"far/{key}", words=words, insured=rng.uniform(0.0, 0.05), observed=rng.uniform(0.75, 1.0)
        )
    )


def _scattered(key: str, words: int) -> LabelledText:
    """Signs of several causes stand all over the document; the most frequent one decides."""
    signs = random.Random(f"signs/{key}").randint(3, 3 + min(words // 60, 12))
    return _labelled(write_claim_file(f"scattered/{key}", words=words, evidence=signs, majority=0.51))


TASKS = {
    "local": EvidenceTask(labels=LABELS, write=_local),
    "far": EvidenceTask(labels=COVER_LABELS, write=_far),
    "scattered": EvidenceTask(labels=LABELS, write=_scattered),
}
WARM_UP = EvidenceTask(labels=LABELS, write=_denied)
"""What models learn before they learn a task."""


def held_out(task: str, documents: int, longest: int = _LONGEST) -> Iterator[LabelledText]:
    """Write documents that no training sees, of lengths spread evenly over orders of magnitude.

    Args:
        task: a name of `TASKS`.
        documents: how many.
        longest: words of the longest.
    """
    rng = random.Random(f"held-out/{task}")
    for number in range(documents):
        words = round(math.exp(rng.uniform(math.log(SHORTEST), math.log(longest))))
        yield TASKS[task].write(f"held-out/{number}", words)


def write_jsonl(documents: Iterator[LabelledText], output: Path) -> None:
    """Write one JSON object a line: `text`, `label`, `evidence`."""
    with output.open("w", encoding="utf-8") as stream:
        for document in documents:
            row = {"text": document.text, "label": document.label, "evidence": document.evidence}
            stream.write(json.dumps(row) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write labelled documents for longserve compare.")
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--longest", type=int, default=_LONGEST, help="words of the longest document")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    write_jsonl(held_out(options.task, options.documents, options.longest), options.output)


def _labelled(file: ClaimFile | PolicyFile) -> LabelledText:
    assert file.label is not None
    return LabelledText(
        text=file.text,
        label=file.label,
        evidence=tuple((piece.start, piece.end) for piece in file.evidence),
        causes=tuple(piece.label for piece in file.evidence),
    )


if __name__ == "__main__":
    main()
