"""Builds every model that the tests load into one directory: `python make_models.py DIR`.

The files in one DIR are the same, byte for byte, on every run: weights are seeded. `DIR/<name>.onnx` for most;
`DIR/<name>/model.onnx` for those with external data. `DIR/magika.onnx` is a copy of the real model in that package.
"""

import importlib.util
import itertools
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from building import FLOAT, OPSETS, constant, model, value, write
from external_models import make_external
from onnx import ModelProto, TensorProto, helper
from weight_models import make_weighty

# The protocol's word for each element type, and ONNX's.
# fmt: off
DTYPES = {
    "bool": TensorProto.BOOL, "uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32, "uint64": TensorProto.UINT64, "int8": TensorProto.INT8,
    "int16": TensorProto.INT16, "int32": TensorProto.INT32, "int64": TensorProto.INT64,
    "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "fp32": TensorProto.FLOAT,
    "fp64": TensorProto.DOUBLE, "bytes": TensorProto.STRING,
}
# fmt: on
INT64 = TensorProto.INT64


def twice(dtype: int, dims: Sequence[int | str]) -> ModelProto:
    """y is x beside itself along the last axis: [.., 3] -> [.., 6]."""
    wide = [*dims[:-1], 6]
    return model(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=len(dims) - 1)],
        [value("x", dims, dtype)],
        [value("y", wide, dtype)],
    )


def add_sub() -> ModelProto:
    """Two INT32[N,16] inputs; their sum and their difference."""
    return model(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
        [value(name, ["batch", 16], TensorProto.INT32) for name in ("a", "b")],
        [value(name, ["batch", 16], TensorProto.INT32) for name in ("sum", "difference")],
    )


def mlp() -> ModelProto:
    """64-128-128-128-10 with ReLU between, seeded weights."""
    random = np.random.default_rng(7)
    sizes = [64, 128, 128, 128, 10]
    nodes, weights, at = [], [], "x"
    for layer, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        last = layer == len(sizes) - 2
        weights.append(constant(f"w{layer}", random.normal(0, rows**-0.5, (rows, columns))))
        weights.append(constant(f"b{layer}", random.normal(0, 0.1, columns)))
        out = "logits" if last else f"h{layer}"
        nodes.append(helper.make_node("Gemm", [at, f"w{layer}", f"b{layer}"], [out]))
        if not last:
            nodes.append(helper.make_node("Relu", [out], [f"r{layer}"]))
            at = f"r{layer}"
    return model(nodes, [value("x", ["batch", 64])], [value("logits", ["batch", 10])], weights)


def mean_over_batch() -> ModelProto:
    """Every row minus the mean of all rows: must not be batched."""
    return model(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        [value("x", ["batch", 4])],
        [value("y", ["batch", 4])],
    )


def running_sum() -> ModelProto:
    """A row's answer holds the rows before it: must not be batched."""
    return model(
        [helper.make_node("CumSum", ["x", "axis"], ["y"])],
        [value("x", ["batch", 4])],
        [value("y", ["batch", 4])],
        [constant("axis", 0, np.int64)],
    )


def dynamic_quantize() -> ModelProto:
    """Quantizes over the whole batch: must not be batched."""
    return model(
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        [value("x", ["batch", 8])],
        [value("y", ["batch", 8])],
    )


def constant_answer() -> ModelProto:
    """The answer does not depend on the input, so nothing can be learnt about rows."""
    return model(
        [helper.make_node("Mul", ["x", "zero"], ["nothing"]), helper.make_node("Abs", ["nothing"], ["y"])],
        [value("x", ["batch", 4])],
        [value("y", ["batch", 4])],
        [constant("zero", [0.0])],
    )


def different_symbols() -> ModelProto:
    """Batchable, though the batch dimension has another name on each side (as tf2onnx writes it)."""
    return model([helper.make_node("Relu", ["x"], ["y"])], [value("x", ["unk__1", 4])], [value("y", ["unk__2", 4])])


def dynamic_inner() -> ModelProto:
    """[batch, length, 4] -> its double, and the sum over the length."""
    return model(
        [
            helper.make_node("Add", ["x", "x"], ["double"]),
            helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=0),
        ],
        [value("x", ["batch", "length", 4])],
        [value("double", ["batch", "length", 4]), value("total", ["batch", 4])],
        [constant("axes", [1], np.int64)],
    )


def masked_mean() -> ModelProto:
    """[batch, length] token ids and their mask -> the tokens' vectors, and the mean of those that count."""
    table = np.random.default_rng(3).normal(0, 1, (64, 4)).astype(np.float32)
    return model(
        [
            helper.make_node("Gather", ["table", "ids"], ["tokens"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
            helper.make_node("Mul", ["tokens", "column"], ["counting"]),
            helper.make_node("ReduceSum", ["counting", "axes"], ["sum"], keepdims=0),
            helper.make_node("ReduceSum", ["column", "axes"], ["count"], keepdims=0),
            helper.make_node("Div", ["sum", "count"], ["pooled"]),
        ],
        [value(name, ["batch", "length"], TensorProto.INT64) for name in ("ids", "attention_mask")],
        [value("tokens", ["batch", "length", 4]), value("pooled", ["batch", 4])],
        [
            helper.make_tensor("table", FLOAT, table.shape, table.tobytes(), raw=True),
            constant("last", [2], np.int64),
            constant("axes", [1], np.int64),
        ],
    )


def multiple_of_32() -> ModelProto:
    """Takes only lengths that 32 divides."""
    return model(
        [
            helper.make_node("Reshape", ["x", "shape"], ["blocks"]),
            helper.make_node("ReduceSum", ["blocks", "axes"], ["y"], keepdims=0),
        ],
        [value("x", ["batch", "length"])],
        [value("y", ["batch", "blocks"])],
        [constant("shape", [0, -1, 32], np.int64), constant("axes", [2], np.int64)],
    )


def square_of_batch() -> ModelProto:
    """[batch, batch]: the batch dimension is an inner one too."""
    square = ["batch", "batch"]
    return model([helper.make_node("Neg", ["x"], ["y"])], [value("x", square)], [value("y", square)])


def scalar() -> ModelProto:
    return model(
        [helper.make_node("Add", ["x", "one"], ["y"])], [value("x", [])], [value("y", [])], [constant("one", 1)]
    )


def zero_size() -> ModelProto:
    return model([helper.make_node("Neg", ["x"], ["y"])], [value("x", [2, 0])], [value("y", [2, 0])])


def unranked() -> ModelProto:
    """States no shape at all."""
    return model([helper.make_node("Neg", ["x"], ["y"])], [value("x", None)], [value("y", None)])


def optional_input() -> ModelProto:
    """y = x * scale; scale is an input with the default 2."""
    return model(
        [helper.make_node("Mul", ["x", "scale"], ["y"])],
        [value("x", ["batch", 4]), value("scale", [1])],
        [value("y", ["batch", 4])],
        [constant("scale", [2.0])],
    )


def shared_symbol() -> ModelProto:
    return model(
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        [value("a", ["batch", "width"]), value("b", ["batch", "width"])],
        [value("sum", ["batch", "width"])],
    )


def gather_rows() -> ModelProto:
    """Two rows of a table of four for each row of the batch: an index over 3 makes the whole run fail."""
    table = np.arange(12).reshape(4, 3)
    return model(
        [helper.make_node("Gather", ["table", "index"], ["y"], axis=0)],
        [value("index", ["batch", 2], INT64)],
        [value("y", ["batch", 2, 3])],
        [constant("table", table)],
    )


def slow() -> ModelProto:
    """As many 128x128 products, one after the other, as the largest `iterations` of the batch says."""
    random = np.random.default_rng(11)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "matrix"], ["product"]),
            helper.make_node("Clip", ["product", "low", "high"], ["next"]),
            helper.make_node("Identity", ["go_on"], ["still"]),
        ],
        "body",
        [value("i", [], INT64), value("go_on", [], TensorProto.BOOL), value("state", [128, 128])],
        [value("still", [], TensorProto.BOOL), value("next", [128, 128])],
    )
    return model(
        [
            helper.make_node("ReduceMax", ["iterations"], ["trips"], keepdims=0),
            helper.make_node("Loop", ["trips", "", "matrix"], ["last"], body=body),
            helper.make_node("ReduceSum", ["last"], ["total"], keepdims=0),
            helper.make_node("Mul", ["total", "zero"], ["nothing"]),
            helper.make_node("Cast", ["iterations"], ["count"], to=FLOAT),
            helper.make_node("Add", ["count", "nothing"], ["y"]),
        ],
        [value("iterations", ["batch", 1], INT64)],
        [value("y", ["batch", 1])],
        [
            constant("matrix", random.normal(0, 0.05, (128, 128))),
            constant("low", -1),
            constant("high", 1),
            constant("zero", 0),
        ],
    )


def compress() -> ModelProto:
    """States that it keeps every row; keeps those that start with a positive number."""
    return model(
        [
            helper.make_node("Slice", ["x", "start", "end", "axis"], ["first"]),
            helper.make_node("Squeeze", ["first", "axis"], ["flat"]),
            helper.make_node("Greater", ["flat", "zero"], ["keep"]),
            helper.make_node("Compress", ["x", "keep"], ["y"], axis=0),
        ],
        [value("x", ["batch", 4])],
        [value("y", ["batch", 4])],
        [
            constant("start", [0], np.int64),
            constant("end", [1], np.int64),
            constant("axis", [1], np.int64),
            constant("zero", 0),
        ],
    )


def handed_on() -> ModelProto:
    """Outputs that no kernel writes: an input, a constant, what folds into one; and two that only rename."""
    return model(
        [
            helper.make_node("Identity", ["x"], ["same"]),
            helper.make_node("Reshape", ["x", "shape"], ["flat"]),
            helper.make_node("Neg", ["table"], ["folded"]),
        ],
        [value("x", [2, 3])],
        [*(value(name, [2, 3]) for name in ("x", "table", "same", "folded")), value("flat", [6])],
        [constant("table", [[1, 2, 3], [4, 5, 6]]), constant("shape", [6], np.int64)],
    )


def branch() -> ModelProto:
    """An If whose branches hand on an outer value or compute one."""
    then = helper.make_graph([helper.make_node("Identity", ["x"], ["t"])], "then", [], [value("t", ["batch", 4])])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["e"])], "else", [], [value("e", ["batch", 4])])
    return model(
        [helper.make_node("If", ["condition"], ["y"], then_branch=then, else_branch=other)],
        [value("x", ["batch", 4]), value("condition", [], TensorProto.BOOL)],
        [value("y", ["batch", 4])],
    )


def sequence_output() -> ModelProto:
    return model(
        [helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0)],
        [value("x", ["batch", 4])],
        [helper.make_tensor_sequence_value_info("parts", FLOAT, None)],
    )


def zipmap() -> ModelProto:
    """A classifier as skl2onnx writes it by default: the probabilities as a sequence of maps."""
    sequence = onnx.ValueInfoProto(name="output_probability")
    entry = sequence.type.sequence_type.elem_type.map_type
    entry.key_type = INT64
    entry.value_type.tensor_type.elem_type = FLOAT
    return model(
        [
            helper.make_node("Softmax", ["x"], ["probabilities"]),
            helper.make_node(
                "ZipMap", ["probabilities"], ["output_probability"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]
            ),
        ],
        [value("x", ["batch", 3])],
        [sequence],
        opsets=[*OPSETS, helper.make_opsetid("ai.onnx.ml", 1)],
    )


def optional_type() -> ModelProto:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [2]))
    return model(
        [helper.make_node("Optional", ["x"], ["maybe"])], [value("x", [2])], [helper.make_value_info("maybe", kind)]
    )


def float8() -> ModelProto:
    return model(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT8E4M3FN)],
        [value("x", ["batch", 4])],
        [value("y", ["batch", 4], TensorProto.FLOAT8E4M3FN)],
        opsets=[helper.make_opsetid("", 19)],
        ir_version=9,
    )


def int4() -> ModelProto:
    return model(
        [helper.make_node("Cast", ["x"], ["y"], to=FLOAT)],
        [value("x", ["batch", 4], TensorProto.INT4)],
        [value("y", ["batch", 4])],
        opsets=[helper.make_opsetid("", 21)],
        ir_version=10,
    )


def no_kernel() -> ModelProto:
    """An operator that no runtime knows."""
    return model(
        [helper.make_node("Nonesuch", ["x"], ["y"], domain="example.nowhere")],
        [value("x", ["batch", 4])],
        [value("y", ["batch", 4])],
        opsets=[*OPSETS, helper.make_opsetid("example.nowhere", 1)],
    )


def described() -> ModelProto:
    built = model([helper.make_node("Neg", ["x"], ["y"])], [value("x", ["batch", 4])], [value("y", ["batch", 4])])
    built.domain = "org.example"
    built.doc_string = "Turns the sign."
    built.graph.name = "negation"
    built.graph.doc_string = "One node."
    built.model_version = 3
    helper.set_model_props(built, {"labels": "plus,minus", "author": "Ada"})
    return built


# fmt: off
SINGLE_FILES: list[Callable[[], ModelProto]] = [
    add_sub, mlp, mean_over_batch, running_sum, dynamic_quantize, constant_answer, different_symbols,
    dynamic_inner, multiple_of_32, square_of_batch, scalar, zero_size, unranked, optional_input, shared_symbol,
    gather_rows, slow, compress, handed_on, branch, sequence_output, zipmap, optional_type, float8, int4,
    no_kernel, described, masked_mean,
]
# fmt: on


def copy_magika(root: Path) -> None:
    """The one real model: file types by content, with another batch symbol on each side."""
    package = importlib.util.find_spec("magika")
    if package is None or package.origin is None:
        sys.exit("make_models.py needs the magika package for a real model: pip install magika")
    found = sorted(Path(package.origin).parent.glob("models/standard_*/model.onnx"))
    if not found:
        sys.exit(f"the magika package in {Path(package.origin).parent} carries no models/standard_*/model.onnx")
    shutil.copyfile(found[-1], root / "magika.onnx")


def make_models(root: Path) -> None:
    """Writes all models below `root`, which is made if it is missing."""
    for make in SINGLE_FILES:
        write(root / f"{make.__name__}.onnx", make())
    for name, dtype in DTYPES.items():
        write(root / f"twice_{name}.onnx", twice(dtype, ["batch", 3]))
        write(root / f"twice_{name}_fixed.onnx", twice(dtype, [2, 3]))
    make_external(root)
    make_weighty(root)
    copy_magika(root)
    (root / "corrupt.onnx").write_bytes(b"\x3a\x7fThis is no model.")
    (root / "no_graph.onnx").write_bytes(b"")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python make_models.py DIR")
    make_models(Path(sys.argv[1]))
