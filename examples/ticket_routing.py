"""Route support tickets to queues by what they say, however long their threads are.

    python examples/ticket_routing.py tickets.jsonl --queues queues --url grpc://localhost:8001

`tickets.jsonl` has an object a line with `id` and `text`. Each ticket is appended to the file of its
label's queue, or to `review.jsonl` if the model is not sure enough or the text cannot be read, with the
reason. Tickets stream through, so the file may be of any size; sixteen are under way at a time, which the
server packs into one run. With --bundle the model runs in this process, without a server.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from longserve.serving import Client, InvalidInput, LocalClient

_REVIEW = "review"
_UNDER_WAY = 16


def read_tickets(path: Path) -> Iterator[dict[str, Any]]:
    """Read the tickets one by one."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def route(
    client: Client | LocalClient, ticket: dict[str, Any], threshold: float
) -> tuple[str, dict[str, Any]]:
    """Return the queue of a ticket, and the ticket with what decided it."""
    try:
        result = client.classify(ticket["text"])
    except InvalidInput as error:
        return _REVIEW, {**ticket, "why": str(error)}
    decided = {"label": result.label, "score": round(result.score, 4), "tokens": result.tokens}
    if result.score < threshold:
        return _REVIEW, {**ticket, **decided, "why": f"score below {threshold}"}
    return result.label, {**ticket, **decided}


def route_all(
    client: Client | LocalClient, tickets: Iterator[dict[str, Any]], threshold: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Route tickets in order, some at a time; a local model uses all cores for each as it is."""
    with ThreadPoolExecutor(1 if isinstance(client, LocalClient) else _UNDER_WAY) as threads:
        while some := list(islice(tickets, 4 * _UNDER_WAY)):
            yield from threads.map(lambda ticket: route(client, ticket, threshold), some)


def main(arguments: list[str] | None = None) -> int:
    """Route a file of tickets; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tickets", type=Path)
    parser.add_argument("--queues", type=Path, default=Path("queues"), help="directory of the queues' files")
    parser.add_argument("--threshold", type=float, default=0.8, help="least score to be routed unseen")
    parser.add_argument("--url", default="grpc://localhost:8001")
    parser.add_argument("--bundle", help="run this bundle here instead of asking a server")
    given = parser.parse_args(arguments)
    given.queues.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    with LocalClient(given.bundle) if given.bundle else Client(given.url) as client:
        for queue, routed in route_all(client, read_tickets(given.tickets), given.threshold):
            with (given.queues / f"{queue}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(routed, ensure_ascii=False) + "\n")
            counts[queue] += 1
    for queue, count in counts.most_common():
        print(f"{queue}\t{count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
