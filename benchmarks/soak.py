"""Soak: many clients, mixed lengths, minutes long. Nothing may be lost or wrong, and memory must not grow.

    python benchmarks/soak.py --bundles bundles/longformer_classification bundles/longformer_qa \\
        --json benchmarks/results/soak.json

It builds a repository, starts `longserve serve` on it, and sends `--requests` requests from `--clients`
threads, half of them over gRPC and half over HTTP, without retries. Every answer is compared with what the
bundle gives in this process for that request alone. Exit status 1 if a request was lost or wrong, or if the
resident memory of the server's processes in the last fifth is more than 1.07 times that in the fifth after
the warm-up (the first tenth): what grows evenly by a tenth from the warm-up to the end fails. So does a run
that is too short to tell; `problems` says what it was.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress
from served import Case, Served, build, finish, make_cases, percentiles, read_words, serve

from longserve.serving import Client, RetryPolicy, ServingError

GROWTH_LIMIT = 1.07
"""Between the middles of the two fifths, which are seven ninths of the way from the warm-up to the end."""
_ROOT = Path(__file__).parents[1]
_SAMPLE_SECONDS = 1.0
_FEWEST_SAMPLES = 9
"""Of each fifth: the median of fewer follows the run that is under way."""


@dataclass
class Tally:
    """What became of the requests."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def ended(self) -> int:
        """Requests that have ended, however."""
        return self.right + len(self.wrong) + self.lost.total()


def soak(
    served: Served, cases: list[Case], requests: int, clients: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Send the requests and return the report."""
    tally, lock, numbers = Tally(), threading.Lock(), itertools.count()
    samples: list[tuple[int, dict[str, int]]] = []
    task = None if progress is None else progress.add_task("requests", total=requests)

    def work(client: Client) -> None:
        while (number := next(numbers)) < requests:
            case = cases[number * 7919 % len(cases)]  # a prime: every case, in a mixed order
            begin = time.perf_counter()
            try:
                right = case.right(case.ask(client))
            except ServingError as error:
                with lock:
                    tally.lost[f"{type(error).__name__}: {str(error)[:200]}"] += 1
                continue
            seconds = time.perf_counter() - begin
            with lock:
                tally.seconds[case.kind].append(seconds)
                if right:
                    tally.right += 1
                else:
                    tally.wrong.append(case.kind)
                if progress is not None and task is not None:
                    progress.update(task, completed=tally.ended)

    with _connected(served, clients) as connections:
        begin = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            working = [pool.submit(work, client) for client in connections]
            under_way = True
            while under_way:
                samples.append((tally.ended, served.memory()))
                under_way = bool(wait(working, timeout=_SAMPLE_SECONDS).not_done)
            for done in working:
                done.result()
        duration = time.perf_counter() - begin
    return _report(tally, requests, duration, samples, clients)


@contextmanager
def _connected(served: Served, clients: int) -> Iterator[list[Client]]:
    never_twice = RetryPolicy(attempts=1)
    opened = [
        Client(served.urls["grpc" if index % 2 else "http"], timeout=60, retry=never_twice)
        for index in range(clients)
    ]
    yield opened
    for client in opened:
        client.close()


def _report(
    tally: Tally, requests: int, duration: float, samples: list[tuple[int, dict[str, int]]], clients: int
) -> dict[str, Any]:
    everything = [value for values in tally.seconds.values() for value in values]
    memory = memory_over_time(samples, requests)
    problems = problems_of(tally, requests, memory["growth"])
    return {
        "requests": requests,
        "clients": clients,
        "seconds": round(duration, 1),
        "requests_per_second": round(tally.ended / duration, 1),
        "right": tally.right,
        "wrong": len(tally.wrong),
        "lost": requests - tally.right - len(tally.wrong),
        "errors": dict(tally.lost),
        "milliseconds": percentiles(everything),
        "milliseconds_by_kind": {name: percentiles(tally.seconds[name]) for name in sorted(tally.seconds)},
        "resident_megabytes": memory,
        "problems": problems,
        "passed": not problems,
    }


def problems_of(tally: Tally, requests: int, growth: float | None) -> list[str]:
    """Return why the run did not pass; `growth` is None where it cannot be told."""
    problems = []
    if tally.right != requests:
        problems.append(f"{requests - tally.right} of {requests} requests were lost or wrong")
    if growth is None:
        problems.append("too short to tell whether memory grows; give more --requests")
    elif growth > GROWTH_LIMIT:
        problems.append(f"memory grew {growth} times; {GROWTH_LIMIT} is the limit")
    return problems


def memory_over_time(samples: list[tuple[int, dict[str, int]]], requests: int) -> dict[str, Any]:
    """Resident memory by process, in MB: medians over the fifth after the warm-up and over the last fifth.

    What the encoders hold depends on the run under way, so a few samples tell nothing: `growth` is then None.
    """
    early = [memory for ended, memory in samples if 0.1 <= ended / requests <= 0.3]
    late = [memory for ended, memory in samples if ended / requests >= 0.8]
    enough = min(len(early), len(late)) >= _FEWEST_SAMPLES
    names = sorted({name for _, memory in samples for name in memory})

    def middle(chosen: list[dict[str, int]]) -> dict[str, float]:
        return {
            name: round(statistics.median(memory.get(name, 0) for memory in chosen) / 1e6, 1)
            for name in (names if chosen else ())
        }

    def total(chosen: list[dict[str, int]]) -> float:
        return statistics.median(sum(memory.values()) for memory in chosen)

    every = [memory for _, memory in samples][:: max(1, len(samples) // 20)]
    return {
        "after_warm_up": middle(early),
        "at_the_end": middle(late),
        "growth": round(total(late) / total(early), 3) if enough else None,
        "every_twentieth": {name: [round(memory.get(name, 0) / 1e6) for memory in every] for name in names},
    }


def main() -> int:
    """Run the soak and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundles", nargs=2, type=Path, required=True, metavar=("CLASSIFIER", "QA"))
    parser.add_argument("--texts", type=Path, default=_ROOT / "examples" / "documents")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    bundles = (arguments.bundles[0], arguments.bundles[1])
    with tempfile.TemporaryDirectory() as directory, Progress(transient=True) as progress:
        repository = Path(directory) / "model_repository"
        build(bundles, repository)
        cases = make_cases(bundles, read_words(arguments.texts), arguments.cases)
        with serve(repository, sys.stderr) as served:
            report = soak(served, cases, arguments.requests, arguments.clients, progress)
    return finish(report, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
