"""The ONNX graph of all-MiniLM-L6-v2, built by hand from its weights; needs `onnx`, no torch.

Inputs `ids` and `mask` are int64 [N, T], output `vectors` is float32 [N, 384] of unit length. The same arithmetic as `bert.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from junctor.encoders.bert import EPSILON, HEADS, LAYERS, WIDTH

OPSET = 17


class _Graph:
    """Nodes and constants, gathered in order; every method returns the name of what it computes."""

    def __init__(self, weights: Mapping[str, NDArray[Any]]) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def node(self, op: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        out = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=out, **attributes))
        return out

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def number(self, value: float) -> str:
        return self.constant(f"number_{value!r}", np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        return self.constant("integers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def linear(self, x: str, name: str) -> str:
        matrix = self.constant(name + ".weight.T", self.weights[name + ".weight"].T)
        return self.node("Add", [self.node("MatMul", [x, matrix]), self.weight(name + ".bias")])

    def normalise(self, x: str, name: str) -> str:
        parts = [x, self.weight(name + ".weight"), self.weight(name + ".bias")]
        return self.node("LayerNormalization", parts, axis=-1, epsilon=EPSILON)


def build_model(weights: Mapping[str, NDArray[Any]]) -> Any:
    """The onnx ModelProto of the whole encoder: embeddings, six layers, mean pooling, unit length."""
    graph = _Graph(weights)
    mask = graph.node("Cast", ["mask"], to=TensorProto.FLOAT)
    hidden = _embeddings(graph)
    bias = _attention_bias(graph, mask)
    for layer in range(LAYERS):
        hidden = _layer(graph, f"encoder.layer.{layer}.", hidden, bias)
    _pool(graph, hidden, mask)
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in ("ids", "mask")]
    outputs = [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", WIDTH])]
    body = helper.make_graph(graph.nodes, "minilm", inputs, outputs, list(graph.constants.values()))
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    # Nothing in here needs the optional pass before quantisation; without this mark onnxruntime logs a warning about it.
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    return model


def _embeddings(graph: _Graph) -> str:
    words = graph.node("Gather", [graph.weight("embeddings.word_embeddings.weight"), "ids"])
    length = graph.node("Slice", [graph.node("Shape", ["ids"]), graph.integers(1), graph.integers(2)])
    table = graph.weight("embeddings.position_embeddings.weight")
    places = graph.node("Slice", [table, graph.integers(0), length, graph.integers(0)])
    kind = graph.constant("token_type", graph.weights["embeddings.token_type_embeddings.weight"][0])
    summed = graph.node("Add", [graph.node("Add", [words, places]), kind])
    return graph.normalise(summed, "embeddings.LayerNorm")


def _attention_bias(graph: _Graph, mask: str) -> str:
    absent = graph.node("Sub", [graph.number(1.0), mask])
    bias = graph.node("Mul", [absent, graph.number(-1e9)])
    return graph.node("Unsqueeze", [bias, graph.integers(1, 2)])


def _layer(graph: _Graph, name: str, hidden: str, bias: str) -> str:
    context = _attention(graph, name + "attention.self.", hidden, bias)
    out = graph.linear(context, name + "attention.output.dense")
    hidden = graph.normalise(graph.node("Add", [hidden, out]), name + "attention.output.LayerNorm")
    wide = _gelu(graph, graph.linear(hidden, name + "intermediate.dense"))
    narrow = graph.linear(wide, name + "output.dense")
    return graph.normalise(graph.node("Add", [hidden, narrow]), name + "output.LayerNorm")


def _attention(graph: _Graph, name: str, hidden: str, bias: str) -> str:
    split = graph.integers(0, 0, HEADS, WIDTH // HEADS)

    def heads(part: str, order: list[int]) -> str:
        return graph.node("Transpose", [graph.node("Reshape", [graph.linear(hidden, name + part), split])], perm=order)

    query, value = heads("query", [0, 2, 1, 3]), heads("value", [0, 2, 1, 3])
    raw = graph.node("MatMul", [query, heads("key", [0, 2, 3, 1])])
    scaled = graph.node("Mul", [raw, graph.number(1 / math.sqrt(WIDTH // HEADS))])
    shares = graph.node("Softmax", [graph.node("Add", [scaled, bias])], axis=-1)
    mixed = graph.node("Transpose", [graph.node("MatMul", [shares, value])], perm=[0, 2, 1, 3])
    return graph.node("Reshape", [mixed, graph.integers(0, 0, WIDTH)])


def _gelu(graph: _Graph, x: str) -> str:
    erf = graph.node("Erf", [graph.node("Mul", [x, graph.number(1 / math.sqrt(2))])])
    half = graph.node("Mul", [x, graph.number(0.5)])
    return graph.node("Mul", [half, graph.node("Add", [erf, graph.number(1.0)])])


def _pool(graph: _Graph, hidden: str, mask: str) -> None:
    kept = graph.node("Unsqueeze", [mask, graph.integers(2)])
    along = graph.integers(1)
    total = graph.node("ReduceSum", [graph.node("Mul", [hidden, kept]), along], keepdims=0)
    count = graph.node("Max", [graph.node("ReduceSum", [kept, along], keepdims=0), graph.number(1e-9)])
    mean = graph.node("Div", [total, count])
    squares = graph.node("ReduceSum", [graph.node("Mul", [mean, mean]), along], keepdims=1)
    norm = graph.node("Max", [graph.node("Sqrt", [squares]), graph.number(1e-12)])
    graph.node("Div", [mean, norm], name="vectors")
