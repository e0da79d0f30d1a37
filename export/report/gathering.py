"""Reading what a report shows: the bundle, its comparison with PyTorch, its graphs, a benchmark."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.manifest import Layout

from ..errors import ReportError
from .contents import Drift, EngineSpeed, OperatorCount, ParityPoint, ReportData, Speed, precision_of

__all__ = ["gather", "read_speed"]

_PARITY = "parity.json"
_CASE = re.compile(r"^(\d+(?:\+\d+)*)\[([\w,]+)\]$")
_BENCH_FORMAT = "longserve-bench"
_NOT_SERVED = ("products", "rewrite")
"""Engines of a benchmark that show limits, not choices."""


def gather(bundle: str | Path, *, beside: Sequence[str | Path] = (), bench: Path | None = None) -> ReportData:
    """Read everything that a report of a bundle shows.

    Args:
        bundle: the bundle's directory.
        beside: bundles of the same model in other precisions, whose drift is shown beside this one's.
        bench: a JSON file of `longserve bench`.

    Raises:
        BundleError: a bundle cannot be used.
        ReportError: its comparison or the benchmark cannot be read, or a bundle is of another task.
    """
    opened = Bundle.open(bundle)
    points, tolerance = _points(opened)
    drifts = [_drift(opened, points, tolerance)] if points else []
    for path in beside:
        other = Bundle.open(path)
        if other.manifest.task is not opened.manifest.task:
            raise ReportError(
                f"{path} is for {other.manifest.task.value}, {bundle} for {opened.manifest.task.value}; "
                "give bundles of one model"
            )
        found, allowed = _points(other)
        if found:
            drifts.append(_drift(other, found, allowed))
    operators, domains = _operators(opened)
    return ReportData(
        bundle=opened,
        name=Path(bundle).resolve().name,
        tolerance=tolerance,
        points=points,
        drifts=tuple(drifts),
        operators=operators,
        domains=domains,
        speed=None if bench is None else read_speed(bench),
    )


def read_speed(path: Path) -> Speed:
    """Read a benchmark: its smallest batch size, and the packed layout where both were measured.

    Raises:
        ReportError: no such file, or not one that `longserve bench` wrote.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict) or not str(data.get("format", "")).startswith(_BENCH_FORMAT):
        raise ReportError(f"{path} is no benchmark; write one with `longserve bench BUNDLE --json FILE`")
    try:
        return _speed(data)
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{path} is damaged ({type(error).__name__}: {error}); measure again") from error


def _points(bundle: Bundle) -> tuple[tuple[ParityPoint, ...], float | None]:
    """The cases of the comparison that a bundle was written with, and what was allowed; none without one."""
    path = bundle.path / _PARITY
    if bundle.manifest.parity is None or not path.exists():
        return (), None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        points = tuple(_point(result) for result in data["results"])
        return points, float(data["tolerance"]["max_relative"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{path} cannot be read ({error}); export the bundle again") from error


def _point(result: Mapping[str, Any]) -> ParityPoint:
    found = _CASE.match(result["case"])
    if found is None:
        raise ValueError(f"unknown case {result['case']!r}")
    lengths = [int(length) for length in found[1].split("+")]
    patterns = set(found[2].split(","))
    return ParityPoint(
        case=result["case"],
        layout=result["layout"],
        length=max(lengths),
        rows=len(lengths),
        pattern=patterns.pop() if len(patterns) == 1 else "mixed",
        max_relative=float(result["max_relative"]),
        cosine=float(result["cosine"]),
        agreeing=int(result["agreeing"]),
        predictions=int(result["predictions"]),
    )


def _drift(bundle: Bundle, points: Sequence[ParityPoint], tolerance: float | None) -> Drift:
    values = tuple(point.max_relative for point in points)
    predictions = sum(point.predictions for point in points)
    return Drift(
        name=bundle.path.resolve().name,
        precision=precision_of(bundle.manifest),
        median=median(values),
        worst=max(values),
        tolerance=tolerance or 0.0,
        min_cosine=min(point.cosine for point in points),
        agreement=sum(point.agreeing for point in points) / max(1, predictions),
        values=values,
    )


def _operators(bundle: Bundle) -> tuple[tuple[OperatorCount, ...], Mapping[str, int]]:
    """How often each operator stands in either graph, functions included, and the opsets of the domains."""
    import onnx

    counts: dict[str, Counter[str]] = {}
    domains: dict[str, int] = {}
    for layout in (Layout.PADDED, Layout.PACKED):
        model = onnx.load(bundle.model_path(layout), load_external_data=False)
        nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
        counts[layout.value] = Counter(
            f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in nodes
        )
        domains.update({entry.domain or "ai.onnx": entry.version for entry in model.opset_import})
    names = sorted(set().union(*counts.values()), key=lambda name: (-counts["packed"][name], name))
    return (
        tuple(
            OperatorCount(name=name, padded=counts["padded"][name], packed=counts["packed"][name])
            for name in names
        ),
        domains,
    )


def _speed(data: Mapping[str, Any]) -> Speed:
    batch = min(result["batch"] for result in data["results"])
    results = [result for result in data["results"] if result["batch"] == batch]
    served = [record["spec"] for record in data["engines"] if record["spec"]["kind"] not in _NOT_SERVED]
    packed = {(spec["kind"], spec["bundle"]) for spec in served if spec["layout"] == Layout.PACKED.value}
    chosen = [
        spec
        for spec in served
        if spec["name"] == data["baseline"]
        or spec["layout"] == Layout.PACKED.value
        or (spec["kind"], spec["bundle"]) not in packed
    ]
    engines = [_engine(spec["name"], results) for spec in chosen]
    return Speed(
        date=str(data["date"]),
        machine=str(data["machine"]["cpu"]),
        cores=int(data["machine"]["cores"]),
        versions={str(name): str(version) for name, version in data["versions"].items()},
        command=data.get("command"),
        baseline=str(data["baseline"]),
        lengths=tuple(sorted({int(result["length"]) for result in results})),
        engines=tuple(engines),
    )


def _engine(name: str, results: Sequence[Mapping[str, Any]]) -> EngineSpeed:
    own = [result for result in results if result["engine"] == name]
    measured = [result for result in own if result["seconds"] is not None]
    errors = [str(result["error"]) for result in own if result["error"] is not None]
    return EngineSpeed(
        name=name,
        seconds={int(result["length"]): float(result["seconds"]["median"]) for result in measured},
        ratios={int(r["length"]): float(r["ratio"]["median"]) for r in measured if r["ratio"] is not None},
        peak_bytes={int(r["length"]): int(r["peak_bytes"]) for r in measured if r["peak_bytes"] is not None},
        error=None if measured or not errors else errors[0],
    )
