"""Models that answer a request any number of times, by tritonclient as it is."""

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from e2e.clients import SECONDS
from server_process import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """rows answers once for each row, which is its end too in `marked`; `once` answers once."""
    root = tmp_path_factory.mktemp("parts")
    for name, more in (("rows", "answers rows\n"), ("marked", "answers rows last\n"), ("once", "")):
        (root / name / "1").mkdir(parents=True)
        policy = "model_transaction_policy { decoupled: true }" if more else ""
        (root / name / "config.pbtxt").write_text(f'backend: "echo" max_batch_size: 65536 {policy}')
        (root / name / "1/model.echo").write_text(f"input x INT32 [-1,1]\n{more}")
    with ServerProcess(root) as server:
        yield server
        assert server.stop() == 0
        assert "0 bytes in 0 blocks in use" in server.output()


def stream(server: ServerProcess, model: str, rows: int, count: int, *, tell_end: bool) -> list[tuple[list[int], bool]]:
    """(values, whether it is said to be the last) of `count` answers."""
    told: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: told.put((result, error)), stream_timeout=SECONDS)
        given = triton.InferInput("x", [rows, 1], "INT32")
        given.set_data_from_numpy(np.arange(rows, dtype=np.int32).reshape(rows, 1))
        client.async_stream_infer(model, [given], enable_empty_final_response=tell_end)
        answers = [told.get(timeout=SECONDS) for _ in range(count)]
        client.stop_stream()
    assert told.empty(), "and no more"
    found = []
    for result, error in answers:
        assert error is None
        response = result.get_response()
        values = result.as_numpy("x").ravel().tolist() if response.outputs else []
        found.append((values, response.parameters["triton_final_response"].bool_param))
    return found


def test_tritonclient_hears_of_each_answer_and_of_the_end(server: ServerProcess) -> None:
    rows = [([row], False) for row in range(100)]
    assert stream(server, "rows", 100, 100, tell_end=False) == rows
    assert stream(server, "rows", 100, 101, tell_end=True) == [*rows, ([], True)]
    marked = [*rows[:-1], ([99], True)]
    for tell_end in (False, True):
        assert stream(server, "marked", 100, 100, tell_end=tell_end) == marked
        assert stream(server, "once", 3, 1, tell_end=tell_end) == [([0, 1, 2], True)]


def test_statistics_tell_of_each_answer_by_its_number(server: ServerProcess) -> None:
    with triton.InferenceServerClient(server.grpc) as client, triton_http.InferenceServerClient(server.http) as web:
        before = client.get_inference_statistics("rows").model_stats[0]
        stream(server, "rows", 2, 3, tell_end=True)
        stream(server, "rows", 1, 2, tell_end=True)
        (stats,) = client.get_inference_statistics("rows").model_stats
        assert stats.inference_stats.success.count - before.inference_stats.success.count == 2
        kinds = ("success", "compute_infer", "compute_output", "empty_response", "fail", "cancel")
        rows = (((2, 2, 2, 0, 0, 0), "0"), ((1, 1, 1, 1, 0, 0), "1"), ((0, 0, 0, 1, 0, 0), "2"))
        for expected, number in rows:
            now, then = stats.response_stats[number], before.response_stats[number]
            assert tuple(getattr(now, kind).count - getattr(then, kind).count for kind in kinds) == expected
            assert now.success.ns == now.compute_infer.ns + now.compute_output.ns
        said = web.get_inference_statistics("rows")["model_stats"][0]["response_stats"]
        assert {number: row["success"]["count"] for number, row in said.items()} == {
            number: row.success.count for number, row in stats.response_stats.items()
        }
        assert web.get_inference_statistics("once")["model_stats"][0]["response_stats"] == {}
        stream(server, "rows", 150, 151, tell_end=True)
        told = client.get_inference_statistics("rows").model_stats[0].response_stats
        assert len(told) == 100
        assert told["99"].success.count >= 51, "the last has all that follow"


def test_calls_of_one_answer_are_refused(server: ServerProcess) -> None:
    data = np.zeros((2, 1), np.int32)
    with triton.InferenceServerClient(server.grpc) as client:
        given = triton.InferInput("x", [2, 1], "INT32")
        given.set_data_from_numpy(data)
        with pytest.raises(InferenceServerException, match="any number of times") as refused:
            client.infer("rows", [given])
        assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
        assert client.get_model_config("rows").config.model_transaction_policy.decoupled
        assert not client.get_model_config("once").config.model_transaction_policy.decoupled
    with triton_http.InferenceServerClient(server.http) as web:
        also = triton_http.InferInput("x", [2, 1], "INT32")
        also.set_data_from_numpy(data)
        with pytest.raises(InferenceServerException, match="any number of times"):
            web.infer("rows", [also])
