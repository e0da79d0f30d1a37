"""What a PromQL expression asks for: its series and the labels that it names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser

__all__ = ["Selector", "aggregation_labels", "selectors"]

_CHILDREN = ("args", "expr", "lhs", "rhs", "vector_selector")


@dataclass(frozen=True)
class Selector:
    """One series selector: the series' name, and label, operator and value of each matcher."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]


def _walk(node: Any) -> Iterator[Any]:
    yield node
    for name in _CHILDREN:
        child = getattr(node, name, None)
        for each in child if isinstance(child, list | tuple) else [child]:
            if each is not None:
                yield from _walk(each)


def selectors(expression: str) -> list[Selector]:
    """The series that an expression reads. A syntax error is a ValueError."""
    return [
        Selector(
            node.name,
            tuple((m.name, str(m.op).rpartition(".")[2], m.value) for m in node.matchers.matchers),
        )
        for node in _walk(promql_parser.parse(expression))
        if isinstance(node, promql_parser.VectorSelector)
    ]


def aggregation_labels(expression: str) -> set[str]:
    """Labels that an expression groups by."""
    found: set[str] = set()
    for node in _walk(promql_parser.parse(expression)):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            found |= set(node.modifier.labels)
    return found
