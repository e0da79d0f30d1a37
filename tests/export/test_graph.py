"""The exported graphs: operators, axes, and parity on checkpoints that are not in the repository."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from checkpoints import make_checkpoint, make_model

from longserve.export import ExportSettings, GraphError, export_bundle
from longserve.export.checkpoint import load_checkpoint
from longserve.export.description import GRAPH_FILES
from longserve.export.graph import FORBIDDEN_OPERATORS, check_graph, export_graph
from longserve.export.model import PackedModel, PaddedModel
from longserve.export.parity import check_parity
from longserve.serving.runtime.bundle import Bundle
from longserve.serving.runtime.engine import EngineSettings, OnnxRuntimeEngine
from longserve.serving.runtime.manifest import Layout, Task

LENGTHS = (1, 2, 63, 64, 65, 127, 255, 256, 257, 511, 512, 513, 1000, 1025, 4096)
CHECKPOINTS = [
    pytest.param(
        "text-classification",
        {
            "attention_window": [16, 128],
            "num_hidden_layers": 2,
            "num_labels": 7,
            "hidden_size": 96,
            "num_attention_heads": 6,
        },
        id="classifier-windows-16-128",
    ),
    pytest.param(
        "text-classification",
        {"attention_window": 512, "num_labels": 1, "type_vocab_size": 2, "num_hidden_layers": 2},
        id="regressor-window-512-two-token-types",
    ),
    pytest.param(
        "question-answering",
        {"attention_window": [256, 32], "num_hidden_layers": 2, "hidden_size": 64, "hidden_act": "relu"},
        id="qa-windows-256-32",
    ),
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("task", "config"), CHECKPOINTS)
def test_parity_at_every_length_and_mask(tmp_path: Path, task: str, config: dict[str, object]) -> None:
    source = make_checkpoint(tmp_path / "checkpoint", task, seed=11, max_position_embeddings=4098, **config)
    result = export_bundle(
        str(source), Task(task), tmp_path / "bundle", settings=ExportSettings(validate=False)
    )
    settings = EngineSettings(spin_between_runs=False)
    engines = {
        layout: OnnxRuntimeEngine(result.path / file, settings) for layout, file in GRAPH_FILES.items()
    }
    checkpoint = load_checkpoint(str(source), Task(task))
    report = check_parity(
        checkpoint.model, engines, result.manifest, lengths=LENGTHS, seed=3, every_pattern=True
    )

    tested = {int(r.case.split("[")[0].split("+")[0]) for r in report.results}
    assert tested == set(LENGTHS)
    assert {r.layout for r in report.results} == {"padded", "packed"}
    for pattern in ("none", "first", "task", "scattered", "all"):
        assert any(f"[{pattern}]" in r.case for r in report.results)
    assert report.failures == (), report.worst
    assert report.worst.max_relative <= 1e-5


@pytest.mark.parametrize("name", ["classification_bundle", "qa_bundle"])
@pytest.mark.parametrize("layout", list(Layout))
def test_only_standard_operators_and_no_data_dependent_ones(
    name: str, layout: Layout, request: pytest.FixtureRequest
) -> None:
    bundle = Bundle.open(request.getfixturevalue(name))
    model = onnx.load(bundle.model_path(layout), load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}
    found = {node.op_type for node in model.graph.node}
    assert not found & {"NonZero", "If", "Loop", "Scan", "ScatterND"}
    assert not found & FORBIDDEN_OPERATORS
    assert not model.functions
    assert not any(attribute.g.node for node in model.graph.node for attribute in node.attribute)
    onnx.checker.check_model(str(bundle.model_path(layout)))


@pytest.mark.parametrize("name", ["classification_bundle", "qa_bundle"])
@pytest.mark.parametrize("layout", list(Layout))
def test_the_manifest_describes_the_graph_as_the_engine_sees_it(
    name: str, layout: Layout, request: pytest.FixtureRequest
) -> None:
    bundle = Bundle.open(request.getfixturevalue(name))
    session = onnxruntime.InferenceSession(str(bundle.model_path(layout)), providers=["CPUExecutionProvider"])
    types = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(float)": "float32"}
    spec = bundle.manifest.graph(layout)
    for described, actual in (
        (spec.inputs, session.get_inputs()),
        (spec.outputs, session.get_outputs()),
    ):
        assert [(t.name, t.dtype, list(t.axes)) for t in described] == [
            (value.name, types[value.type], value.shape) for value in actual
        ]


def test_both_graphs_share_one_data_file(qa_bundle: Path) -> None:
    places: dict[str, set[tuple[str, str]]] = {}
    for file in GRAPH_FILES.values():
        model = onnx.load(qa_bundle / file, load_external_data=False)
        entries = [
            {e.key: e.value for e in t.external_data} for t in model.graph.initializer if t.external_data
        ]
        assert {entry["location"] for entry in entries} == {"model.onnx.data"}
        places[file] = {(entry["offset"], entry["length"]) for entry in entries}
    padded, packed = places.values()
    shared = sum(int(length) for _, length in padded & packed)
    assert shared > 0.95 * sum(int(length) for _, length in padded | packed)


def test_the_graphs_carry_nothing_of_the_machine_that_wrote_them(qa_bundle: Path) -> None:
    for file in GRAPH_FILES.values():
        content = (qa_bundle / file).read_bytes()
        assert b"site-packages" not in content
        assert str(Path.home()).encode() + b"/" not in content
    assert str(Path.home()) + "/" not in (qa_bundle / "manifest.json").read_text(encoding="utf-8")
    assert "attention_window" in json.loads((qa_bundle / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("opset", [17, 24, 0])
def test_an_opset_out_of_range_is_refused(opset: int) -> None:
    model = make_model("question-answering", num_hidden_layers=1, attention_window=[16])
    with pytest.raises(GraphError, match=f"opset {opset} is not supported; choose 18 to 23"):
        export_graph(
            PaddedModel(model, block_size=16),
            model.config,
            Task.QUESTION_ANSWERING,
            Layout.PADDED,
            opset=opset,
        )


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 23])
def test_the_outermost_opsets_export_and_run(tmp_path: Path, opset: int) -> None:
    source = make_checkpoint(
        tmp_path / "checkpoint",
        "text-classification",
        num_hidden_layers=1,
        attention_window=[16],
        max_position_embeddings=42,
    )
    result = export_bundle(
        str(source), Task.TEXT_CLASSIFICATION, tmp_path / "bundle", settings=ExportSettings(opset=opset)
    )
    assert result.manifest.parity is not None
    model = onnx.load(result.path / "model.onnx", load_external_data=False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]


def test_a_module_of_the_other_layout_is_refused() -> None:
    model = make_model("question-answering", num_hidden_layers=1, attention_window=[16])
    with pytest.raises(GraphError, match="PackedModel is not of the layout padded"):
        export_graph(PackedModel(model, block_size=16), model.config, Task.QUESTION_ANSWERING, Layout.PADDED)


@pytest.mark.parametrize(
    ("domain", "operator", "message"),
    [
        ("", "NonZero", "NonZero"),
        ("", "If", "If"),
        ("com.microsoft", "LongformerAttention", "no standard operator"),
    ],
)
def test_check_graph_names_what_it_refuses(domain: str, operator: str, message: str) -> None:
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch"]))
    node = ir.Node(domain, operator, [value], num_outputs=1)
    graph = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 20})
    with pytest.raises(GraphError, match=message):
        check_graph(ir.Model(graph, ir_version=10))


def test_check_graph_refuses_a_fixed_axis() -> None:
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", 128]))
    node = ir.Node("", "Identity", [value], num_outputs=1)
    graph = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 20})
    with pytest.raises(GraphError, match="x has the fixed shape"):
        check_graph(ir.Model(graph, ir_version=10))
