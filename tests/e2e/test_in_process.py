"""A server inside this process: for notebooks and tests. A blocking client in the caller's own thread must work."""

import asyncio
import logging
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc import StatusCode
from tritonclient.grpc import service_pb2

import headrace
from e2e.checks import when_running
from e2e.clients import CLIENTS, SECONDS, Call, Reference, answer_of, assert_close, given, request, rows_of, stub
from headrace.config import ConfigError
from headrace.errors import StartError

Repository = Callable[..., Path]
FOREVER = 1 << 40  # iterations of `slow`: it runs until it is cancelled
ANY = {"grpc_port": 0, "http_port": 0}
POOL_IS_EMPTY = "memory pool at the end: 0 bytes in 0 blocks in use"


@pytest.fixture
def mlp(repository: Repository, models: Path) -> Path:
    """A repository with one model."""
    return repository(mlp=models / "mlp.onnx")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "headrace")
    return caplog


def at(server: headrace.Server) -> str:
    return f"127.0.0.1:{server.grpc_port}"


def ask(target: str, model: str = "mlp") -> None:
    """One request by a blocking client in this thread; its numbers are not looked at here."""
    with triton.InferenceServerClient(target) as client:
        told = client.infer(model, [given("x", np.zeros((3, 64), np.float32))], client_timeout=SECONDS)
        assert told.as_numpy("logits").shape == (3, 10)


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("headrace")}


def test_a_blocking_client_in_the_callers_thread(mlp: Path, models: Path, log: pytest.LogCaptureFixture) -> None:
    reference = Reference(models / "mlp.onnx")
    rows = np.random.default_rng(0).normal(0, 1, (64, 64)).astype(np.float32)
    with headrace.Server(model_repository=mlp, **ANY) as server:
        assert server.ready
        assert [(model.name, model.version, model.backend) for model in server.models] == [("mlp", "1", "onnxruntime")]
        assert server.grpc_port != server.http_port
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/health/ready", timeout=SECONDS) as answer:
            assert answer.status == 200
        for client in CLIENTS.values():
            told = client(at(server), [Call("mlp", {"x": row}) for row in rows_of(rows)], 16)
            assert_close({"logits": np.concatenate([answer["logits"] for answer in told])}, reference({"x": rows}))
        target = at(server)
    assert not threads()
    assert POOL_IS_EMPTY in log.text
    with pytest.raises(grpc.RpcError), grpc.insecure_channel(target) as channel:
        stub(channel).ServerLive(service_pb2.ServerLiveRequest(), timeout=SECONDS)


def test_async_with_and_a_client_on_the_callers_loop(mlp: Path, log: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with (
            headrace.Server(model_repository=mlp, **ANY) as server,
            grpc.aio.insecure_channel(at(server)) as channel,
        ):
            messages = [request("mlp", {"x": np.zeros((rows, 64), np.float32)}) for rows in range(1, 30)]
            responses = await asyncio.gather(*(stub(channel).ModelInfer(m, timeout=SECONDS) for m in messages))
            assert [len(answer_of(response)["logits"]) for response in responses] == list(range(1, 30))

    asyncio.run(main())
    assert not threads()
    assert POOL_IS_EMPTY in log.text


def test_it_ends_with_the_block_also_when_the_block_fails(mlp: Path, log: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        with headrace.Server(mlp, **ANY) as server:
            ask(at(server))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    assert not threads()
    assert POOL_IS_EMPTY in log.text


def test_two_servers_in_one_process(tmp_path: Path, models: Path, log: pytest.LogCaptureFixture) -> None:
    for name in ("one", "two"):
        (tmp_path / name / name / "1").mkdir(parents=True)
        (tmp_path / name / name / "1/model.onnx").write_bytes((models / "mlp.onnx").read_bytes())
    with headrace.Server(tmp_path / "one", **ANY) as one:
        with headrace.Server(tmp_path / "two", lanes=1, **ANY) as two:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda server: ask(at(server[0]), server[1]), [(one, "one"), (two, "two")] * 8))
            for server, other in ((one, "two"), (two, "one")):
                with pytest.raises(triton.InferenceServerException, match=f"'{other}' is not in the model repository"):
                    ask(at(server), other)
                with triton.InferenceServerClient(at(server)) as client:
                    (counted,) = client.get_inference_statistics().model_stats
                    assert (counted.inference_count, counted.inference_stats.fail.count) == (24, 0)
        ask(at(one), "one")  # the other's end is not its own
    assert not threads()
    assert log.text.count(POOL_IS_EMPTY) == 2


# Run by a process of its own, where nothing else makes threads or opens files. A thread that was joined is in /proc for
# a moment longer, so its end is waited for.
ROUNDS = """
import gc, os, subprocess, sys, threading, time, urllib.request
import headrace

def ask(server):
    url = f"http://127.0.0.1:{server.grpc_port}/inference.GRPCInferenceService/ModelInfer"
    fields = ("-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary", f"@{sys.argv[2]}")
    told = subprocess.run(["curl", "-sSi", "--http2-prior-knowledge", *fields, url], capture_output=True)
    assert b"grpc-status: 0" in told.stdout, told
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/health/live") as answer:
        assert answer.status == 200

def threads():
    return len(os.listdir("/proc/self/task"))

def files():
    return len(os.listdir("/proc/self/fd"))

def few(most):
    deadline = time.monotonic() + 60
    while threads() > most and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() <= most, f"{threads()} threads instead of {most}"

before = threads()
gc.disable()  # what nobody refers to any more is gone at once
for number in range(10):
    with headrace.Server(sys.argv[1], grpc_port=0, http_port=0, io_threads=2) as server:
        ask(server)
    assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
    few(before)
    opened = files() if number == 0 else opened
    assert files() == opened, f"{files()} open files after round {number}, {opened} after the first"
"""


def test_ten_starts_and_stops_leave_nothing_behind(mlp: Path, tmp_path: Path) -> None:
    message = request("mlp", {"x": np.zeros((1, 64), np.float32)}).SerializeToString()
    body = tmp_path / "body"
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    done = subprocess.run([sys.executable, "-c", ROUNDS, mlp, body], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_several_loops(mlp: Path, models: Path, log: pytest.LogCaptureFixture) -> None:
    """Each connection belongs to one loop; calls that Python answers are handed to the first and come back."""
    reference = Reference(models / "mlp.onnx")
    alone = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each channel
    with headrace.Server(mlp, io_threads=2, **ANY) as server:
        assert threads() >= {"headrace-loop", "headrace-io-1"}
        channels = [grpc.insecure_channel(at(server), options=alone) for _ in range(4)]
        try:
            for channel in channels:
                assert stub(channel).ServerReady(service_pb2.ServerReadyRequest(), timeout=SECONDS).ready
            seats: Any = server._running._seats
            assert [seat.load for seat in seats] == [2, 2]

            def each(number: int) -> None:
                calls = stub(channels[number % 4])
                x = np.random.default_rng(number).normal(0, 1, (1, 64)).astype(np.float32)
                told = answer_of(calls.ModelInfer(request("mlp", {"x": x}), timeout=SECONDS))
                assert_close(told, reference({"x": x}))
                about = calls.ModelMetadata(service_pb2.ModelMetadataRequest(name="mlp"), timeout=SECONDS)
                assert about.name == "mlp"
                with pytest.raises(grpc.RpcError) as raised:
                    calls.ModelConfig(service_pb2.ModelConfigRequest(name=f"no-{number}"), timeout=SECONDS)
                error: Any = raised.value
                assert error.code() is StatusCode.NOT_FOUND
                assert f"'no-{number}'" in error.details()

            with ThreadPoolExecutor(16) as pool:
                list(pool.map(each, range(200)))
        finally:
            for channel in channels:
                channel.close()
    assert not threads()
    assert POOL_IS_EMPTY in log.text


def test_stop_says_whether_calls_had_to_be_ended(
    repository: Repository, models: Path, log: pytest.LogCaptureFixture
) -> None:
    server = headrace.Server(repository(slow=models / "slow.onnx"), drain_seconds=0.2, io_threads=2, **ANY)
    assert server.stop(), "nothing runs"
    server.start()
    with grpc.insecure_channel(at(server)) as channel:
        call = stub(channel).ModelInfer.future(request("slow", {"iterations": np.array([[FOREVER]], np.int64)}))
        assert stub(channel).ServerLive(service_pb2.ServerLiveRequest(), timeout=SECONDS).live
        assert not server.stop()
        assert call.exception(SECONDS).code() is StatusCode.UNAVAILABLE
    assert server.stop(), "it has ended"
    server.start()  # and may start again
    assert server.ready
    assert server.stop()
    assert not threads()
    assert log.text.count(POOL_IS_EMPTY) == 2


def test_wrong_options_and_repositories(mlp: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"grpc_port is 70000 \(argument grpc_port\).*0 to 65535"):
        headrace.Server(mlp, grpc_port=70000)
    with pytest.raises(ConfigError, match="lane"):
        headrace.Server(mlp, lane=1)
    server = headrace.Server(tmp_path / "missing", **ANY)
    with pytest.raises(StartError, match="missing cannot be read: No such file"):
        server.start()
    with pytest.raises(StartError, match="does not run"):
        _ = server.grpc_port
    assert not server.ready
    assert not threads()
    with headrace.Server(mlp, **ANY) as running:
        with pytest.raises(StartError, match="runs already"):
            running.start()
        taken = {"grpc_port": running.grpc_port, "http_port": 0}
        with pytest.raises(StartError, match=f"Port {running.grpc_port} of 127.0.0.1 is taken"):
            headrace.Server(mlp, **taken).start()
        ask(at(running))
    assert not threads()


def test_the_environment_is_not_read(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_LANES", "nonsense")
    with headrace.Server(mlp, **ANY) as server:
        ask(at(server))


def test_readiness_while_models_are_broken(repository: Repository, models: Path) -> None:
    folder = repository(mlp=models / "mlp.onnx", bad=models / "corrupt.onnx")
    with headrace.Server(folder, strict_readiness=True, **ANY) as server:
        assert not server.ready
        assert {model.name: bool(model.reason) for model in server.models} == {"mlp": False, "bad": True}
        ask(at(server))
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/health/ready", timeout=SECONDS)


PLAN = """
    platform: "tensorrt_plan" max_batch_size: 8
    input { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } output { name: "y" data_type: TYPE_FP32 dims: [ 10 ] }
"""


def test_a_plan_is_not_served_elsewhere_than_on_its_gpu(repository: Repository, models: Path) -> None:
    folder = repository(mlp=models / "mlp.onnx")
    (folder / "engine" / "1").mkdir(parents=True)
    (folder / "engine" / "1" / "model.plan").write_bytes(b"no engine of this machine")
    (folder / "engine" / "config.pbtxt").write_text(PLAN)
    with headrace.Server(folder, **ANY) as server:
        reasons = {model.name: model.reason for model in server.models}
        assert reasons["mlp"] == ""
        assert "engine/1/model.plan is a TensorRT engine, which runs on a GPU" in reasons["engine"]
        ask(at(server))
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/models/engine/ready", timeout=SECONDS)
        assert raised.value.code == 503
        assert "cannot be run here: TensorRT: " in raised.value.read().decode()


def test_a_device_that_is_not_there_is_left_out_with_the_reason(repository: Repository, models: Path) -> None:
    folder = repository(mlp=models / "mlp.onnx")
    # A GPU number that no machine has.
    (folder / "mlp" / "config.pbtxt").write_text(
        "instance_group [ { kind: KIND_GPU gpus: [ 999 ] }, { kind: KIND_CPU } ]"
    )
    with headrace.Server(folder, **ANY) as server:
        ask(at(server))
        schedule = when_running(f"127.0.0.1:{server.http_port}", "mlp", 0)
        (place,) = schedule["devices"]
        assert (place["device"], place["provider"]) == ("cpu", "cpu")
        assert place["note"].startswith("CUDA: ")
        assert place["batches"]["count"] == schedule["batches"]["count"] == 1
    with (
        pytest.raises(StartError, match="is not to run elsewhere: CUDA: "),
        headrace.Server(folder, strict_device=True, **ANY),
    ):
        pass
