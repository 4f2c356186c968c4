"""What a burst of large requests took goes back once nobody needs it."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tritonclient.grpc as triton
from onnx import TensorProto, helper, numpy_helper

from server_process import ServerProcess

MIB = 1 << 20
WIDTH = 1024
ROWS = 4096  # 16 MiB of input, of output, and of each of the activations between


def write(folder: Path) -> None:
    """Elementwise nodes around two products, FP32[N, WIDTH]."""
    nodes, last = [], "x"
    for i, kind in enumerate(("MatMul", "Tanh", "MatMul", "Relu", "Tanh")):
        nodes.append(helper.make_node(kind, [last, "w"] if kind == "MatMul" else [last], [f"h{i}"]))
        last = f"h{i}"
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32), "w")],
    )
    target = folder / "wide" / "1"
    target.mkdir(parents=True)
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(built, target / "model.onnx")
    (folder / "wide" / "config.pbtxt").write_text(f"max_batch_size: {ROWS}\n")


def resident(server: ServerProcess, row: str = "VmRSS") -> float:
    """MiB. VmHWM: the most that it ever was."""
    status = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(row)).split()[1]) / 1024


def ask(client: Any, rows: int) -> None:
    x = triton.InferInput("x", [rows, WIDTH], "FP32")
    x.set_data_from_numpy(np.ones((rows, WIDTH), np.float32))
    client.infer("wide", [x])


def test_a_burst_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    with ServerProcess(tmp_path) as server, triton.InferenceServerClient(server.grpc) as client:
        ask(client, 1)

        def caller() -> None:
            with triton.InferenceServerClient(server.grpc) as own:
                for _ in range(2):
                    ask(own, ROWS)

        before = resident(server)
        callers = [threading.Thread(target=caller) for _ in range(4)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
        # Not what it is now: much of it may have gone back before the last caller has read its answer.
        assert resident(server, "VmHWM") > before + 32, "there is something to give back"
        deadline = time.monotonic() + 60
        while (now := resident(server)) > before * 1.05:
            assert time.monotonic() < deadline, f"{now:.1f} MiB, {before:.1f} before"
            time.sleep(0.1)
        ask(client, 1)
