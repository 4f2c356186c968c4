"""More models than memory: what sleeps is served all the same, and memory comes back."""

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto, helper, numpy_helper
from tritonclient.utils import InferenceServerException

from server_process import ServerProcess

WIDTH = 512  # a megabyte of weights
MODELS = 12
MIB = 1 << 20


def write(folder: Path, name: str, number: int, version: int = 1) -> None:
    """y = x @ (number * identity), FP32[N, WIDTH]."""
    shape: list[str | int | None] = ["batch", WIDTH]
    weights = number * np.eye(WIDTH, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "times",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "w")],
    )
    target = folder / name / str(version)
    target.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), target / "model.onnx"
    )


def ask(client: Any, name: str) -> float:
    x = triton.InferInput("x", [1, WIDTH], "FP32")
    x.set_data_from_numpy(np.ones((1, WIDTH), np.float32))
    return float(client.infer(name, [x]).as_numpy("y")[0, 0])


def get(server: ServerProcess, path: str, method: str = "GET") -> Any:
    call = urllib.request.Request(f"http://{server.http}{path}", method=method)
    with urllib.request.urlopen(call, timeout=30) as answer:
        return json.load(answer)


def used(rows: Any) -> int:
    """Bytes of all models, as statistics have them."""
    return sum(row["memory_usage"][0]["byte_size"] for row in rows)


def test_more_models_than_memory(tmp_path: Path) -> None:
    for number in range(MODELS):
        write(tmp_path, f"m{number}", number)
    budget = 8 * MIB
    with (
        ServerProcess(tmp_path, "--model-memory-budget", f"cpu={budget // MIB}MiB") as server,
        triton.InferenceServerClient(server.grpc) as client,
    ):
        index = get(server, "/v2/repository/index", "POST")
        assert [row["state"] for row in index] == ["READY"] * MODELS
        asleep = [row["name"] for row in index if row.get("reason", "").startswith("asleep: the next request loads it")]
        assert 0 < len(asleep) < MODELS
        for _ in range(3):
            for number in range(MODELS):
                assert client.is_model_ready(f"m{number}")
                assert ask(client, f"m{number}") == number
            # What a load was measured to take beyond what was reserved is made up for right after it.
            deadline = time.monotonic() + 30
            while (rows := get(server, "/v2/models/stats")["model_stats"]) and used(rows) > budget:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert used(rows) > 0
        assert any(row["memory_usage"][0]["byte_size"] == 0 for row in rows)


def test_a_file_that_is_gone_is_told_of_when_its_model_should_wake(tmp_path: Path) -> None:
    for number in range(MODELS):
        write(tmp_path, f"m{number}", number)
    with (
        ServerProcess(tmp_path, "--model-memory-budget", "8MiB") as server,
        triton.InferenceServerClient(server.grpc) as client,
    ):
        index = get(server, "/v2/repository/index", "POST")
        asleep = next(row["name"] for row in index if "asleep" in row.get("reason", ""))
        (tmp_path / asleep / "1" / "model.onnx").unlink()
        for _ in range(2):
            with pytest.raises(
                InferenceServerException, match=f"model '{asleep}' version 1 could not be loaded again"
            ) as told:
                ask(client, asleep)
            assert told.value.status() == "StatusCode.UNAVAILABLE"
        others = [f"m{number}" for number in range(MODELS) if f"m{number}" != asleep]
        assert [ask(client, name) for name in others] == [float(name[1:]) for name in others]
