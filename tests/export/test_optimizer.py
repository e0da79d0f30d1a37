"""Our choice of passes and rules gives the graph that PyTorch's exporter gives with all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from checkpoints import make_model, make_small

from longserve.export import graph as tracing
from longserve.export.architectures.bigbird import PackedBigBird
from longserve.export.model import PaddedModel
from longserve.export.optimizer import optimize
from longserve.serving.runtime.manifest import Layout, Task


def longformer() -> Any:
    model = make_model("question-answering")
    return PaddedModel(model, block_size=16), model.config


def bigbird() -> Any:
    small = make_small("BigBirdForSequenceClassification", block_size=8, num_random_blocks=2)
    return PackedBigBird(small), small.config


CASES = {
    "longformer": (longformer, Task.QUESTION_ANSWERING, Layout.PADDED),
    "bigbird": (bigbird, Task.TEXT_CLASSIFICATION, Layout.PACKED),
}


def spelled(graph: ir.Graph) -> list[Any]:
    """Each node's operator, attributes, and inputs: constants by what they hold, others by their names."""

    def value(given: ir.Value | None) -> Any:
        if given is None or given.const_value is None:
            return given and given.name
        array = given.const_value.numpy()
        return array.dtype.name, array.shape, array.tobytes()

    return [
        (
            node.op_type,
            [value(each) for each in node.inputs],
            [each.name for each in node.outputs],
            sorted((name, str(attribute.value)) for name, attribute in node.attributes.items()),
        )
        for node in graph
    ]


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_missed(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, task, layout = CASES[case]
    compared: list[tuple[int, int]] = []

    def both(model: ir.Model) -> None:
        traced = len(model.graph)
        other = model.clone()
        torch.onnx.ONNXProgram(other, None).optimize()  # type: ignore[arg-type]
        optimize(model)
        assert spelled(model.graph) == spelled(other.graph)
        compared.append((traced, len(model.graph)))

    monkeypatch.setattr(tracing, "optimize", both)
    module, config = make()
    tracing.export_graph(module, config, task, layout)
    ((traced, left),) = compared
    assert left < 0.8 * traced


def test_a_model_is_tidied_in_place() -> None:
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n"]))
    one = ir.Value(name="one", const_value=ir.tensor(np.float32(1.0)))
    product = ir.Node("", "Mul", [x, one])
    same = ir.Node("", "Cast", [product.outputs[0]], attributes={"to": ir.AttrInt64("to", 1)})
    negated = ir.Node("", "Neg", [same.outputs[0]])
    negated.outputs[0].name = "y"
    nodes = [product, same, negated]
    graph = ir.Graph([x], negated.outputs, nodes=nodes, initializers=[one], opset_imports={"": 20}, name="g")
    model = ir.Model(graph, ir_version=10)
    optimize(model)
    assert [node.op_type for node in model.graph] == ["Neg"]
    assert model.graph.outputs[0].name == "y" and not model.graph.initializers
