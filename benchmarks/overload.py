"""Overload: many times more requests than the server can answer, and what becomes of each.

    python benchmarks/overload.py --bundles bundles/longformer_classification bundles/longformer_qa \\
        --json benchmarks/results/overload.json

One text of some 2,000 tokens is classified over gRPC. First alone (unloaded latency), then in a closed loop
(capacity), then `--factor` times the capacity comes in at fixed intervals for `--seconds`, then capacity and
unloaded latency again. Exit status 1 unless every request ended as answered or `Overloaded` within its
deadline, the p95 of those answered is at most 3 x the unloaded p95 x the requests that the server may hold,
and the capacity afterwards is at least 0.8 of that before (two measurements of it differ by 10 % anyway).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from served import Served, build, finish, percentiles, read_words, serve

from longserve.serving import AsyncClient, Overloaded, RetryPolicy, ServingError

_ROOT = Path(__file__).parents[1]
_RECOVERED = 0.8
_P95_FACTOR = 3
_CLOSED_LOOP = 32


@dataclass
class Outcomes:
    """How requests ended, and after how many seconds, by how they ended."""

    late: int = 0
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)

    async def one(self, client: AsyncClient, text: str, deadline: float) -> None:
        """Send one request and note how it ended."""
        begin = time.perf_counter()
        try:
            await client.classify(text, timeout=deadline)
            kind = "answered"
        except Overloaded:
            kind = "overloaded"
        except ServingError as error:
            kind = type(error).__name__
            self.errors[str(error)[:200]] += 1
        seconds = time.perf_counter() - begin
        self.seconds[kind].append(seconds)
        self.late += seconds > deadline


async def unloaded(client: AsyncClient, text: str, count: int) -> dict[str, float]:
    """Latency of requests one after the other."""
    outcomes = Outcomes()
    for _ in range(count):
        await outcomes.one(client, text, 60.0)
    return percentiles(outcomes.seconds["answered"])


async def capacity(client: AsyncClient, text: str, seconds: float) -> float:
    """Answers a second while `_CLOSED_LOOP` requests are always under way."""
    end = time.perf_counter() + seconds
    outcomes = Outcomes()

    async def loop() -> None:
        while time.perf_counter() < end:
            await outcomes.one(client, text, 60.0)

    begin = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(_CLOSED_LOOP)))
    return len(outcomes.seconds["answered"]) / (time.perf_counter() - begin)


async def flood(client: AsyncClient, text: str, rate: float, seconds: float, deadline: float) -> Outcomes:
    """Send `rate` requests a second, whatever becomes of the earlier ones."""
    outcomes, tasks = Outcomes(), []
    begin = time.perf_counter()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(outcomes.one(client, text, deadline)))
    await asyncio.gather(*tasks)
    return outcomes


async def measure(
    served: Served, text: str, held: int, factor: float, seconds: float, deadline: float
) -> dict[str, Any]:
    """Measure before, under and after overload, and return the report."""
    async with AsyncClient(served.urls["grpc"], retry=RetryPolicy(attempts=1)) as client:
        await capacity(client, text, seconds / 4)  # warm up
        alone = await unloaded(client, text, 60)
        before = await capacity(client, text, seconds / 2)
        outcomes = await flood(client, text, factor * before, seconds, deadline)
        after = await capacity(client, text, seconds / 2)
        alone_after = await unloaded(client, text, 60)
    counts = {kind: len(values) for kind, values in sorted(outcomes.seconds.items())}
    answered = percentiles(outcomes.seconds["answered"])
    bound = _P95_FACTOR * alone["p95"] * held
    return {
        "requests_held": held,
        "deadline_seconds": deadline,
        "unloaded_milliseconds": alone,
        "capacity_per_second": round(before, 1),
        "offered_per_second": round(factor * before, 1),
        "outcomes": counts,
        "errors": dict(outcomes.errors),
        "later_than_the_deadline": outcomes.late,
        "answered_milliseconds": answered,
        "refused_milliseconds": percentiles(outcomes.seconds["overloaded"]),
        "bound_of_p95_milliseconds": round(bound, 1),
        "capacity_afterwards_per_second": round(after, 1),
        "unloaded_milliseconds_afterwards": alone_after,
        "passed": set(counts) <= {"answered", "overloaded"}
        and outcomes.late == 0
        and answered["p95"] <= bound
        and after >= _RECOVERED * before,
    }


def main() -> int:
    """Run the measurement and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundles", nargs=2, type=Path, required=True, metavar=("CLASSIFIER", "QA"))
    parser.add_argument("--words", type=int, default=1400)
    parser.add_argument("--max-queue-size", type=int, default=32)
    parser.add_argument("--factor", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--deadline", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    text = " ".join(read_words(_ROOT / "examples" / "documents")[: arguments.words])
    instances = 2
    with tempfile.TemporaryDirectory() as directory:
        repository = Path(directory) / "model_repository"
        build(
            (arguments.bundles[0], arguments.bundles[1]),
            repository,
            text_instances=instances,
            max_queue_size=arguments.max_queue_size,
        )
        with serve(repository, sys.stderr) as served:
            report = asyncio.run(
                measure(
                    served,
                    text,
                    instances * arguments.max_queue_size,
                    arguments.factor,
                    arguments.seconds,
                    arguments.deadline,
                )
            )
    return finish(report, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
