"""A checkpoint as ONNX Runtime's own conversion gives it: one `com.microsoft::LongformerAttention` per layer.

ONNX Runtime's converter needs PyTorch 1.9 and a C++ extension of it, so its graph is written here from the
operator's definition (onnxruntime, core/graph/contrib_ops/bert_defs.cc and contrib_ops/cuda/bert, weights in
"format 0": queries, keys and values apart, which is the converter's default). ONNX Runtime fuses the rest.

The operator exists for CUDA only, wants the length a multiple of the attention window and the global tokens
first, and has no packed layout. The head is the stock one of sequence classification.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_OPSET = 20
_MASKED = -10000.0


class _Graph:
    """Nodes and weights while the graph is written, in one float type."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, value: Array) -> str:
        from onnx import numpy_helper

        typed = value if value.dtype.kind == "i" else value.astype(self.dtype)
        self.weights.append(numpy_helper.from_array(np.array(typed, order="C"), name))
        return name

    def add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def linear(self, value: str, name: str, state: Mapping[str, Array], key: str) -> str:
        weight = self.weight(f"{name}_w", state[f"{key}.weight"].T)
        product = self.add("MatMul", [value, weight], f"{name}_product")
        return self.add("Add", [product, self.weight(f"{name}_b", state[f"{key}.bias"])], name)

    def norm(self, value: str, name: str, state: Mapping[str, Array], key: str, epsilon: float) -> str:
        scale = self.weight(f"{name}_w", state[f"{key}.weight"])
        bias = self.weight(f"{name}_b", state[f"{key}.bias"])
        return self.add("LayerNormalization", [value, scale, bias], name, axis=-1, epsilon=epsilon)


def write_graph(checkpoint: Path, target: Path, *, half: bool = True) -> None:
    """Write the graph of a classification checkpoint.

    Inputs `input_ids`, `attention_mask`, `global_attention_mask`: int64 `[batch, sequence]`, the sequence a
    multiple of the attention window; output `logits`: float32 `[batch, labels]`.

    Args:
        checkpoint: directory of the stock checkpoint.
        target: the ONNX file; its weights go into `TARGET.data`.
        half: fp16, else fp32.
    """
    import onnx
    from onnx import TensorProto, helper
    from safetensors.numpy import load_file
    from transformers import LongformerConfig

    config = LongformerConfig.from_pretrained(checkpoint)
    state = load_file(checkpoint / "model.safetensors")
    graph = _Graph(np.float16 if half else np.float32)
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    hidden = _embeddings(graph, state, config)
    allowed = graph.add("Cast", ["attention_mask"], "allowed", to=kind)
    graph.weight("one", np.array(1.0))
    graph.weight("masked", np.array(_MASKED))
    closed = graph.add("Sub", ["one", allowed], "closed")
    mask = graph.add("Mul", [closed, "masked"], "mask")
    flags = graph.add("Cast", ["global_attention_mask"], "flags", to=TensorProto.INT32)
    for layer in range(config.num_hidden_layers):
        hidden = _layer(graph, state, config, layer, hidden, mask, flags)
    graph.weight("first", np.array(0, dtype=np.int64))
    token = graph.add("Gather", [hidden, "first"], "token", axis=1)
    dense = graph.add("Tanh", [graph.linear(token, "dense", state, "classifier.dense")], "activated")
    scores = graph.linear(dense, "scores", state, "classifier.out_proj")
    graph.add("Cast", [scores], "logits", to=TensorProto.FLOAT)
    ids = ("input_ids", "attention_mask", "global_attention_mask")
    made = helper.make_graph(
        graph.nodes,
        "longformer_attention",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in ids],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", config.num_labels])],
        graph.weights,
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=10)
    onnx.save(model, str(target), save_as_external_data=True, location=f"{target.name}.data")


def _embeddings(graph: _Graph, state: Mapping[str, Array], config: Any) -> str:
    from onnx import TensorProto

    prefix = "longformer.embeddings"
    pad = graph.weight("pad", np.array(config.pad_token_id, dtype=np.int64))
    same = graph.add("Equal", ["input_ids", pad], "is_pad")
    written = graph.add("Cast", [graph.add("Not", [same], "is_text")], "written", to=TensorProto.INT64)
    graph.weight("last_axis", np.array(1, dtype=np.int64))
    counted = graph.add("CumSum", [written, "last_axis"], "counted")
    positions = graph.add("Add", [graph.add("Mul", [counted, written], "own"), pad], "positions")
    words = graph.weight("words", state[f"{prefix}.word_embeddings.weight"])
    places = graph.weight("places", state[f"{prefix}.position_embeddings.weight"])
    kinds = graph.weight("kinds", state[f"{prefix}.token_type_embeddings.weight"][0])
    total = graph.add(
        "Add",
        [
            graph.add("Gather", [words, "input_ids"], "word"),
            graph.add("Gather", [places, positions], "place"),
        ],
        "word_and_place",
    )
    total = graph.add("Add", [total, kinds], "embedded")
    return graph.norm(total, "embeddings", state, f"{prefix}.LayerNorm", config.layer_norm_eps)


def _layer(
    graph: _Graph, state: Mapping[str, Array], config: Any, layer: int, hidden: str, mask: str, flags: str
) -> str:
    prefix, name = f"longformer.encoder.layer.{layer}", f"layer{layer}"
    own = {part: f"{prefix}.attention.self.{part}" for part in ("query", "key", "value")}
    everywhere = {part: f"{own[part]}_global" for part in own}
    weights = np.stack([state[f"{key}.weight"].T for key in own.values()])
    global_weights = np.stack([state[f"{key}.weight"].T for key in everywhere.values()])
    biases = [*own.values(), everywhere["key"], everywhere["value"]]
    attended = graph.add(
        "LongformerAttention",
        [
            hidden,
            graph.weight(f"{name}_qkv_w", weights),
            graph.weight(f"{name}_qkv_b", np.concatenate([state[f"{key}.bias"] for key in biases])),
            mask,
            graph.weight(f"{name}_global_w", global_weights),
            graph.weight(f"{name}_global_b", state[f"{everywhere['query']}.bias"]),
            flags,
        ],
        f"{name}_attended",
        domain="com.microsoft",
        num_heads=config.num_attention_heads,
        window=config.attention_window[layer] // 2
        if isinstance(config.attention_window, list)
        else config.attention_window // 2,
    )
    output = graph.linear(attended, f"{name}_output", state, f"{prefix}.attention.output.dense")
    summed = graph.add("Add", [output, hidden], f"{name}_sum")
    epsilon = config.layer_norm_eps
    normal = graph.norm(summed, f"{name}_norm", state, f"{prefix}.attention.output.LayerNorm", epsilon)
    wide = graph.linear(normal, f"{name}_wide", state, f"{prefix}.intermediate.dense")
    active = graph.add("Gelu", [wide], f"{name}_active")
    narrow = graph.linear(active, f"{name}_narrow", state, f"{prefix}.output.dense")
    result = graph.add("Add", [narrow, normal], f"{name}_result")
    return graph.norm(result, name, state, f"{prefix}.output.LayerNorm", epsilon)
