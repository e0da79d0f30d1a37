"""A scrape of a server's metrics, in the names and labels that Prometheus sees.

(prometheus-client's parser adds `_total` to counters that lack it, as Triton's do.)
"""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Scrape", "scrape", "settled"]

_TYPE = re.compile(r"# TYPE (?P<name>\S+) (?P<type>counter|gauge|histogram|summary)")
_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)')


@dataclass(frozen=True)
class Scrape:
    """Values by sample name and labels, and the type of each family."""

    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]
    types: Mapping[str, str]

    def value(self, name: str, **labels: str) -> float:
        """The only sample of that name that has these labels, among others."""
        (found,) = [
            value for (n, own), value in self.samples.items() if n == name and labels.items() <= set(own)
        ]
        return found

    def labels(self, name: str) -> list[dict[str, str]]:
        """The label sets of a name's samples."""
        return [dict(own) for n, own in self.samples if n == name]

    def names(self) -> set[str]:
        """Names of all samples."""
        return {name for name, _ in self.samples}


def scrape(url: str) -> Scrape:
    """Read a metrics endpoint: Prometheus' text format 0.0.4."""
    with urllib.request.urlopen(url, timeout=30) as response:
        lines = response.read().decode().splitlines()
    samples, types = {}, {}
    for line in filter(None, lines):
        if line.startswith("#"):
            if (match := _TYPE.fullmatch(line)) is not None:
                types[match["name"]] = match["type"]
            continue
        match = _SAMPLE.fullmatch(line)
        assert match is not None, f"no sample: {line!r}"
        labels = match["labels"] or ""
        assert not _LABEL.sub("", labels), f"no labels: {line!r}"
        samples[match["name"], frozenset(_LABEL.findall(labels))] = float(match["value"])
    return Scrape(samples, types)


def settled(url: str, seconds: float = 10.0) -> Scrape:
    """Read it when our counts grow no more: a text model counts a request after it has answered it."""
    deadline = time.monotonic() + seconds
    last = scrape(url)
    while time.monotonic() < deadline:
        time.sleep(0.1)
        now = scrape(url)
        if _ours(now) == _ours(last):
            break
        last = now
    return last


def _ours(found: Scrape) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {key: value for key, value in found.samples.items() if key[0].startswith("longserve_")}
