"""Statistics, traces and log settings over unmodified tritonclient: every number and every setting means something."""

import itertools
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from e2e.clients import SECONDS, given, request, stub
from server_process import ServerProcess

X = np.ones((1, 64), np.float32)
TRACED = ("--trace-config", "level=TIMESTAMPS", "--trace-config", "rate=2")
EVENTS = [
    "REQUEST_START",
    "QUEUE_START",
    "COMPUTE_START",
    "COMPUTE_INPUT_END",
    "COMPUTE_OUTPUT_START",
    "COMPUTE_END",
    "REQUEST_END",
]
Serve = Callable[..., ServerProcess]
Repository = Callable[..., Path]


@pytest.fixture
def folder(repository: Repository, models: Path) -> Path:
    return repository(mlp=models / "mlp.onnx", other=models / "mlp.onnx")


def ask(client: Any, model: str = "mlp", rows: int = 1, **more: Any) -> Any:
    return client.infer(model, [given("x", np.repeat(X, rows, 0))], **more)


def until(condition: Callable[[], Any]) -> Any:
    """The first answer that is true, within a minute."""
    limit = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < limit
        time.sleep(0.02)
    return found


def refused(work: Callable[[], Any]) -> str:
    """The status of a call that must fail."""
    with pytest.raises(InferenceServerException) as raised:
        work()
    return str(raised.value.status()).removeprefix("StatusCode.")


# --- Statistics


def test_every_row_of_the_statistics_is_filled(folder: Path, serve: Serve) -> None:
    server = serve(folder)
    began = int(time.time() * 1000)
    with triton.InferenceServerClient(server.grpc) as client:
        for rows in (1, 1, 4):
            ask(client, rows=rows)
        with pytest.raises(InferenceServerException):
            client.infer("mlp", [given("x", X[:, :3])])
        (stats,) = client.get_inference_statistics("mlp", "1").model_stats
        assert (stats.name, stats.version) == ("mlp", "1")
        assert (stats.inference_count, stats.execution_count) == (6, 3)
        assert began - 1000 <= stats.last_inference <= int(time.time() * 1000) + 1000
        whole = stats.inference_stats
        assert (whole.success.count, whole.fail.count) == (3, 1)
        assert whole.queue.count == whole.compute_infer.count == 3
        parts = [whole.queue, whole.compute_input, whole.compute_infer, whole.compute_output]
        assert whole.compute_infer.ns > 0
        assert 0 < sum(part.ns for part in parts) <= whole.success.ns
        assert whole.fail.ns > 0
        assert (whole.cache_hit.count, whole.cache_miss.count) == (0, 0)
        batches = {batch.batch_size: batch for batch in stats.batch_stats}
        assert {size: batch.compute_infer.count for size, batch in batches.items()} == {1: 2, 4: 1}
        assert sum(batch.compute_infer.ns for batch in batches.values()) == whole.compute_infer.ns
        assert [s.name for s in client.get_inference_statistics().model_stats] == ["mlp", "other"]
        assert client.get_inference_statistics("other").model_stats[0].inference_stats.success.count == 0
        assert refused(lambda: client.get_inference_statistics("nothing")) == "NOT_FOUND"


def test_a_batch_counts_its_time_for_each_of_its_requests(folder: Path, serve: Serve) -> None:
    config = "max_batch_size: 8 dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 30000000 }"
    (folder / "mlp/config.pbtxt").write_text(config)
    server = serve(folder)
    with grpc.insecure_channel(server.grpc) as channel:
        calls = stub(channel)
        waiting = [calls.ModelInfer.future(request("mlp", {"x": X}), timeout=SECONDS) for _ in range(4)]
        for call in waiting:
            call.result()
        (stats,) = calls.ModelStatistics(service_pb2.ModelStatisticsRequest(name="mlp"), timeout=SECONDS).model_stats
    assert (stats.inference_count, stats.execution_count) == (4, 1)
    (batch,) = stats.batch_stats
    assert (batch.batch_size, batch.compute_infer.count) == (4, 1)
    assert stats.inference_stats.compute_infer.count == 4
    assert stats.inference_stats.compute_infer.ns == 4 * batch.compute_infer.ns


# --- Traces


def trace_settings(client: Any, model: str | None = None) -> dict[str, list[str]]:
    settings = client.get_trace_settings(model).settings
    return {key: list(value.value) for key, value in settings.items()}


def traces(file: Path) -> list[dict[str, Any]]:
    """The file's traces: each with the events' times under "times"."""
    found: dict[int, dict[str, Any]] = {}
    for entry in json.loads(file.read_text()):
        about = found.setdefault(entry["id"], {"times": {}})
        about.update({key: value for key, value in entry.items() if key != "timestamps"})
        about["times"].update({stamp["name"]: stamp["ns"] for stamp in entry.get("timestamps", ())})
    return list(found.values())


def test_traces_of_every_second_request(folder: Path, serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    server = serve(folder, "--trace-config", f"triton,file={file}", *TRACED)
    with triton.InferenceServerClient(server.grpc) as client:
        assert trace_settings(client) == {
            "trace_file": [str(file)],
            "trace_level": ["TIMESTAMPS"],
            "trace_rate": ["2"],
            "trace_count": ["-1"],
            "log_frequency": ["0"],
            "trace_mode": ["triton"],
        }
        for number in range(6):
            ask(client, request_id=f"r{number}")
    assert server.stop() == 0
    found = traces(file)
    assert [(t["model_name"], t["model_version"], t["request_id"]) for t in found] == [
        ("mlp", 1, f"r{number}") for number in (1, 3, 5)
    ]
    for trace in found:
        assert list(trace["times"]) == EVENTS
        assert all(a <= b for a, b in itertools.pairwise(trace["times"].values()))


def test_settings_take_effect_while_it_runs(folder: Path, serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    server = serve(folder, "--trace-config", f"triton,file={file}", "--io-threads", "2")
    with triton.InferenceServerClient(server.grpc) as client:
        ask(client)
        assert trace_settings(client)["trace_level"] == ["OFF"]
        client.update_trace_settings(None, {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "3"})
        for number in range(5):
            ask(client, request_id=f"all{number}")
        assert trace_settings(client)["trace_count"] == ["0"]
        # A count that is reached has a file of its own, at once.
        first = until(lambda: Path(f"{file}.0").exists() and Path(f"{file}.0").read_text() and Path(f"{file}.0"))
        assert [t["request_id"] for t in traces(first)] == ["all0", "all1", "all2"]

        # Of one model, every second; the others go on as everybody.
        told = client.update_trace_settings("mlp", {"trace_rate": "2", "trace_count": "-1", "log_frequency": "2"})
        assert list(told.settings["trace_rate"].value) == ["2"]
        assert trace_settings(client, "mlp")["log_frequency"] == ["2"]
        assert trace_settings(client, "other")["trace_rate"] == ["1"]
        for number in range(8):
            ask(client, request_id=f"one{number}")
            ask(client, "other")
        second = until(lambda: Path(f"{file}.2").exists() and Path(f"{file}.2").read_text() and Path(f"{file}.2"))
        assert [t["request_id"] for t in traces(second)] == ["one5", "one7"]

        # Nothing given: as everybody again.
        client.update_trace_settings("mlp", {"trace_rate": None, "trace_count": None, "log_frequency": None})
        assert trace_settings(client, "mlp") == trace_settings(client)
        client.update_trace_settings(None, {"trace_level": None})
        assert trace_settings(client)["trace_level"] == ["OFF"]
    assert server.stop() == 0
    assert not file.exists(), "nothing was left"


def test_traces_with_tensors(folder: Path, serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    server = serve(folder, "--trace-config", f"triton,file={file}")
    with triton.InferenceServerClient(server.grpc) as client:
        ask(client)
        client.update_trace_settings(
            "mlp", {"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": "2", "trace_count": "2"}
        )
        assert trace_settings(client, "mlp")["trace_level"] == ["TIMESTAMPS", "TENSORS"]
        results = [ask(client, request_id=f"r{number}") for number in range(8)]
        assert trace_settings(client, "mlp")["trace_count"] == ["0"]
    assert server.stop() == 0
    rows = json.loads(Path(f"{file}.0").read_text())
    assert [row["request_id"] for row in rows if "request_id" in row] == ["r1", "r3"]
    tensors = [(row["activity"], row["tensor"]) for row in rows if row["id"] == 1 and "activity" in row]
    assert [(activity, tensor["name"]) for activity, tensor in tensors] == [
        ("TENSOR_QUEUE_INPUT", "x"),
        ("TENSOR_BACKEND_INPUT", "x"),
        ("TENSOR_BACKEND_OUTPUT", "logits"),
    ]
    for (_, tensor), array in zip(tensors, (X[:1], X[:1], results[1].as_numpy("logits")), strict=True):
        assert (tensor["dtype"], tensor["shape"]) == ("FP32", ",".join(map(str, array.shape)))
        np.testing.assert_array_equal(np.array(tensor["data"].split(","), np.float32), array.ravel())
    assert any("timestamps" in row for row in rows)


def test_what_cannot_be_set_of_traces(folder: Path, serve: Serve, tmp_path: Path) -> None:
    server = serve(folder, "--trace-config", f"triton,file={tmp_path / 'trace.json'}")
    with triton.InferenceServerClient(server.grpc) as client:
        before = trace_settings(client)
        for settings, status in (
            ({"trace_level": ["LOUD"]}, "INVALID_ARGUMENT"),
            ({"trace_level": ["TENSORS", "LOUD"]}, "INVALID_ARGUMENT"),
            ({"trace_rate": "0"}, "INVALID_ARGUMENT"),
            ({"trace_rate": "often"}, "INVALID_ARGUMENT"),
            ({"trace_count": "-2"}, "INVALID_ARGUMENT"),
            ({"log_frequency": "-1"}, "INVALID_ARGUMENT"),
            ({"trace_file": "/tmp/other"}, "INVALID_ARGUMENT"),
            ({"nothing": "1"}, "INVALID_ARGUMENT"),
            ({"trace_rate": "5", "trace_count": "x"}, "INVALID_ARGUMENT"),
        ):
            assert refused(partial(client.update_trace_settings, None, settings)) == status, settings
        assert refused(lambda: client.get_trace_settings("nothing")) == "NOT_FOUND"
        assert refused(lambda: client.update_trace_settings("nothing", {"trace_rate": "5"})) == "NOT_FOUND"
        assert trace_settings(client) == before
    started_without = r"started without a file.*--trace-config triton,file=PATH"
    with (
        triton.InferenceServerClient(serve(folder).grpc) as client,
        pytest.raises(InferenceServerException, match=started_without),
    ):
        client.update_trace_settings(None, {"trace_level": ["TIMESTAMPS"]})


# --- The log


def log_settings(client: Any) -> dict[str, Any]:
    settings = client.get_log_settings().settings
    return {key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in settings.items()}


def test_log_settings_take_effect(folder: Path, serve: Serve) -> None:
    server = serve(folder, "--model-control-mode", "explicit", "--load-model", "mlp")
    start = {
        "log_file": "",
        "log_info": True,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 0,
        "log_format": "default",
    }
    with triton.InferenceServerClient(server.grpc) as client:

        def written(work: Callable[[], Any]) -> list[str]:
            before = len(server.output())
            work()
            return [line for line in server.output()[before:].splitlines() if line]

        def load_broken() -> None:
            assert refused(lambda: client.load_model("other")) == "INVALID_ARGUMENT"

        assert log_settings(client) == start
        assert any(
            " INFO headrace.repository: model 'mlp'" in line for line in written(lambda: client.load_model("mlp"))
        )
        client.update_log_settings({"log_info": False})
        assert written(lambda: client.load_model("mlp")) == []
        (folder / "other/1/model.onnx").write_bytes(b"no model")
        assert any(" ERROR " in line for line in written(load_broken))
        client.update_log_settings({"log_error": False})
        assert not any(" ERROR " in line for line in written(load_broken))
        told = client.update_log_settings({"log_info": True, "log_error": True, "log_format": "ISO8601"}).settings
        assert told["log_format"].string_param == "ISO8601"
        lines = written(lambda: client.load_model("mlp"))
        assert any(f"Z I {server.process.pid} repository.py:" in line for line in lines)
        (folder / "stray").write_text("")
        assert not any(" D " in line for line in written(client.get_model_repository_index))
        client.update_log_settings({"log_verbose_level": 1})
        assert any(" D " in line and "stray" in line for line in written(client.get_model_repository_index))
        client.update_log_settings({key: None for key in start if key != "log_file"})
        assert log_settings(client) == start
        for wrong in ({"log_file": "x"}, {"log_format": "XML"}, {"nothing": True}):
            assert refused(partial(client.update_log_settings, wrong)) == "INVALID_ARGUMENT", wrong
        assert log_settings(client) == start
