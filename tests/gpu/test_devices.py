"""Sessions on a GPU, and on the CPU beside it: `pytest tests/gpu`, where there is one. The suite needs none."""

import ctypes
import json
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

import headrace
from e2e.clients import SECONDS, given

Repository = Callable[..., Path]


def missing() -> str:
    """Why nothing here can run; "" where it can."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1)"
    if driver.cuInit(0) != 0:
        return "the NVIDIA driver finds no GPU"
    return ""


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def scheduler(server: headrace.Server, model: str) -> Any:
    url = f"http://127.0.0.1:{server.http_port}/v2/models/{model}/scheduler"
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        return json.loads(answer.read())


def logits(server: headrace.Server, rows: np.ndarray) -> np.ndarray:
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        found: np.ndarray = client.infer("mlp", [given("x", rows)], client_timeout=SECONDS).as_numpy("logits")
    return found


@pytest.mark.parametrize(
    ("groups", "providers"),
    [
        ("instance_group { kind: KIND_GPU gpus: [ 0 ] }", ["cuda"]),
        ("instance_group [ { kind: KIND_GPU gpus: [ 0 ] }, { kind: KIND_CPU } ]", ["cuda", "cpu"]),
    ],
)
def test_a_gpu_answers_as_the_cpu_does(repository: Repository, models: Path, groups: str, providers: list[str]) -> None:
    rows = np.random.default_rng(7).standard_normal((3, 64)).astype(np.float32)
    folder = repository(mlp=models / "mlp.onnx")
    with headrace.Server(folder, grpc_port=0, http_port=0, device="cpu") as server:
        expected = logits(server, rows)
    (folder / "mlp" / "config.pbtxt").write_text(groups)
    with headrace.Server(folder, grpc_port=0, http_port=0, strict_device=True) as server:
        for _ in range(50):
            np.testing.assert_allclose(logits(server, rows), expected, rtol=1e-3, atol=1e-5)
        places = scheduler(server, "mlp")["devices"]
        assert [place["provider"] for place in places] == providers
        assert sum(place["batches"]["count"] for place in places) == 50
        assert places[0]["device"] == "gpu 0"
        assert places[0]["cost_curves"], "it has learnt what a run costs there"


def staging(server: headrace.Server) -> Any:
    """The page-locked memory of each GPU."""
    instance: Any = server._instance
    return instance.engine.snapshot()["staging"]


@pytest.mark.parametrize("accelerator", ["cuda", "tensorrt"])
def test_batches_and_answers_lie_in_page_locked_memory(repository: Repository, models: Path, accelerator: str) -> None:
    """Copies of two lanes and their runs go on side by side: each answer must be its own request's."""
    if accelerator == "tensorrt":
        try:
            ctypes.CDLL("libnvinfer.so.10")
        except OSError:
            pytest.skip("there is no TensorRT (libnvinfer.so.10)")
    rows = 4096  # of 64 bytes: an input of 256 KiB
    folder = repository(add_sub=models / "add_sub.onnx")
    (folder / "add_sub" / "config.pbtxt").write_text(
        f"max_batch_size: {4 * rows} dynamic_batching {{ max_queue_delay_microseconds: 2000 }} "
        "instance_group { kind: KIND_GPU gpus: [ 0 ] } "
        f'optimization {{ execution_accelerators {{ gpu_execution_accelerator {{ name: "{accelerator}" }} }} }}'
    )

    def ask(client: triton.InferenceServerClient, number: int) -> None:
        a = np.full((rows, 16), number, np.int32)
        b = np.arange(rows * 16, dtype=np.int32).reshape(rows, 16)
        answer = client.infer("add_sub", [given("a", a), given("b", b)], client_timeout=SECONDS)
        np.testing.assert_array_equal(answer.as_numpy("sum"), a + b)
        np.testing.assert_array_equal(answer.as_numpy("difference"), a - b)

    with headrace.Server(folder, grpc_port=0, http_port=0, strict_device=True) as server:
        with (
            triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client,
            ThreadPoolExecutor(16) as threads,
        ):
            for done in [threads.submit(ask, client, number) for number in range(400)]:
                done.result()
        used = staging(server)["gpu 0"]
        assert used["allocations"] > 0, "batches and outputs took it"
        assert used["reuses"] > used["allocations"] / 2, "and took it again"
        assert used["bytes_in_use"] + used["bytes_retained"] <= used["cap"]
        assert scheduler(server, "add_sub")["lanes"]["most"] == 2, "one lane's copies go on while the other runs"
