"""Networks of real sizes with seeded weights, so that a figure can be repeated without anybody's files.

    python benchmarks/models/networks.py NAME FILE

writes one of NETWORKS as ONNX. The weights are random, scaled so that activations stay near 1: what a run costs does
not depend on their values as long as none becomes a denormal or an infinity.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["NETWORKS", "Network", "bert", "dense_row", "dense_stack", "tokens_row"]

OPSETS = [helper.make_opsetid("", 17)]
IR_VERSION = 8
Array = np.ndarray[Any, Any]


class Graph:
    """Nodes and weights as they are added; each method gives the name of the value that it makes."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One node of one output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Array) -> str:
        """A weight, as it is given."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def normal(self, shape: Sequence[int], deviation: float) -> str:
        """A weight of normal values."""
        return self.constant(self.random.normal(0, deviation, shape).astype(np.float32))

    def conv(self, x: str, ins: int, outs: int, kernel: int, *, stride: int = 1, gain: float = 2.0) -> str:
        """A convolution with bias, padded to keep the size."""
        weight = self.normal((outs, ins, kernel, kernel), (gain / (ins * kernel * kernel)) ** 0.5)
        bias = self.constant(np.zeros(outs, np.float32))
        pad = kernel // 2
        return self.node("Conv", x, weight, bias, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def dense(self, x: str, ins: int, outs: int) -> str:
        """x @ weight + bias."""
        product = self.node("MatMul", x, self.normal((ins, outs), ins**-0.5))
        return self.node("Add", product, self.constant(np.zeros(outs, np.float32)))

    def norm(self, x: str, width: int) -> str:
        """Layer normalisation over the last axis."""
        scale, shift = self.constant(np.ones(width, np.float32)), self.constant(np.zeros(width, np.float32))
        return self.node("LayerNormalization", x, scale, shift, axis=-1)

    def model(self, inputs: list[onnx.ValueInfoProto], output: str, dims: Sequence[int | str]) -> onnx.ModelProto:
        """The whole, with `output` under the name "y"."""
        self.nodes.append(helper.make_node("Identity", [output], ["y"]))
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)
        graph = helper.make_graph(self.nodes, "network", inputs, [result], initializer=self.weights)
        return helper.make_model(graph, opset_imports=OPSETS, ir_version=IR_VERSION, producer_name="headrace")


def resnet(size: int, width: int, blocks: Sequence[int]) -> onnx.ModelProto:
    """A residual network of bottleneck blocks (He et al., 2015), its normalisations folded into the convolutions as
    every runtime does: image [N,3,size,size] -> 1,000 scores."""
    graph = Graph(seed=50)
    x = graph.node("Relu", graph.conv("x", 3, width, 7, stride=2))
    x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    ins = width
    for stage, count in enumerate(blocks):
        inner = width << stage
        for block in range(count):
            stride = 2 if block == 0 and stage > 0 else 1
            branch = graph.node("Relu", graph.conv(x, ins, inner, 1))
            branch = graph.node("Relu", graph.conv(branch, inner, inner, 3, stride=stride))
            branch = graph.conv(branch, inner, 4 * inner, 1, gain=0.1)
            skip = graph.conv(x, ins, 4 * inner, 1, stride=stride, gain=1.0) if block == 0 else x
            x = graph.node("Relu", graph.node("Add", branch, skip))
            ins = 4 * inner
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    scores = graph.dense(x, ins, 1000)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, size, size])
    return graph.model([image], scores, ["batch", 1000])


def bert(layers: int, width: int, tokens: int, vocabulary: int) -> onnx.ModelProto:
    """A transformer encoder (Devlin et al., 2018): ids [N,tokens] and mask [N,tokens] -> the mean of the last layer's
    vectors, [N,width]."""
    graph = Graph(seed=12)
    heads = width // 64
    head_shape = graph.constant(np.array([0, tokens, heads, 64], np.int64))
    whole_shape = graph.constant(np.array([0, tokens, width], np.int64))
    one, far = graph.constant(np.array(1, np.float32)), graph.constant(np.array(-1e4, np.float32))
    axes = graph.constant(np.array([1, 2], np.int64))
    weights = graph.node("Cast", "mask", to=TensorProto.FLOAT)
    hidden = graph.node("Unsqueeze", graph.node("Mul", graph.node("Sub", one, weights), far), axes)
    x = graph.node("Gather", graph.normal((vocabulary, width), 1.0), "ids")
    x = graph.norm(graph.node("Add", x, graph.normal((tokens, width), 0.1)), width)
    for _ in range(layers):
        parts = [
            graph.node("Transpose", graph.node("Reshape", graph.dense(x, width, width), head_shape), perm=order)
            for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        ]
        scores = graph.node(
            "Mul", graph.node("MatMul", parts[0], parts[1]), graph.constant(np.array(1 / 8, np.float32))
        )
        shares = graph.node("Softmax", graph.node("Add", scores, hidden), axis=-1)
        mixed = graph.node("Transpose", graph.node("MatMul", shares, parts[2]), perm=[0, 2, 1, 3])
        mixed = graph.dense(graph.node("Reshape", mixed, whole_shape), width, width)
        x = graph.norm(graph.node("Add", x, mixed), width)
        wide = graph.dense(x, width, 4 * width)
        bell = graph.node("Erf", graph.node("Mul", wide, graph.constant(np.array(2**-0.5, np.float32))))
        gelu = graph.node(
            "Mul", graph.node("Mul", wide, graph.node("Add", bell, one)), graph.constant(np.array(0.5, np.float32))
        )
        x = graph.norm(graph.node("Add", x, graph.dense(gelu, 4 * width, width)), width)
    pooled = graph.node("ReduceMean", x, axes=[1], keepdims=0)
    given = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", tokens]) for n in ("ids", "mask")]
    return graph.model(given, pooled, ["batch", width])


def dense_stack(layers: int, width: int) -> onnx.ModelProto:
    """Dense layers with ReLU: [N,width] -> [N,width]. A run of few rows costs what reading the weights costs."""
    graph = Graph(seed=8)
    x = "x"
    for _ in range(layers):
        x = graph.node("Relu", graph.dense(x, width, width))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])
    return graph.model([given], x, ["batch", width])


class Network:
    """One of the networks: how it is built, and one row of its inputs."""

    def __init__(self, build: Callable[[], onnx.ModelProto], text: str, row: Callable[[], dict[str, Array]]) -> None:
        self.build = build
        self.text = text
        self.row = row


def image_row(size: int) -> Callable[[], dict[str, Array]]:
    """A row of a conv net."""
    return lambda: {"x": np.random.default_rng(3).normal(0, 1, (1, 3, size, size)).astype(np.float32)}


def dense_row(width: int) -> Callable[[], dict[str, Array]]:
    """A row of a dense stack."""
    return lambda: {"x": np.random.default_rng(5).normal(0, 1, (1, width)).astype(np.float32)}


def tokens_row(tokens: int, vocabulary: int) -> Callable[[], dict[str, Array]]:
    """A row of an encoder, every token of it real."""
    return lambda: {
        "ids": np.random.default_rng(4).integers(0, vocabulary, (1, tokens), np.int64),
        "mask": np.ones((1, tokens), np.int64),
    }


NETWORKS = {
    "resnet50": Network(
        lambda: resnet(224, 64, (3, 4, 6, 3)), "25.6 M weights, 4.1 G multiply-adds an image", image_row(224)
    ),
    "resnet26_112": Network(
        lambda: resnet(112, 32, (2, 2, 2, 2)), "4 M weights, 0.16 G multiply-adds an image", image_row(112)
    ),
    "bert_base": Network(
        lambda: bert(12, 768, 32, 8192), "12 layers x 768, 32 tokens, 2.7 G multiply-adds a row", tokens_row(32, 8192)
    ),
    "bert_small": Network(
        lambda: bert(4, 256, 64, 8192), "4 layers x 256, 64 tokens, 0.2 G multiply-adds a row", tokens_row(64, 8192)
    ),
}


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in NETWORKS:
        raise SystemExit(f"usage: networks.py {{{','.join(NETWORKS)}}} FILE")
    onnx.save(NETWORKS[sys.argv[1]].build(), Path(sys.argv[2]))
