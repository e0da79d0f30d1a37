"""`longserve serve` as a process of its own, what its processes hold in memory, and requests to check it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from server_memory import process_family

from longserve.export.bench.machine import describe_machine, library_versions
from longserve.serving import Client, LocalClient
from longserve.serving.measurement import MeasurementError, read_memory
from longserve.serving.repository import RepositoryOptions, build_repository

CLASSIFIER, QA = "longformer_classification", "longformer_qa"
_SCORE_TOLERANCE = 1e-4
_LENGTHS = ((0.60, 5, 150), (0.28, 150, 900), (0.10, 900, 2600), (0.02, 4000, 6000))
"""Share, fewest and most words of the texts: half are short, a few longer than the model."""


@dataclass(frozen=True, slots=True)
class Served:
    """A running `longserve serve`.

    Attributes:
        process: its process; Triton and the models' processes are below it.
        urls: where it answers: `http`, `grpc`, `metrics`.
    """

    process: subprocess.Popen[str]
    urls: dict[str, str]

    def memory(self) -> dict[str, int]:
        """Resident bytes of `longserve serve`, of Triton, and of each model's processes together."""
        found: Counter[str] = Counter()
        for process, program, model in process_family(self.process.pid):
            name = "longserve serve" if process == self.process.pid else model or program
            try:
                found[name] += read_memory(process).resident
            except MeasurementError:  # it ended meanwhile
                continue
        return dict(found)


@contextmanager
def serve(repository: Path, log: IO[str] | None, *options: str) -> Iterator[Served]:
    """Start `longserve serve` on free ports; stop it at the end.

    Raises:
        RuntimeError: it did not become ready.
    """
    command = [str(Path(sys.executable).with_name("longserve")), "serve", str(repository), "--json", *options]
    command += ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("longserve serve did not become ready; see its messages")
            yield Served(process, json.loads(line))
        finally:
            process.terminate()
            process.wait(60)


def build(bundles: tuple[Path, Path], repository: Path, **options: Any) -> None:
    """Build the models of a classifier's bundle and a question-answering bundle."""
    for bundle, name in zip(bundles, (CLASSIFIER, QA), strict=True):
        build_repository(bundle, name, repository, RepositoryOptions(**options))


@dataclass(frozen=True, slots=True)
class Case:
    """A request whose answer is known.

    Attributes:
        kind: classify, answer or logits, and how long the text is.
        ask: sends it through a client and returns the answer.
        right: whether an answer is the one that the bundle gives in this process, alone.
    """

    kind: str
    ask: Callable[[Client], Any]
    right: Callable[[Any], bool]


def make_cases(bundles: tuple[Path, Path], words: list[str], count: int, seed: int = 0) -> list[Case]:
    """Make requests of mixed kinds and lengths, each answered once here, one at a time, for reference."""
    chance = random.Random(seed)
    cases = []
    with LocalClient(bundles[0]) as classifier, LocalClient(bundles[1]) as reader:
        for index in range(count):
            text, size = _text(chance, words)
            if index % 20 == 0:
                cases.append(_logits_case(classifier, chance))
            elif index % 2:
                cases.append(_classification_case(classifier, text, size))
            else:
                question = " ".join(chance.choices(words, k=8)) + "?"
                cases.append(_question_case(reader, question, text, size))
    return cases


def _text(chance: random.Random, words: list[str]) -> tuple[str, str]:
    (share,) = chance.choices(_LENGTHS, weights=[entry[0] for entry in _LENGTHS])
    start = chance.randrange(len(words))
    length = chance.randint(share[1], share[2])
    return " ".join(words[(start + i) % len(words)] for i in range(length)), f"{share[1]}-{share[2]} words"


def _classification_case(local: LocalClient, text: str, size: str) -> Case:
    expected = local.classify(text)

    def right(found: Any) -> bool:
        return (
            (found.label, found.tokens, found.windows) == (expected.label, expected.tokens, expected.windows)
            and found.scores.keys() == expected.scores.keys()
            and all(
                abs(found.scores[name] - score) < _SCORE_TOLERANCE for name, score in expected.scores.items()
            )
        )

    return Case(f"classify {size}", lambda client: client.classify(text), right)


def _question_case(local: LocalClient, question: str, text: str, size: str) -> Case:
    (expected,) = local.answer(question, text)

    def right(found: Any) -> bool:
        (best,) = found
        same = (best.answer, best.start, best.end, best.tokens, best.windows) == (
            *(expected.answer, expected.start, expected.end, expected.tokens, expected.windows),
        )
        return same and abs(best.score - expected.score) < _SCORE_TOLERANCE

    return Case(f"answer {size}", lambda client: client.answer(question, text), right)


def _logits_case(local: LocalClient, chance: random.Random) -> Case:
    length = chance.randint(1, 400)
    ids = [chance.randrange(5, local.manifest.vocab_size) for _ in range(length)]
    mask = [1] + [0] * (length - 1)
    expected = local.logits(ids, mask).logits
    assert expected is not None

    def right(found: Any) -> bool:
        return found.logits.shape == expected.shape and bool(
            np.allclose(found.logits, expected, atol=_SCORE_TOLERANCE, rtol=_SCORE_TOLERANCE)
        )

    return Case("logits", lambda client: client.logits(ids, mask), right)


def read_words(directory: Path) -> list[str]:
    """The words of all texts in a directory, one text after the other."""
    return [
        word for path in sorted(directory.glob("*.txt")) for word in path.read_text(encoding="utf-8").split()
    ]


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds, and how many values there are."""
    if not seconds:
        return {"count": 0}
    shown = {f"p{p}": round(1e3 * float(np.percentile(seconds, p)), 2) for p in (50, 95, 99)}
    return {"count": len(seconds), **shown}


def finish(report: dict[str, Any], target: Path | None) -> int:
    """Print a report with machine and versions, write it, and return the exit status: 0 if it `passed`."""
    machine = describe_machine()
    whole = {
        "machine": {"cpu": machine.cpu, "cores": machine.cores},
        "versions": library_versions(),
        **report,
    }
    text = json.dumps(whole, indent=2)
    if target is not None:
        target.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if report["passed"] else 1
