"""Throughput of the embedded Triton under mixed lengths, and what the server adds to one text.

    python benchmarks/server_throughput.py --json results.json
    python benchmarks/server_throughput.py --modes packed --instances 1,2 --queue-delays 0,0.001,0.005
    python benchmarks/server_throughput.py --precision int8 --text-lengths 1024,2048,4096
    python benchmarks/server_throughput.py --precision fp32 --engine openvino --inference-precision bf16

One server holds an encoder for each configuration; the same requests go to one after the other, round by
round, in an order that rotates, so that all are measured in the same minutes:

* `packed`: what `longserve repo` builds: the requests of one execution go end to end, without padding;
* `padded`: the same server, batcher, engine and threads, with the padded graph: the requests of one execution
  are padded to the longest of them (`padded_encoder.py`). That is kinder than a server that pads to the
  model's length, or clients that pad before they send;
* `unbatched`: packed, but every request runs alone (max_batch_size 1).

Lengths are long-tailed, 50 to 4096 tokens (`mixed_lengths.py`), the same in every round. `--text-lengths`
measures a text through Triton (tokenized there) against `LocalClient` in this process, in turns.
Which load generator ran, and why, is in the results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cached_bundles import DEFAULT_CACHE, cached_bundle
from export_real_sizes import SIZES
from load_generator import Answered, Load, find_generator
from mixed_lengths import mixed_lengths
from rich.console import Console
from rich.table import Table
from server_memory import server_memory
from text_latency import measure_texts, print_texts

from longserve.export.bench.machine import describe_machine, library_versions
from longserve.serving.measurement.statistics import paired_ratio, spread
from longserve.serving.repository import RepositoryOptions, build_repository
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.cores import available_cores
from longserve.serving.runtime.engine_settings import EngineName, EngineSettings, InferencePrecision
from longserve.serving.runtime.errors import ServingError
from longserve.serving.runtime.manifest import Layout, Task
from longserve.serving.server import Ports, TritonServer

MODES = ("packed", "padded", "unbatched")
GOAL = 2.0
"""Least throughput of packed batching over that of padded batching."""
_HERE = Path(__file__).parent
_TEXT_MODEL = "texts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One encoder of the server."""

    mode: str
    instances: int
    threads: int
    queue_delay: float

    @property
    def name(self) -> str:
        """Its name, from which Triton's is made."""
        delay = f"{self.queue_delay * 1000:g}".replace(".", "_")
        return f"{self.mode}-{self.instances}x{self.threads}-{delay}ms"

    @property
    def model(self) -> str:
        """The encoder's name in Triton."""
        return f"{self.name}_encoder"


def configurations(chosen: argparse.Namespace) -> list[Configuration]:
    """List the configurations: modes by instances by queue delays."""
    unknown = set(chosen.modes.split(",")) - set(MODES)
    if unknown:
        raise ValueError(f"there is no mode {', '.join(sorted(unknown))}; give some of {', '.join(MODES)}")
    return [
        Configuration(mode=mode, instances=instances, threads=threads, queue_delay=delay)
        for mode, (instances, threads), delay in itertools.product(
            chosen.modes.split(","),
            map(read_instances, chosen.instances.split(",")),
            map(float, chosen.queue_delays.split(",")),
        )
    ]


def read_instances(word: str) -> tuple[int, int]:
    """Read `2x1` (two instances of one thread each) or `2` (two instances that share all cores)."""
    instances, _, threads = word.partition("x")
    return int(instances), int(threads) if threads else max(1, available_cores() // int(instances))


def build_encoder(
    bundle: Bundle, configuration: Configuration, repository: Path, chosen: argparse.Namespace
) -> None:
    """Put a configuration's encoder into the repository."""
    options = RepositoryOptions(
        engine=EngineName(chosen.engine),
        inference_precision=InferencePrecision(chosen.inference_precision),
        instances=configuration.instances,
        threads=configuration.threads,
        max_queue_delay=configuration.queue_delay,
        max_batch_size=1 if configuration.mode == "unbatched" else chosen.max_batch_size,
    )
    built = build_repository(bundle, configuration.name, repository, options)
    if built.text is not None:
        shutil.rmtree(built.text)
    if configuration.mode == "padded":
        version = built.encoder / "1"
        graph = bundle.model_path(Layout.PADDED)
        shutil.copyfile(graph, version / graph.name)
        (
            version / bundle.model_path(Layout.PACKED).name
        ).unlink()  # so that nothing but the padded graph can run
        (version / "model.py").rename(version / "packed_encoder.py")
        shutil.copyfile(_HERE / "padded_encoder.py", version / "model.py")


def build_text_model(bundle: Bundle, repository: Path, chosen: argparse.Namespace) -> None:
    """Put the model that serves texts into the repository: one encoder with all cores."""
    options = RepositoryOptions(
        engine=EngineName(chosen.engine), inference_precision=InferencePrecision(chosen.inference_precision)
    )
    build_repository(bundle, _TEXT_MODEL, repository, options)


def measure_rounds(
    url: str, bundle: Bundle, planned: list[Configuration], generator: Any, chosen: argparse.Namespace
) -> dict[str, list[Answered]]:
    """Send the same requests to every configuration, round by round, each round beginning with another."""
    lengths = mixed_lengths(chosen.requests, seed=chosen.seed, longest=bundle.manifest.max_length)
    load = Load(
        url=url,
        model="",
        lengths=tuple(lengths),
        vocab_size=bundle.manifest.vocab_size,
        concurrency=chosen.concurrency,
    )
    few = replace(load, lengths=load.lengths[: 2 * chosen.concurrency])
    found: dict[str, list[Answered]] = {configuration.name: [] for configuration in planned}
    for configuration in planned:
        generator.run(replace(few, model=configuration.model))
    for number in range(chosen.rounds):
        first = number % len(planned)
        for configuration in (*planned[first:], *planned[:first]):
            print(f"round {number + 1}: {configuration.name}", file=sys.stderr)
            found[configuration.name].append(generator.run(replace(load, model=configuration.model)))
    return found


def batch_sizes(url: str, planned: list[Configuration]) -> dict[str, float]:
    """Return Triton's mean number of requests per execution, by configuration."""
    from tritonclient import grpc

    with grpc.InferenceServerClient(url) as client:
        sizes = {}
        for configuration in planned:
            stats = client.get_inference_statistics(configuration.model).model_stats[0]
            sizes[configuration.name] = stats.inference_count / stats.execution_count
    return sizes


def summarize(
    planned: list[Configuration],
    found: dict[str, list[Answered]],
    sizes: dict[str, float],
    chosen: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Return figures of each configuration; ratios are to the padded one of the same instances and delay."""
    rows = []
    tokens = sum(mixed_lengths(chosen.requests, seed=chosen.seed, longest=chosen.longest))
    for configuration in planned:
        answered = found[configuration.name]
        durations = [one.duration for one in answered]
        latencies = sorted(latency for one in answered for latency in one.latencies)
        padded = replace(configuration, mode="padded")
        ratio = None
        if padded.name in found:
            ratio = asdict(paired_ratio([one.duration for one in found[padded.name]], durations))
        rows.append(
            {
                **asdict(configuration),
                "model": configuration.model,
                "requests_per_second": asdict(spread([len(a.sent) / a.duration for a in answered])),
                "tokens_per_second": tokens / statistics.median(durations),
                "latency_seconds": asdict(spread(latencies)),
                "latency_p99_seconds": latencies[max(0, round(0.99 * len(latencies)) - 1)],
                "requests_per_execution": sizes[configuration.name],
                "times_padded": ratio,
            }
        )
    return rows


def print_throughput(
    rows: list[dict[str, Any]], memory: list[dict[str, Any]], chosen: argparse.Namespace
) -> None:
    """Print the configurations as a table."""
    title = f"{chosen.requests} requests of mixed lengths, {chosen.concurrency} at a time"
    table = Table(title=title, title_justify="left")
    table.add_column("encoder", overflow="fold")
    headings = (
        "instances x threads",
        "delay ms",
        "requests/s",
        "tokens/s",
        "times padded",
        "p50 ms",
        "p90 ms",
    )
    for heading in (*headings, "p99 ms", "per run", "peak MB"):
        table.add_column(heading, justify="right")
    for row in rows:
        latency, ratio = row["latency_seconds"], row["times_padded"]
        table.add_row(
            row["mode"],
            f"{row['instances']}x{row['threads']}",
            f"{row['queue_delay'] * 1000:g}",
            f"{row['requests_per_second']['median']:.2f}",
            f"{row['tokens_per_second']:.0f}",
            "-" if ratio is None else f"{ratio['median']:.2f}",
            f"{latency['median'] * 1000:.0f}",
            f"{latency['p90'] * 1000:.0f}",
            f"{row['latency_p99_seconds'] * 1000:.0f}",
            f"{row['requests_per_execution']:.1f}",
            "+".join(f"{m['peak_bytes'] / 1e6:.0f}" for m in memory if m["model"] == row["model"]),
        )
    console = Console(width=None if Console().is_terminal else 130)
    console.print(table)
    for entry in memory:
        if entry["model"] is None:
            console.print(f"Triton itself: peak {entry['peak_bytes'] / 1e6:.0f} MB", highlight=False)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="base", choices=sorted(SIZES))
    parser.add_argument("--precision", default="int8", choices=["fp32", "int8", "int8-weights"])
    parser.add_argument("--bundle", type=Path, help="an own classifier's bundle instead of --size")
    parser.add_argument("--engine", default="onnxruntime", choices=[name.value for name in EngineName])
    parser.add_argument(
        "--inference-precision", default="fp32", choices=[kind.value for kind in InferencePrecision]
    )
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument(
        "--instances",
        default="1",
        help="numbers of instances, which share the cores, or 2x1, 2x2 with threads",
    )
    parser.add_argument("--queue-delays", default="0.001", help="seconds that the batcher waits for more")
    parser.add_argument("--max-batch-size", type=int, default=16)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text-lengths", default="", help="also measure single texts of these lengths")
    parser.add_argument("--text-rounds", type=int, default=20)
    parser.add_argument("--generator", default="auto", choices=["auto", "perf_analyzer", "tritonclient"])
    parser.add_argument("--perf-analyzer", help="path of the program; default: the one on PATH")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure, print and write."""
    chosen = parse_arguments()
    path = chosen.bundle
    if path is None:
        path = cached_bundle(chosen.cache, chosen.size, Task.TEXT_CLASSIFICATION.value, chosen.precision)
    bundle = Bundle.open(path)
    chosen.longest = bundle.manifest.max_length
    texts: list[dict[str, Any]] = []
    try:
        planned = configurations(chosen)
        generator, reason = find_generator(chosen.generator, chosen.perf_analyzer)
        print(f"load generator: {generator.name} ({reason})")
        with tempfile.TemporaryDirectory(prefix="longserve-throughput-") as room:
            repository = Path(room, "models")
            for configuration in planned:
                build_encoder(bundle, configuration, repository, chosen)
            if chosen.text_lengths:
                build_text_model(bundle, repository, chosen)
            ports = Ports(http=0, grpc=0, metrics=0)
            with TritonServer(repository, ports=ports, log=sys.stderr, ready_timeout=600) as server:
                url = server.urls.grpc.removeprefix("grpc://")
                found = measure_rounds(url, bundle, planned, generator, chosen)
                rows = summarize(planned, found, batch_sizes(url, planned), chosen)
                memory = server_memory(server.pid)
                if chosen.text_lengths:
                    lengths = [int(length) for length in chosen.text_lengths.split(",")]
                    settings = EngineSettings(
                        engine=EngineName(chosen.engine),
                        inference_precision=InferencePrecision(chosen.inference_precision),
                        threads=available_cores(),
                    )
                    texts = measure_texts(
                        server.urls.grpc, _TEXT_MODEL, bundle, settings, lengths, chosen.text_rounds
                    )
    except (ServingError, OSError, ValueError) as error:
        sys.exit(str(error))
    print_throughput(rows, memory, chosen)
    if texts:
        print_texts(texts)
    if chosen.json is not None:
        report = {
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": sys.argv,
            "machine": asdict(describe_machine()),
            "versions": library_versions(),
            "bundle": {"name": path.name, "precision": bundle.manifest.precision.value},
            "engine": {"name": chosen.engine, "inference_precision": chosen.inference_precision},
            "load_generator": {"name": generator.name, "reason": reason},
            "requests": chosen.requests,
            "concurrency": chosen.concurrency,
            "rounds": chosen.rounds,
            "configurations": rows,
            "memory": memory,
            "texts": texts,
        }
        chosen.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
