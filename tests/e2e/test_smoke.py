"""One pass through what a client sees, on a real process. Small, because it also runs with the core instrumented."""

import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from server_process import ServerProcess

Serve = Callable[..., ServerProcess]


def given(rows: np.ndarray, name: str = "bytes") -> triton.InferInput:
    tensor = triton.InferInput(name, list(rows.shape), "INT32")
    tensor.set_data_from_numpy(rows)
    return tensor


def test_smoke(serve: Serve, repository: Callable[..., Path], magika_model: Path) -> None:
    server = serve(repository(magika=magika_model), "--access-log")
    with urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=10) as answer:
        assert answer.status == 200
    with triton.InferenceServerClient(server.grpc) as client:
        assert client.is_server_ready()
        rows = np.random.default_rng(3).integers(0, 256, (32, 2048), dtype=np.int32)
        together = client.infer("magika", [given(rows)]).as_numpy("target_label")

        with ThreadPoolExecutor(8) as pool:
            alone = list(
                pool.map(lambda row: client.infer("magika", [given(row[None])]).as_numpy("target_label"), rows)
            )
        np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-2, atol=1e-4)

        compressed = client.infer("magika", [given(rows)], compression_algorithm="gzip")
        np.testing.assert_allclose(compressed.as_numpy("target_label"), together, rtol=1e-2, atol=1e-4)
        timed = client.infer("magika", [given(rows[:1])], request_id="a", parameters={"headrace_timing": True})
        told = timed.get_response()
        assert told.id == "a"
        assert told.parameters["headrace_batch_size"].int64_param >= 1
        assert told.parameters["headrace_compute_ns"].int64_param > 0

        for model, tensor, words in [
            ("nothing", given(rows), "nothing"),
            ("magika", given(rows, "wrong"), "wrong"),
            ("magika", given(rows[:, :7]), "2048"),
        ]:
            with pytest.raises(InferenceServerException, match=words):
                client.infer(model, [tensor])
        assert client.get_inference_statistics("magika").model_stats[0].inference_count >= 32 * 3
    assert server.stop() == 0
    assert "0 bytes in 0 blocks in use" in server.output()
