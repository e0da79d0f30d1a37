"""From a bundle's ONNX file to a TensorRT network, with every error of the parser shown with its node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from ..errors import EngineBuildError

__all__ = ["CollectingLog", "parse_network"]

_KEPT = 20
"""Messages of the library that are kept for an error."""


class CollectingLog:
    """The library's log: its errors are kept for messages, and everything is passed on to whoever asks."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.lines: list[tuple[str, str]] = []

    def take(self, severity: str, message: str) -> None:
        """Take one message."""
        self.lines.append((severity, message))
        if severity.endswith("ERROR"):
            self.errors.append(" ".join(message.split()))

    def why(self) -> str:
        """Return the last errors, for a message."""
        return "; ".join(self.errors[-_KEPT:]) or "it gave no reason"

    def logger(self, library: Any) -> Any:
        """Return a logger of that library that writes here."""
        take = self.take

        class Logger(library.ILogger):  # type: ignore[misc]
            def log(self, severity: Any, message: str) -> None:
                take(str(getattr(severity, "name", severity)), message)

        return Logger()


def parse_network(
    library: Any, builder: Any, logger: Any, model: onnx.ModelProto, source: Path
) -> tuple[Any, Any]:
    """Parse a model into a strongly typed network: every tensor keeps the type that the graph gives it.

    Args:
        library: `tensorrt` or `tensorrt_rtx`.
        builder, logger: its objects.
        model: the graph, its weights outside.
        source: the file that the weights' places are relative to.

    Returns:
        The network and its parser, which owns the weights and must live as long.

    Raises:
        EngineBuildError: the parser refuses a node, or the network has other tensors than the graph.
    """
    flags = library.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED))
    parser = library.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString(), str(source)):
        found = [_described(parser.get_error(index)) for index in range(parser.num_errors)]
        raise EngineBuildError(
            f"{library.__name__} {library.__version__} cannot parse {source.name}: "
            + ("; ".join(found) or "it gave no reason")
        )
    _check_tensors(network, model, source)
    return network, parser


def _described(error: Any) -> str:
    """Return an error of the parser in one line, with its node's number, name and operator."""
    operator, name = error.node_operator() or "?", error.node_name() or "?"
    code = getattr(error.code(), "name", str(error.code()))
    return f"node {error.node()} {name} ({operator}): {' '.join(str(error.desc()).split())} [{code}]"


def _check_tensors(network: Any, model: onnx.ModelProto, source: Path) -> None:
    for kind, count, get, wanted in (
        ("inputs", network.num_inputs, network.get_input, model.graph.input),
        ("outputs", network.num_outputs, network.get_output, model.graph.output),
    ):
        found = {get(index).name for index in range(count)}
        named = {value.name for value in wanted}
        if found != named:
            raise EngineBuildError(
                f"the network parsed from {source.name} has the {kind} {', '.join(sorted(found))} where the "
                f"graph has {', '.join(sorted(named))}"
            )
