"""Bulk scoring: a run of many documents, killed at random, and its throughput beside the encoder's own.

    python benchmarks/batch.py --bundle bundles/longformer_classification \\
        --json benchmarks/results/batch.json

Claim files of mixed lengths (log-normal, 30 to 3500 words) are written as Parquet. `longserve batch` scores
them and is killed (SIGKILL) `--kills` times at random moments, then run to the end; every row must be there
once, in order, with the label of an undisturbed run of the first `--sample` rows. Then, on that sample and in
interleaved rounds, the time of a whole run in this process (reading, tokenizing, packing, encoding, writing)
stands against that of the encoder alone on the same sequences in the same runs. Exit status 1 unless all rows
are right and the median ratio of throughputs is at least `--goal`.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from longserve.export.bench.machine import describe_machine, library_versions
from longserve.serving import Task
from longserve.serving.batch import BatchSettings, BundleScorer, run_batch

_ROOT = Path(__file__).parents[1]
_GOAL = 0.9


def write_documents(path: Path, count: int, seed: int) -> None:
    """Write claim files of mixed lengths as Parquet, with a column of their names."""
    sys.path.insert(0, str(_ROOT / "examples"))
    from demo_documents import write_claim_file

    generator = random.Random(seed)
    words = [max(30, min(3500, int(generator.lognormvariate(5.3, 0.8)))) for _ in range(count)]
    texts = [write_claim_file(f"batch-{i}", words=size).text for i, size in enumerate(words)]
    pq.write_table(pa.table({"id": [f"d{i}" for i in range(count)], "text": texts}), path)


def killed_run(command: list[str], output: Path, chunks: int, kills: int, seed: int) -> list[int]:
    """Run the command, kill it at random moments, run it to the end; return the parts at each kill."""
    generator = random.Random(seed)
    directory = output.with_name(output.name + ".parts")
    moments = sorted(generator.uniform(0.05, 0.95) * chunks for _ in range(kills))
    found = []
    for moment in moments:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and len(list(directory.glob("part-*.parquet"))) < moment:
                time.sleep(0.01)
            time.sleep(generator.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        found.append(len(list(directory.glob("part-*.parquet"))))
    subprocess.run(command, check=True)
    return found


def check_rows(output: Path, expected: list[dict[str, Any]], count: int) -> dict[str, int]:
    """Count rows that are missing, repeated, out of order, without a result, or unlike the others."""
    table = pq.read_table(output)
    ids = table.column("id").to_pylist()
    labels = table.column("label").to_pylist()[: len(expected)]
    scores = table.column("score").to_pylist()[: len(expected)]
    unlike = sum(
        label != row["label"] or abs(score - row["score"]) > 1e-4
        for label, score, row in zip(labels, scores, expected, strict=True)
    )
    wanted = [f"d{i}" for i in range(count)]
    return {
        "rows": len(ids),
        "missing": len(set(wanted) - set(ids)),
        "repeated": len(ids) - len(set(ids)),
        "out_of_order": sum(a != b for a, b in zip(ids, wanted, strict=False)),
        "errors": table.num_rows - table.column("error").null_count,
        "unlike_the_undisturbed_run": unlike,
    }


def encoder_alone(scorer: BundleScorer, texts: list[str], chunk_rows: int) -> tuple[float, int]:
    """Seconds that the encoder takes for the texts' sequences, chunk by chunk as the run has them; tokens."""
    seconds, tokens = 0.0, 0
    for first in range(0, len(texts), chunk_rows):
        prepared = scorer.prepare([(text,) for text in texts[first : first + chunk_rows]])
        sequences = [sequence for row in prepared.rows for sequence in row.sequences]
        begun = time.perf_counter()
        scorer.encode(sequences)
        seconds += time.perf_counter() - begun
        tokens += sum(sequence.input_ids.size for sequence in sequences)
    return seconds, tokens


def throughput(
    bundle: Path, source: Path, rounds: int, chunk_rows: int, tokens_per_run: int | None, folder: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Interleaved rounds of a whole run and of the encoder alone; and the rows."""
    settings = BatchSettings(task=Task.TEXT_CLASSIFICATION, keep=("id",), chunk_rows=chunk_rows)
    scorer = BundleScorer(bundle, settings, tokens_per_run=tokens_per_run)
    texts = pq.read_table(source).column("text").to_pylist()
    scorer.score(scorer.prepare([(text,) for text in texts[:50]]))
    whole, alone, tokens = [], [], 0
    output = folder / "sample-out.parquet"
    for _ in range(rounds):
        summary = run_batch(source, output, settings, scorer, overwrite=True)
        whole.append(summary.seconds)
        seconds, tokens = encoder_alone(scorer, texts, chunk_rows)
        alone.append(seconds)
    figures = {
        "documents": len(texts),
        "tokens": tokens,
        "rounds": rounds,
        "run_tokens_per_second": round(tokens / statistics.median(whole)),
        "encoder_tokens_per_second": round(tokens / statistics.median(alone)),
        "ratios": [round(a / w, 3) for a, w in zip(alone, whole, strict=True)],
        "ratio": round(float(np.median([a / w for a, w in zip(alone, whole, strict=True)])), 3),
    }
    return figures, pq.read_table(output).to_pylist()


def main() -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--sample", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunk-rows", type=int, default=512)
    parser.add_argument("--tokens-per-run", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--goal", type=float, default=_GOAL)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    report: dict[str, Any] = {"machine": asdict(describe_machine()), "versions": library_versions()}
    report["bundle"] = str(given.bundle)
    report["command"] = " ".join(["python", *sys.argv])
    right = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_documents(folder / "sample.parquet", given.sample, given.seed)
        report["throughput"], rows = throughput(
            given.bundle,
            folder / "sample.parquet",
            given.rounds,
            given.chunk_rows,
            given.tokens_per_run,
            folder,
        )
        print(json.dumps(report["throughput"]))
        if given.documents:
            source, output = folder / "in.parquet", folder / "out.parquet"
            write_documents(source, given.documents, given.seed)
            command = [str(Path(sys.executable).parent / "longserve"), "batch", str(source), str(output)]
            command += ["--bundle", str(given.bundle), "--keep", "id", "--json"]
            command += ["--chunk-rows", str(given.chunk_rows)]
            if given.tokens_per_run:
                command += ["--tokens-per-run", str(given.tokens_per_run)]
            chunks = -(-given.documents // given.chunk_rows)
            done = killed_run(command, output, chunks, given.kills, given.seed)
            checked = check_rows(output, rows, given.documents)
            report["killed"] = {
                "documents": given.documents,
                "chunks": chunks,
                "parts_at_kill": done,
                **checked,
            }
            print(json.dumps(report["killed"]))
            faults = ("missing", "repeated", "out_of_order", "errors", "unlike_the_undisturbed_run")
            right = checked["rows"] == given.documents and not any(checked[fault] for fault in faults)
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if right and report["throughput"]["ratio"] >= given.goal else 1


if __name__ == "__main__":
    sys.exit(main())
