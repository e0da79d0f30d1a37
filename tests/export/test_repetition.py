"""Graphs of which one layer of each kind is traced: the others' nodes are copies of its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from checkpoints import make_model
from torch import nn
from transformers import BertConfig, BertForQuestionAnswering

from longserve.export import GraphError
from longserve.export.architectures.bert import PackedBert
from longserve.export.graph import export_graph
from longserve.export.layers import compute_in_pieces
from longserve.export.model import PaddedModel
from longserve.export.repetition import Repetition
from longserve.serving.runtime.manifest import Layout, Task

WINDOWS = [16, 32, 16, 32, 16]


@pytest.fixture(scope="module")
def longformer() -> nn.Module:
    """Five layers of two kinds; all but the first have normalizations that are not the identity."""
    model = make_model("text-classification", num_hidden_layers=len(WINDOWS), attention_window=WINDOWS)
    _disturb(model, spare="longformer.encoder.layer.0.")
    module = PaddedModel(model, block_size=16)
    compute_in_pieces(module, heads=2, features=True)
    module.config = model.config
    return module


def _disturb(model: Any, spare: str) -> None:
    """Give parameters of one dimension values of their own: new models have equal ones."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and not name.startswith(spare):
                parameter.normal_(1.0, 0.1)


def _run(model: ir.Model, feeds: dict[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    results = session.run(None, {name: value.numpy() for name, value in feeds.items()})
    return (torch.from_numpy(np.asarray(result)) for result in results)


def _layer_parameters(model: ir.Model) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(value.const_value.numpy().copy())
        for name, value in model.graph.initializers.items()
        if name.startswith("core.layers.") and value.const_value is not None
    }


def test_each_kind_is_traced_once_and_the_last_layer(longformer: nn.Module) -> None:
    repetition = Repetition.of(longformer)
    assert repetition is not None
    assert repetition.traced == (0, 1, 4)
    assert repetition.like == (0, 1, 0, 1, 2)
    short: Any = repetition.shortened()
    layers: Any = longformer.core.layers
    assert list(short.core.layers) == [layers[0], layers[1], layers[4]]
    assert len(layers) == len(WINDOWS)  # the module itself is left as it was


@pytest.mark.parametrize("windows", [[16, 16], [16, 32, 16]])
def test_nothing_is_left_out_of_a_module_without_like_layers(windows: list[int]) -> None:
    model = make_model("question-answering", num_hidden_layers=len(windows), attention_window=windows)
    assert Repetition.of(PaddedModel(model, block_size=16)) is None


@pytest.mark.parametrize("difference", ["setting", "list", "buffer"])
def test_layers_that_differ_in_more_than_values_are_of_two_kinds(difference: str) -> None:
    model = make_model("question-answering", num_hidden_layers=3, attention_window=16)
    module: Any = PaddedModel(model, block_size=16)
    first, second, _ = module.core.layers
    for layer in (first, second):
        layer.widths = [1, 2]
        layer.register_buffer("table", torch.zeros(4))
    assert Repetition.of(module) is not None
    match difference:
        case "setting":
            second.output_norm.eps *= 2
        case "list":
            second.widths = [1, 3]
        case "buffer":
            second.table = torch.zeros(5)
    assert Repetition.of(module) is None


def test_a_module_of_another_form_is_traced_whole() -> None:
    assert Repetition.of(nn.Linear(1, 1)) is None


def test_windows_of_two_kinds(longformer: nn.Module) -> None:
    graph = export_graph(longformer, longformer.config, Task.TEXT_CLASSIFICATION, Layout.PADDED)
    parameters = _layer_parameters(graph)
    for name, value in parameters.items():
        torch.testing.assert_close(value, longformer.get_parameter(name).data, rtol=0, atol=0)
    # the last layer's may have been merged with equal ones, the others' not
    names = {name.split(".", 3)[3] for name in parameters if name.startswith("core.layers.0.")}
    for number in range(4):
        assert {f"core.layers.{number}.{name}" for name in names} <= set(parameters)
    ids = torch.randint(5, 300, (2, 83), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 60:] = 0
    chosen = torch.zeros_like(ids)
    chosen[:, [0, 7]] = 1
    feeds = {"input_ids": ids, "attention_mask": mask, "global_attention_mask": chosen}
    with torch.inference_mode():
        expected = longformer(**feeds)
    (logits,) = _run(graph, feeds)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_another_architecture() -> None:
    config = BertConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=5, num_attention_heads=4, intermediate_size=64
    )
    torch.manual_seed(3)
    model = BertForQuestionAnswering(config).eval()
    _disturb(model, spare="none")
    module = PackedBert(model, block_size=32)
    repetition = Repetition.of(module)
    assert repetition is not None and repetition.traced == (0, 4)
    graph = export_graph(module, config, Task.QUESTION_ANSWERING, Layout.PACKED)
    ids = torch.randint(5, 99, (120,), generator=torch.Generator().manual_seed(1))
    feeds = {
        "input_ids": ids,
        "sequence_ends": torch.tensor([50, 120], dtype=torch.int32),
        "token_type_ids": torch.zeros_like(ids),
    }
    with torch.inference_mode():
        expected = module(**feeds)
    for result, wanted in zip(_run(graph, feeds), expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-5)


def _chain(
    traced: tuple[int, ...], like: tuple[int, ...], *, skip: bool = False
) -> tuple[Repetition, ir.Graph]:
    """Return a graph of layers that are one normalization; with `skip` the head reads the first one's too."""
    module: Any = nn.Module()
    module.core = nn.Module()
    module.core.layers = nn.ModuleList()
    for _ in like:
        layer = nn.Module()
        layer.output_norm = nn.LayerNorm(4)
        module.core.layers.append(layer)
    hidden = ir.val("hidden", ir.DataType.FLOAT, ["tokens", 4])
    weights = [
        ir.Value(
            name=f"core.layers.{place}.output_norm.weight",
            shape=ir.Shape([4]),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(np.ones(4, np.float32)),
        )
        for place in range(len(traced))
    ]
    nodes, result = [], hidden
    for weight in weights:
        nodes.append(ir.node("LayerNormalization", [result, weight]))
        result = nodes[-1].outputs[0]
        result.shape, result.type = hidden.shape, hidden.type
    head = ir.node("Add", [result, nodes[0].outputs[0] if skip else hidden])
    graph = ir.Graph(
        [hidden], [head.outputs[0]], nodes=[*nodes, head], initializers=weights, opset_imports={"": 20}
    )
    return Repetition(module, traced, like), graph


def test_the_copies_stand_between_the_traced_layers() -> None:
    repetition, graph = _chain((0, 2), (0, 0, 1))
    repetition.hide_parameters(graph)
    assert [str(value.name) for value in graph.inputs] == ["hidden", "core.layers.0.output_norm.weight"]
    repetition.complete(graph)
    assert [str(value.name) for value in graph.inputs] == ["hidden"]
    order = [
        str(node.inputs[1].name)
        for node in graph
        if node.op_type == "LayerNormalization" and node.inputs[1] is not None
    ]
    assert order == [f"core.layers.{number}.output_norm.weight" for number in range(3)]
    norms = [node for node in graph if node.op_type == "LayerNormalization"]
    assert [norm.inputs[0] for norm in norms[1:]] == [norm.outputs[0] for norm in norms[:-1]]


def test_a_layer_that_hands_on_more_than_its_result_to_the_next_is_refused() -> None:
    repetition, graph = _chain((0, 1, 3), (0, 1, 0, 2), skip=True)
    repetition.hide_parameters(graph)
    with pytest.raises(GraphError, match="nodes outside of a layer read"):
        repetition.complete(graph)


def test_a_layer_whose_normalization_is_gone_is_refused() -> None:
    repetition, graph = _chain((0, 2), (0, 0, 1))
    graph.initializers["core.layers.0.output_norm.weight"].name = "merged"
    with pytest.raises(GraphError, match="0 nodes of the graph use a layer's"):
        repetition.complete(graph)
