"""Makes image.onnx: a 3x224x224 float image in, 1,000 scores out, with little arithmetic beyond reading it.

Its batch is fixed at 1, as many image models are exported, so that the figure is about moving large tensors."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GRAPH = helper.make_graph(
    [
        helper.make_node("ReduceMean", ["image", "axes"], ["channels"], keepdims=0),
        helper.make_node("MatMul", ["channels", "weights"], ["scores"]),
    ],
    "image",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 224, 224])],
    [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1000])],
    [
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
        numpy_helper.from_array(np.full((3, 1000), 1 / 3, np.float32), "weights"),
    ],
)

if __name__ == "__main__":
    MODEL = helper.make_model(GRAPH, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(MODEL)
    onnx.save(MODEL, Path(__file__).with_name("image.onnx"))
