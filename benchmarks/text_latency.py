"""What Triton adds to one text: the same text through the server and in this process, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from longserve.serving import Classification, Client, LocalClient
from longserve.serving.measurement.statistics import spread
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine_settings import EngineSettings

GOAL = 1.05
"""Most of a text's median time through Triton over that in process, from 1024 tokens on."""
_SETTLE = 0.05
"""Seconds between two calls: the engines' threads spin for a while after a run, in both processes."""
_WARMUP = 2
_SENTENCE = "The board of the northern harbour met and read the minutes of the last meeting aloud. "


def exact_text(tokenizer: Any, length: int) -> str:
    """Return a text that the model reads as exactly `length` tokens, its two special ones included."""
    text = _SENTENCE * (length // 8 + 1)
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    return text[: offsets[length - 3][1]]


def measure_texts(
    url: str, model: str, bundle: Bundle, settings: EngineSettings, lengths: Sequence[int], rounds: int
) -> list[dict[str, Any]]:
    """Measure one text at a time: tokenizing, one run of the engine with all cores, decoding.

    Args:
        url: of Triton, as `Client` takes it.
        model: the text model's name; it must serve `bundle`.
        bundle: a classifier's bundle.
        settings: what runs it in this process; the server must run it likewise.
        lengths: tokens of the texts.
        rounds: timed calls of each kind.

    Raises:
        ValueError: a side read another number of tokens than the text has.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bundle.tokenizer_path))
    rows = []
    with LocalClient(bundle.path, engine=settings, verify=False) as local, Client(url) as remote:
        calls: dict[str, Callable[[str], Classification]] = {
            "in_process": local.classify,
            "triton": lambda text: remote.classify(text, model=model),
        }
        for length in lengths:
            text = exact_text(tokenizer, length)
            seconds: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(_WARMUP + rounds):
                for name, call in calls.items():
                    time.sleep(_SETTLE)
                    began = time.perf_counter()
                    result = call(text)
                    seconds[name].append(time.perf_counter() - began)
                    if (result.tokens, result.windows) != (length, 1):
                        raise ValueError(f"{name} read {result.tokens} tokens of a text of {length}")
            row: dict[str, Any] = {name: asdict(spread(took[_WARMUP:])) for name, took in seconds.items()}
            ratio = row["triton"]["median"] / row["in_process"]["median"]
            rows.append({"length": length, **row, "ratio_of_medians": ratio})
    return rows


def print_texts(rows: Sequence[dict[str, Any]]) -> None:
    """Print the times of single texts."""
    table = Table(title=f"one text, median (at most {GOAL} times in process)", title_justify="left")
    for heading in ("tokens", "in process ms", "through Triton ms", "ratio"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            str(row["length"]),
            f"{row['in_process']['median'] * 1000:.1f}",
            f"{row['triton']['median'] * 1000:.1f}",
            f"{row['ratio_of_medians']:.3f}",
        )
    Console(width=None if Console().is_terminal else 110).print(table)
