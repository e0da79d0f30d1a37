"""Tracing one layer of each kind, and copying its nodes for the others.

Tracing and optimizing a graph take nearly all of an export's time, which grows with the number of layers,
and most layers differ only in their parameters. A module whose `core.layers` are `TransformerLayer`s is
therefore traced with one layer of each kind and the last, which may be computed otherwise; the optimized
graph then gets the others' nodes. A layer may read the result of the one before and what all layers share.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor, nn

from .errors import GraphError
from .layers import TransformerLayer

__all__ = ["Repetition"]

_PREFIX = "core.layers."
_LAST_PARAMETER = "output_norm.weight"


@dataclass(frozen=True, slots=True)
class Repetition:
    """Which layers of a module are traced, and which of them each layer is like.

    Attributes:
        module: all of it.
        traced: indices of the traced layers, ascending; the last layer is among them.
        like: for each layer the place in `traced` of the layer whose nodes it has.
    """

    module: nn.Module
    traced: tuple[int, ...]
    like: tuple[int, ...]

    @classmethod
    def of(cls, module: nn.Module) -> Repetition | None:
        """Return what can be saved of a module; None: nothing, all of it has to be traced."""
        layers = getattr(getattr(module, "core", None), "layers", None)
        if not isinstance(layers, nn.ModuleList) or not all(
            isinstance(layer, TransformerLayer) for layer in layers
        ):
            return None
        kinds: list[Any] = []
        traced: list[int] = []
        like: list[int] = []
        for number, layer in enumerate(layers):
            last = number == len(layers) - 1
            kind = "last" if last else _kind(layer)
            if kind not in kinds:
                kinds.append(kind)
                traced.append(number)
            like.append(kinds.index(kind))
        return cls(module, tuple(traced), tuple(like)) if len(traced) < len(layers) else None

    def shortened(self) -> nn.Module:
        """Return the module with the traced layers only, over the same parameters."""
        layers = cast(nn.ModuleList, self._core.layers)
        core = _with_children(self._core, layers=nn.ModuleList(layers[number] for number in self.traced))
        return _with_children(self.module, core=core)

    def hide_parameters(self, graph: ir.Graph) -> None:
        """Make inputs of the parameters and buffers of the layers that stand for others.

        So the optimizer cannot take for true of all layers what is true of one: that two weights are equal.
        """
        for place in range(len(self.traced) - 1):
            for name in [name for name in graph.initializers if name.startswith(f"{_PREFIX}{place}.")]:
                value = graph.initializers.pop(name)
                value.const_value = None
                graph.inputs.append(value)

    def complete(self, graph: ir.Graph) -> None:
        """Give the graph of `shortened` the nodes and parameters of all layers.

        Args:
            graph: optimized after `hide_parameters`.

        Raises:
            GraphError: the graph has not the form that the module's layers give.
        """
        parameters = [self._take_parameters(graph, place) for place in range(len(self.traced))]
        results = [_result(own) for own in parameters[:-1]]
        readers = [list(result.uses()) for result in results]
        entries = [_entry(results[0], parameters[0]), *results[:-1]]
        bodies = [
            _body(result, {entry, *own.values()})
            for result, entry, own in zip(results, entries, parameters, strict=False)
        ]
        _check_apart(bodies, results)
        hidden = entries[0]
        rewired: list[tuple[ir.Node, int, ir.Value]] = []
        for number, place in enumerate(self.like):
            own = parameters[place]
            if self.traced[place] == number:
                self._give_parameters(graph, number, own)
                rewired += [(node, index, hidden) for node, index in (readers[place - 1] if place else ())]
                hidden = results[place] if place < len(results) else hidden
            else:
                twins = {name: ir.Value(shape=value.shape, type=value.type) for name, value in own.items()}
                self._give_parameters(graph, number, twins)
                copies = {entries[place]: hidden, **{own[name]: twin for name, twin in twins.items()}}
                graph.extend(_copied(bodies[place], copies))
                hidden = copies[results[place]]
        for node, index, value in rewired:  # the copies are made of the nodes as they were
            node.replace_input_with(index, value)
        graph.sort()

    @property
    def _core(self) -> nn.Module:
        return cast(nn.Module, self.module.core)

    def _take_parameters(self, graph: ir.Graph, place: int) -> dict[str, ir.Value]:
        """Take a traced layer's parameters out of the graph; return those in use by their names in it."""
        prefix = f"{_PREFIX}{place}."
        for value in [value for value in graph.inputs if str(value.name).startswith(prefix)]:
            graph.inputs.remove(value)
            graph.initializers.add(value)
        names = [name for name in graph.initializers if name.startswith(prefix)]
        taken = {name.removeprefix(prefix): graph.initializers.pop(name) for name in names}
        return {name: value for name, value in taken.items() if value.uses()}

    def _give_parameters(self, graph: ir.Graph, number: int, values: dict[str, ir.Value]) -> None:
        """Make initializers of a layer's parameters."""
        for suffix, value in values.items():
            value.name = f"{_PREFIX}{number}.{suffix}"
            owner, _, attribute = value.name.rpartition(".")
            tensor: Tensor = getattr(self.module.get_submodule(owner), attribute)
            value.const_value = TorchTensor(tensor.detach(), name=value.name)
            graph.register_initializer(value)


def _kind(layer: nn.Module) -> Any:
    """Return what equals another layer's exactly if both have the same nodes."""
    return [(name, type(part), _settings(part), _shapes(part)) for name, part in layer.named_modules()]


def _settings(part: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if not name.startswith("_")}


def _shapes(part: nn.Module) -> list[tuple[str, torch.Size, torch.dtype]]:
    tensors = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
    return [(name, tensor.shape, tensor.dtype) for name, tensor in tensors]


def _with_children(module: nn.Module, **children: nn.Module) -> nn.Module:
    """Return a copy over the same parameters, with some of its children replaced."""
    made: Any = copy.copy(module)
    made._modules = {**made._modules, **children}
    return cast(nn.Module, made)


def _result(parameters: dict[str, ir.Value]) -> ir.Value:
    """Return a traced layer's result: what its last normalization writes."""
    weight = parameters.get(_LAST_PARAMETER)
    nodes = [] if weight is None else list(weight.consumers())
    if len(nodes) != 1:
        raise GraphError(f"{len(nodes)} nodes of the graph use a layer's {_LAST_PARAMETER}, not one")
    return nodes[0].outputs[0]


def _ancestors(value: ir.Value, until: Iterable[ir.Value] = ()) -> list[ir.Node]:
    """Return the nodes that a value is computed from, in an order in which they can run."""
    stop = set(until)
    found: list[ir.Node] = []
    seen: set[ir.Node] = set()
    stack = [(value.producer(), False)]
    while stack:
        node, ready = stack.pop()
        if node is None:
            continue
        if ready:
            found.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((v.producer(), False) for v in node.inputs if v is not None and v not in stop)
    return found


def _body(result: ir.Value, sources: set[ir.Value]) -> list[ir.Node]:
    """Return the nodes between some values and a result, in order: those that depend on one of them."""
    known = set(sources)
    body = []
    for node in _ancestors(result, sources):
        if any(value in known for value in node.inputs):
            body.append(node)
            known.update(node.outputs)
    return body


def _entry(result: ir.Value, parameters: dict[str, ir.Value]) -> ir.Value:
    """Return what the first layer reads: the one value shaped like its result that none of its nodes writes.

    Raises:
        GraphError: there is no such value, or more than one.
    """
    body = _body(result, set(parameters.values()))
    inside = {*parameters.values(), *(value for node in body for value in node.outputs)}
    found = {
        value
        for node in body
        for value in node.inputs
        if value is not None
        and value not in inside
        and value.dtype == result.dtype
        and value.shape == result.shape
    }
    if len(found) != 1:
        raise GraphError(f"{len(found)} values could be what the first layer reads, not one")
    return found.pop()


def _check_apart(bodies: list[list[ir.Node]], results: list[ir.Value]) -> None:
    """Check that a layer hands on nothing but its result, and that to the next layer only.

    Raises:
        GraphError: it does, so that copies of it would be wired wrongly.
    """
    following: list[list[ir.Node] | None] = [*bodies[1:], None]
    for body, result, after in zip(bodies, results, following, strict=True):
        for value in (value for node in body for value in node.outputs):
            allowed = after if value is result else body
            astray = [] if allowed is None else set(value.consumers()) - set(allowed)
            if astray:
                raise GraphError(
                    f"{len(astray)} nodes outside of a layer read {value.name}, which is no result of one; "
                    "a layer may hand on its result to the next, and nothing else"
                )


def _copied(body: list[ir.Node], copies: dict[ir.Value, ir.Value]) -> list[ir.Node]:
    """Copy nodes; `copies` says what stands for which value, and is told of the copies' results."""
    made = []
    for node in body:
        inputs = [None if value is None else copies.get(value, value) for value in node.inputs]
        twin = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            node.attributes,
            overload=node.overload,
            num_outputs=len(node.outputs),
            version=node.version,
        )
        for value, new in zip(node.outputs, twin.outputs, strict=True):
            new.shape, new.type = value.shape, value.type
            copies[value] = new
        made.append(twin)
    return made
