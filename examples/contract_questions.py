"""Ask the same questions of every contract in a folder; the answers, with their places, as CSV.

    python examples/contract_questions.py contracts/ questions.txt --url grpc://localhost:8001 > answers.csv

`questions.txt` has a question a line; `contracts/` has text files of any length. A row says what the answer
is, how sure the model is, where it stands (characters), and the words around it, so that a person can check
it at a glance. "No answer" competes with the answers, so a contract that does not say is told from one that
does.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from longserve.serving import Client, InvalidInput, LocalClient

_NEAR = 60
COLUMNS = ("contract", "question", "answer", "score", "start", "end", "around", "windows", "error")


def ask_all(
    client: Client | LocalClient, contracts: list[Path], questions: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each contract and question. The questions of a contract are sent together."""
    for contract in contracts:
        text = contract.read_text(encoding="utf-8")
        try:
            found = client.answer(questions, text, handle_impossible_answer=True)
        except InvalidInput as error:
            yield {"contract": contract.name, "error": str(error)}
            continue
        for question, answers in zip(questions, found, strict=True):
            best = answers[0]
            around = text[max(0, best.start - _NEAR) : best.end + _NEAR] if best.answer else ""
            yield {
                "contract": contract.name,
                "question": question,
                "answer": best.answer,
                "score": f"{best.score:.4f}",
                "start": best.start,
                "end": best.end,
                "around": " ".join(around.split()),
                "windows": best.windows,
            }


def main(arguments: list[str] | None = None) -> int:
    """Ask all questions of all contracts; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("contracts", type=Path, help="directory of .txt files")
    parser.add_argument("questions", type=Path)
    parser.add_argument("--url", default="grpc://localhost:8001")
    parser.add_argument("--bundle", help="run this bundle here instead of asking a server")
    given = parser.parse_args(arguments)
    contracts = sorted(given.contracts.glob("*.txt"))
    questions = [
        line.strip() for line in given.questions.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    if not contracts or not questions:
        print(f"there is no .txt file in {given.contracts}, or no question", file=sys.stderr)
        return 1
    writer = csv.DictWriter(sys.stdout, COLUMNS)
    writer.writeheader()
    with LocalClient(given.bundle) if given.bundle else Client(given.url) as client:
        for row in ask_all(client, contracts, questions):
            writer.writerow(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
