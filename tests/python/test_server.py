"""The composition: a server in this process on the echo backend, from its start to its end."""

import asyncio
import logging
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

import headrace
from headrace import _proto
from headrace.config import ConfigError
from headrace.errors import StartError

INFERENCE = "/inference.GRPCInferenceService/"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    put(tmp_path, "echo", "input x FP32 [-1,2]\n", 'backend: "echo" max_batch_size: 8 dynamic_batching {}')
    return tmp_path


def put(root: Path, name: str, model: str, config: str) -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(config)
    (folder / "model.echo").write_text(model)


def server(repository: Path, **options: Any) -> headrace.Server:
    return headrace.Server(repository, **{"grpc_port": 0, "http_port": 0, **options})


def open_channel(running: headrace.Server) -> grpc.Channel:
    """A connection of its own: grpc else shares one between channels to one address."""
    return grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}", [("grpc.use_local_subchannel_pool", 1)])


def caller(channel: grpc.Channel, name: str, path: str = "") -> Any:
    method = _proto.METHODS[path or INFERENCE + name]
    return channel.unary_unary(method.path, type(method.request()).SerializeToString, method.response.FromString)


def infer_request(model: str, value: float) -> Any:
    request = _proto.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([value, 0.0])
    return request


def http(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("io_threads", [1, 3])
def test_all_calls_on_each_number_of_loops(repository: Path, io_threads: int) -> None:
    with server(repository, io_threads=io_threads) as running:
        assert running.ready
        assert http(running.http_port, "/v2/health/live") == http(running.http_port, "/v2/health/ready") == 200
        for _ in range(2 * io_threads):  # a connection each, so that every loop gets some
            with open_channel(running) as channel:
                assert caller(channel, "ServerReady")(_proto.ServerReadyRequest(), timeout=10).ready
                whole = caller(channel, "ModelConfig")(_proto.ModelConfigRequest(name="echo"), timeout=10).config
                assert (whole.backend, whole.max_batch_size) == ("echo", 8)
                health = caller(channel, "", "/grpc.health.v1.Health/Check")
                assert health(_proto.HealthCheckRequest(), timeout=10).status == 1
                answer = caller(channel, "ModelInfer")(infer_request("echo", 1.5), timeout=10)
                assert answer.raw_output_contents[0][:4] == b"\x00\x00\xc0\x3f"
                stats = caller(channel, "ModelStatistics")(_proto.ModelStatisticsRequest(name="echo"), timeout=10)
                assert stats.model_stats[0].inference_count >= 1


def test_statuses_reach_the_caller(repository: Path) -> None:
    put(repository, "broken", "nonsense\n", 'backend: "echo"')
    with (
        server(repository, strict_readiness=True) as running,
        open_channel(running) as channel,
    ):
        assert not running.ready
        assert http(running.http_port, "/v2/health/ready") == 503
        for name, code in (("broken", grpc.StatusCode.UNAVAILABLE), ("unknown", grpc.StatusCode.NOT_FOUND)):
            with pytest.raises(grpc.RpcError) as raised:
                caller(channel, "ModelMetadata")(_proto.ModelMetadataRequest(name=name), timeout=10)
            assert raised.value.code() is code
            assert name in str(raised.value.details())
        reasons = {model.name: model.reason for model in running.models}
        assert reasons["echo"] == ""
        assert reasons["broken"] != ""


def test_the_async_form_and_a_second_start(repository: Path) -> None:
    async def work() -> None:
        async with server(repository) as running:
            assert running.ready
            with pytest.raises(StartError, match="runs already"):
                running.start()
        assert running.stop()  # again, and no harm

    asyncio.run(work())


def test_a_port_that_is_taken(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"Port {port} of 127\.0\.0\.1 is taken: .*--grpc-port"):
            server(repository, grpc_port=port).start()
        with pytest.raises(StartError, match=r"--http-port"):
            server(repository, http_port=port).start()


def test_what_cannot_start_leaves_nothing_behind(tmp_path: Path, repository: Path) -> None:
    before = set(ports_listening())
    with pytest.raises(StartError, match="has no model in it"):
        server(tmp_path / "echo" / "1").start()
    assert set(ports_listening()) == before
    with pytest.raises(ConfigError, match="'grpc_prot' \\(argument\\)"):
        headrace.Server(repository, grpc_prot=1)
    with pytest.raises(StartError, match="does not run"):
        _ = server(repository).grpc_port


def ports_listening() -> list[str]:
    """Local addresses of this machine's listening sockets that belong to this process."""
    mine = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            mine.add(str(link.readlink()))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in mine]


def hold(repository: Path) -> None:
    put(repository, "held", "input x FP32 [-1,2]\nhold_on 7\n", 'backend: "echo" max_batch_size: 8')


def test_a_call_that_does_not_end_is_told_so(repository: Path) -> None:
    hold(repository)
    running = server(repository, drain_seconds=0.2).start()
    with open_channel(running) as channel, ThreadPoolExecutor(1) as pool:
        call = pool.submit(caller(channel, "ModelInfer"), infer_request("held", 7.0), timeout=30)
        wait_until_running(running, "held")
        assert running.stop() is False
        error = call.exception(timeout=10)
        assert isinstance(error, grpc.RpcError)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "--drain-seconds" in str(error.details())


def wait_until_running(running: headrace.Server, model: str) -> None:
    """Until a lane runs a request of `model`."""
    instance = running._instance
    assert instance is not None
    deadline = time.monotonic() + 60
    while not any(row["name"] == model and row["running"] for row in instance.engine.snapshot()["models"]):
        assert time.monotonic() < deadline


def test_a_drain_is_not_ready_and_serves_on(repository: Path) -> None:
    running = server(repository, drain_delay=3.0).start()
    with open_channel(running) as channel, ThreadPoolExecutor(1) as pool:
        ready = caller(channel, "ServerReady")
        assert ready(_proto.ServerReadyRequest(), timeout=10).ready
        stopping = pool.submit(running.stop)
        while ready(_proto.ServerReadyRequest(), timeout=10).ready:
            assert not stopping.done()
        assert caller(channel, "ModelInfer")(infer_request("echo", 2.0), timeout=10).outputs[0].name == "x"
        assert caller(channel, "ServerLive")(_proto.ServerLiveRequest(), timeout=10).live
        assert stopping.result(timeout=30) is True


def test_too_many_connections(repository: Path) -> None:
    with server(repository, max_connections=1) as running, open_channel(running) as channel:
        assert caller(channel, "ServerLive")(_proto.ServerLiveRequest(), timeout=10).live
        assert http(running.http_port, "/v2/health/live") == 503
        with open_channel(running) as refused, pytest.raises(grpc.RpcError) as raised:
            caller(refused, "ServerLive")(_proto.ServerLiveRequest(), timeout=5)
        assert raised.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert caller(channel, "ServerLive")(_proto.ServerLiveRequest(), timeout=10).live


def test_the_access_log(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    request = infer_request("echo", 1.0)
    request.id = "a b\nc"
    with (
        caplog.at_level(logging.INFO, "headrace.access"),
        server(repository, access_log=True) as running,
        open_channel(running) as channel,
    ):
        caller(channel, "ModelInfer")(request, timeout=10)
    lines = [record.getMessage() for record in caplog.records if record.name == "headrace.access"]
    assert len(lines) == 1
    assert "model=echo version=1" in lines[0]
    assert 'id="a b\\nc" code=0' in lines[0]
