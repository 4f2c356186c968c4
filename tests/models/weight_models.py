"""Models with a megabyte of weights and more: sessions of them can share these."""

from pathlib import Path

import numpy as np
from building import FLOAT, constant, model, value, write
from onnx import ModelProto, TensorProto, helper, numpy_helper


def _squares(count: int, width: int) -> list[TensorProto]:
    random = np.random.default_rng(11)
    return [constant(f"w{i}", random.normal(0, width**-0.5, (width, width))) for i in range(count)]


def dense(between: str, prefix: str) -> ModelProto:
    """Five products of 256 x 256 with `between` after each: the weights do not depend on it, nor on the prefix."""
    nodes, weights, at = [], _squares(5, 256), "x"
    for i, weight in enumerate(weights):
        weight.name = f"{prefix}{i}"
        nodes += [
            helper.make_node("MatMul", [at, weight.name], [f"p{i}"]),
            helper.make_node(between, [f"p{i}"], [f"h{i}"]),
        ]
        at = f"h{i}"
    nodes[-1].output[0] = "y"
    return model(nodes, [value("x", ["batch", 256])], [value("y", ["batch", 256])], weights)


def conv() -> ModelProto:
    """Two convolutions of 128 x 128 x 3 x 3: the optimizer writes their weights anew, in an order of its own."""
    random = np.random.default_rng(12)
    weights = [constant(f"w{i}", random.normal(0, 0.03, (128, 128, 3, 3))) for i in range(2)]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "w1"], ["y"], pads=[1, 1, 1, 1]),
    ]
    return model(nodes, [value("x", ["batch", 128, 6, 6])], [value("y", ["batch", 128, 6, 6])], weights)


def mixed() -> ModelProto:
    """A table of 4096 rows, a product that a branch uses from outside, a default that callers may replace, strings."""
    random = np.random.default_rng(13)
    table = constant("table", random.normal(0, 1, (4096, 64)))
    outer = constant("outer", random.normal(0, 0.1, (64, 64)))
    scale = constant("scale", random.normal(0, 1, (512,)))
    words = numpy_helper.from_array(np.array(["left" * 300, "right" * 300], dtype=object), "words")
    typed = helper.make_tensor("typed", FLOAT, [512], random.normal(0, 1, 512).tolist())  # no raw bytes
    yes = helper.make_graph(
        [helper.make_node("MatMul", ["row", "outer"], ["yes"])], "yes", [], [value("yes", ["batch", 64])]
    )
    no = helper.make_graph([helper.make_node("Neg", ["row"], ["no"])], "no", [], [value("no", ["batch", 64])])
    nodes = [
        helper.make_node("Gather", ["table", "index"], ["row"]),
        helper.make_node("If", ["condition"], ["branch"], then_branch=yes, else_branch=no),
        helper.make_node("Concat", ["branch"] + ["row"] * 7, ["wide"], axis=1),
        helper.make_node("Mul", ["wide", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "typed"], ["y"]),
        helper.make_node("Identity", ["words"], ["said"]),
    ]
    return model(
        nodes,
        [
            value("index", ["batch"], TensorProto.INT64),
            value("condition", [], TensorProto.BOOL),
            value("scale", [512]),
        ],
        [value("y", ["batch", 512]), value("said", [2], TensorProto.STRING)],
        [table, outer, scale, words, typed],
    )


def quantized() -> ModelProto:
    """A product of bytes, 1024 x 1024."""
    random = np.random.default_rng(14)
    weight = constant("w", random.integers(-128, 128, (1024, 1024)), np.int8)
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=FLOAT),
    ]
    return model(nodes, [value("x", ["batch", 1024], TensorProto.INT8)], [value("y", ["batch", 1024])], [weight])


def make_weighty(root: Path) -> None:
    """Writes all of them to `root`."""
    for name, built in (
        ("weights_dense", dense("Relu", "w")),
        ("weights_dense_other", dense("Tanh", "other")),
        ("weights_conv", conv()),
        ("weights_mixed", mixed()),
        ("weights_quantized", quantized()),
    ):
        write(root / f"{name}.onnx", built)
