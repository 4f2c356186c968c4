"""Versions with equal weights have them in memory once."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper, numpy_helper

from server_process import ServerProcess

MIB = 1 << 20


def chain(nodes_of: tuple[str, list[list[int]], list[Any]], target: Path, ends: str, seed: int) -> int:
    """Nodes of one kind in a row, with weights of these shapes. Gives the bytes of them."""
    kind, shapes, dims = nodes_of
    random = np.random.default_rng(seed)
    weights = [
        numpy_helper.from_array((random.standard_normal(shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32), f"w{i}")
        for i, shape in enumerate(shapes)
    ]
    more: dict[str, Any] = {"pads": [1, 1, 1, 1]} if kind == "Conv" else {}
    names = ["x", *(f"h{i}" for i in range(len(shapes)))]
    nodes = [
        helper.make_node(kind, [ins, weight.name], [outs], **more)
        for (ins, outs), weight in zip(itertools.pairwise(names), weights, strict=True)
    ]
    nodes.append(helper.make_node(ends, [names[-1]], ["y"]))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)],
        weights,
    )
    target.mkdir(parents=True)
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(built, target / "model.onnx")
    return sum(len(weight.raw_data) for weight in weights)


def dense(target: Path, ends: str, seed: int = 5) -> int:
    return chain(("MatMul", [[1024, 1024]] * 10, ["batch", 1024]), target, ends, seed)


def convolutions(target: Path, ends: str, seed: int = 5) -> int:
    return chain(("Conv", [[256, 256, 3, 3]] * 16, ["batch", 256, 4, 4]), target, ends, seed)


def resident(server: ServerProcess) -> int:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def ask(client: Any, version: str, shape: list[int]) -> Any:
    x = triton.InferInput("x", shape, "FP32")
    x.set_data_from_numpy(np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape))
    return client.infer("model", [x], model_version=version).as_numpy("y")


def counted(client: Any) -> int:
    stats = client.get_inference_statistics("model").model_stats
    return sum(int(row.memory_usage[0].byte_size) for row in stats)


@pytest.mark.parametrize(("make", "shape"), [(dense, [1, 1024]), (convolutions, [1, 256, 4, 4])])
def test_a_second_version_with_equal_weights_costs_little(
    tmp_path: Path, make: Callable[..., int], shape: list[int]
) -> None:
    """Another graph of the same weights: a tenth of them at most. Other weights cost what they are."""
    folder = tmp_path / "model"
    size = make(folder / "1", "Neg")
    (folder / "config.pbtxt").write_text("version_policy { all {} }\n")
    flags = ("--model-control-mode", "explicit", "--load-model", "model")
    with ServerProcess(tmp_path, *flags) as server, triton.InferenceServerClient(server.grpc) as client:
        one = ask(client, "1", shape)
        first, first_counted = resident(server), counted(client)
        assert first_counted >= size * 0.9
        make(folder / "2", "Identity")
        client.load_model("model")
        two = ask(client, "2", shape)
        assert np.array_equal(one, -two)
        assert np.array_equal(one, ask(client, "1", shape))
        second = resident(server)
        assert second - first < size / 10, f"{(second - first) / MIB:.1f} MiB more, of {size / MIB:.1f}"
        assert counted(client) - first_counted < size / 5
        make(folder / "3", "Identity", seed=6)
        client.load_model("model")
        ask(client, "3", shape)
        assert resident(server) - second > size * 0.7
        client.unload_model("model")
        assert resident(server) < first
