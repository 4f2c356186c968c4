"""The gRPC door: protobuf in and out, and the glue between a transport and the core's connection."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace import _proto
from headrace.engine import HAS_CALLS, HAS_CANCELLED, HAS_OUTPUT, WANTS_CLOSE
from headrace.errors import InvalidArgument, NotFound
from headrace.grpc_server import Answerer, GrpcProtocol

INFERENCE = "/inference.GRPCInferenceService/"
X = {"name": "x", "datatype": "FP32", "shape": [-1, 3], "optional": False}


def duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


STATISTICS = {
    "name": "m",
    "version": 3,
    "last_inference_ms": 1,
    "inference_count": 8,
    "execution_count": 2,
    "success": duration(5, 50),
    "fail": duration(1, 10),
    "cancel": duration(2, 20),
    "reject": duration(4, 40),
    "queue": duration(5, 6),
    "compute_input": duration(2, 7),
    "compute_infer": duration(2, 8),
    "compute_output": duration(2, 9),
    "batch_stats": [
        {
            "batch_size": 4,
            "compute_input": duration(2, 7),
            "compute_infer": duration(2, 8),
            "compute_output": duration(2, 9),
        }
    ],
    "queued": 0,
    "queued_bytes": 0,
    "running": 0,
}


class FakeService:
    """Fixed answers; `gate` holds model_config's caller in Python, `model_ready` fails as it is told."""

    live, ready, version = True, False, "1.2.3"

    def health(self, service: str) -> bool:
        if service == "other":
            raise NotFound("service 'other' is not known")
        return service == ""

    def model_ready(self, name: str, version: str) -> bool:
        if name == "broken":
            raise ZeroDivisionError("secret")
        return (name, version) == ("m", "3")

    def model_metadata(self, name: str, version: str) -> Any:
        return SimpleNamespace(name=name, versions=["2", "3"], platform="onnxruntime_onnx", inputs=[X], outputs=[X])

    def model_config(self, name: str, version: str) -> Any:
        return _proto.ModelConfig(name=name, max_batch_size=4)

    def model_statistics(self, name: str, version: str) -> Any:
        return [STATISTICS]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def ask(path: str, request: Any) -> Any:
    async def work() -> bytes:
        answerer = Answerer(cast(Any, FakeService()), asyncio.get_running_loop())
        return await answerer.answer(path, request.SerializeToString())

    return _proto.METHODS[path].response.FromString(run(work()))


def test_server_calls() -> None:
    assert ask(INFERENCE + "ServerLive", _proto.ServerLiveRequest()).live is True
    assert ask(INFERENCE + "ServerReady", _proto.ServerReadyRequest()).ready is False
    about = ask(INFERENCE + "ServerMetadata", _proto.ServerMetadataRequest())
    assert (about.name, about.version) == ("headrace", "1.2.3")
    assert list(about.extensions) == ["model_configuration", "statistics"]


def test_model_calls() -> None:
    assert ask(INFERENCE + "ModelReady", _proto.ModelReadyRequest(name="m", version="3")).ready is True
    assert ask(INFERENCE + "ModelReady", _proto.ModelReadyRequest(name="m")).ready is False
    about = ask(INFERENCE + "ModelMetadata", _proto.ModelMetadataRequest(name="m"))
    assert (about.name, list(about.versions), about.platform) == ("m", ["2", "3"], "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in about.inputs] == [("x", "FP32", [-1, 3])]
    assert ask(INFERENCE + "ModelConfig", _proto.ModelConfigRequest(name="m")).config.max_batch_size == 4


def test_statistics() -> None:
    (stats,) = ask(INFERENCE + "ModelStatistics", _proto.ModelStatisticsRequest()).model_stats
    assert (stats.name, stats.version, stats.inference_count, stats.execution_count) == ("m", "3", 8, 2)
    assert (stats.inference_stats.success.count, stats.inference_stats.success.ns) == (5, 50)
    assert (stats.inference_stats.fail.count, stats.inference_stats.fail.ns) == (7, 70)  # refused and cancelled too
    assert (stats.inference_stats.queue.ns, stats.inference_stats.compute_infer.ns) == (6, 8)
    assert (stats.batch_stats[0].batch_size, stats.batch_stats[0].compute_output.ns) == (4, 9)


def test_health() -> None:
    path = "/grpc.health.v1.Health/Check"
    status = _proto.HealthCheckResponse
    assert ask(path, _proto.HealthCheckRequest()).status == status.SERVING
    assert ask(path, _proto.HealthCheckRequest(service="x")).status == status.NOT_SERVING
    with pytest.raises(NotFound):
        ask(path, _proto.HealthCheckRequest(service="other"))


@pytest.mark.parametrize("message", [None, b"\xff\xff\xff"])
def test_a_request_that_is_none(message: bytes | None) -> None:
    async def work() -> None:
        answerer = Answerer(cast(Any, FakeService()), asyncio.get_running_loop())
        with pytest.raises(InvalidArgument, match="ModelReady"):
            await answerer.answer(INFERENCE + "ModelReady", message)

    run(work())


# --- The glue


class FakeConnection:
    """The core's connection, scripted: what it is told is in `said`."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.outputs: list[list[bytes] | None] = []
        self.calls: list[Any] = []
        self.cancelled: list[int] = []
        self.on_receive = 0
        self.on_resume = 0
        self.open_calls = 0
        self.replied = asyncio.Event()
        self.buffer = memoryview(bytearray(16))

    def get_buffer(self, _hint: int) -> memoryview:
        return self.buffer

    def receive(self, nbytes: int) -> int:
        self.said.append(("receive", nbytes))
        return self.on_receive

    def receive_eof(self) -> int:
        self.said.append("eof")
        return 0

    def take_output(self) -> list[bytes] | None:
        return self.outputs.pop(0) if self.outputs else []

    def pause_writing(self) -> None:
        self.said.append("pause")

    def resume_writing(self) -> int:
        self.said.append("resume")
        return self.on_resume

    def take_calls(self) -> list[Any]:
        calls, self.calls = self.calls, []
        return calls

    def take_cancelled(self) -> list[int]:
        return self.cancelled

    def reply(self, call: int, message: bytes) -> int:
        self.said.append(("reply", call, message))
        self.replied.set()
        return 0

    def fail(self, call: int, code: int, message: str, _trailers: Any) -> int:
        self.said.append(("fail", call, code, message))
        self.replied.set()
        return 0

    def shutdown_notice(self) -> int:
        self.said.append("notice")
        return HAS_OUTPUT

    def shutdown_final(self) -> int:
        self.said.append("final")
        return WANTS_CLOSE

    def abort_calls(self, code: int, message: str) -> int:
        self.said.append(("abort", code, message))
        return 0

    def lost(self) -> None:
        self.said.append("lost")


class FakeTransport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.waiting: list[int] = []  # what get_write_buffer_size says, one after the other

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writelines(self, chunks: list[bytes]) -> None:
        self.written.append(tuple(chunks))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.written.append("eof")

    def get_write_buffer_size(self) -> int:
        return self.waiting.pop(0) if self.waiting else 0

    def close(self) -> None:
        self.written.append("close")

    def abort(self) -> None:
        self.written.append("abort")


class Rig:
    """A protocol between a scripted connection and a transport that keeps what is written."""

    def __init__(self, home: asyncio.AbstractEventLoop | None = None, *, refused: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.connection = FakeConnection()
        self.transport = FakeTransport()
        self.closed: list[Any] = []
        self.armed = 0
        self.disconnected: list[int] = []
        port = SimpleNamespace(
            loop=loop,
            write_stall_seconds=0.01,
            connect=lambda _door, _peer: (7, self.connection),
            disconnect=self.disconnected.append,
            arm=self._arm,
        )
        answerer = Answerer(cast(Any, FakeService()), home or loop)
        self.protocol = GrpcProtocol(cast(Any, port), answerer, "peer:1", self.closed.append, refused=refused)
        self.protocol.connection_made(cast(Any, self.transport))

    def _arm(self) -> None:
        self.armed += 1

    async def call(self, path: str, message: bytes | None, call_id: int = 1) -> Any:
        self.connection.calls.append((call_id, path, [], message))
        self.protocol.act(HAS_CALLS)
        await self.connection.replied.wait()
        self.connection.replied.clear()
        return self.connection.said.pop()


def test_a_read_goes_to_the_core_and_its_output_to_the_transport() -> None:
    async def work() -> None:
        rig = Rig()
        assert rig.protocol.get_buffer(-1) is rig.connection.buffer
        rig.protocol.buffer_updated(5)
        assert rig.connection.said == [("receive", 5)]
        assert rig.transport.written == []
        rig.connection.on_receive = HAS_OUTPUT
        rig.connection.outputs = [[b"one"], [b"two", b"three"]]
        rig.protocol.buffer_updated(6)
        assert rig.transport.written == [b"one", (b"two", b"three")]

    run(work())


def test_a_transport_that_is_full_is_not_written_to() -> None:
    async def work() -> None:
        rig = Rig()
        rig.protocol.pause_writing()
        rig.connection.outputs = [[b"one"]]
        rig.protocol.act(HAS_OUTPUT | WANTS_CLOSE)
        assert rig.transport.written == []
        rig.connection.on_resume = HAS_OUTPUT | WANTS_CLOSE
        rig.protocol.resume_writing()
        assert rig.transport.written == [b"one", "eof"]
        assert rig.connection.said == ["pause", "resume"]

    run(work())


def test_the_end_shuts_our_side_down_and_waits_for_the_peers() -> None:
    async def work() -> None:
        rig = Rig()
        rig.protocol.act(WANTS_CLOSE)
        rig.protocol.act(WANTS_CLOSE)
        assert rig.transport.written == ["eof"]
        rig.protocol.buffer_updated(3)  # what still comes is dropped
        assert rig.connection.said == []
        assert rig.protocol.eof_received() is False
        rig.protocol.connection_lost(None)
        rig.protocol.connection_lost(None)
        assert rig.connection.said == ["lost"]
        assert rig.closed == [rig.protocol]
        assert rig.disconnected == [7]

    run(work())


def test_a_connection_ends_behind_the_last_that_it_writes() -> None:
    """Writing a GOAWAY is what ends it: nobody else says that it is to be closed."""

    async def work() -> None:
        rig = Rig()
        rig.connection.outputs = [[b"goaway"], None]
        rig.protocol.act(HAS_OUTPUT)
        assert rig.transport.written == [b"goaway", "eof"]

    run(work())


def test_a_peer_that_has_shut_its_side_is_answered_and_then_closed() -> None:
    async def work() -> None:
        rig = Rig()
        assert rig.protocol.eof_received() is True  # open calls are answered first
        assert rig.connection.said == ["eof"]
        rig.connection.outputs = [[b"answer"]]
        rig.protocol.act(HAS_OUTPUT | WANTS_CLOSE)
        assert rig.transport.written == [b"answer", "close"]

    run(work())


def test_a_peer_that_reads_nothing_of_the_last_answer_is_cut_off() -> None:
    async def work() -> None:
        rig = Rig()
        cut = asyncio.Event()
        rig.transport.abort = cut.set  # type: ignore[method-assign]
        rig.transport.waiting = [10, 9, 9, 5]  # it reads, and gets more time; then it does not
        rig.protocol.act(WANTS_CLOSE)
        await cut.wait()
        assert rig.transport.waiting == [5]

    run(work())


def test_a_peer_that_reads_nothing_at_all_is_cut_off() -> None:
    async def work() -> None:
        rig = Rig()
        cut = asyncio.Event()
        rig.transport.abort = cut.set  # type: ignore[method-assign]
        rig.protocol.pause_writing()
        rig.protocol.act(WANTS_CLOSE)
        await cut.wait()
        assert rig.transport.written == []

    run(work())


def test_a_call_is_answered() -> None:
    async def work() -> None:
        rig = Rig()
        assert await rig.call(INFERENCE + "ServerLive", b"", 3) == ("reply", 3, b"\x08\x01")
        assert rig.armed == 1  # it may have brought a deadline

    run(work())


def test_a_status_and_a_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        rig = Rig()
        request = _proto.HealthCheckRequest(service="other").SerializeToString()
        assert await rig.call("/grpc.health.v1.Health/Check", request) == ("fail", 1, 5, "service 'other' is not known")
        request = _proto.ModelReadyRequest(name="broken").SerializeToString()
        _, _, code, message = await rig.call(INFERENCE + "ModelReady", request)
        assert code == 13
        assert "secret" not in message

    with caplog.at_level(logging.ERROR, "headrace.grpc"):
        run(work())
    assert "ZeroDivisionError" in caplog.text


def test_a_caller_that_goes_ends_its_task() -> None:
    async def work() -> None:
        rig = Rig()
        held, entered, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def answer(_path: str, _message: bytes | None) -> bytes:
            entered.set()
            try:
                await held.wait()
            finally:
                ended.set()
            return b""

        rig.protocol._answerer = cast(Any, SimpleNamespace(answer=answer, home=asyncio.get_running_loop()))
        for call in (1, 2):
            rig.connection.calls.append((call, "/x", [], b""))
            rig.protocol.act(HAS_CALLS)
            await entered.wait()
            entered.clear()
            if call == 1:
                rig.connection.cancelled = [1]
                rig.protocol.act(HAS_CANCELLED)
            else:
                rig.protocol.connection_lost(None)
            await ended.wait()
            ended.clear()
        await asyncio.sleep(0)
        assert rig.connection.said == ["lost"]

    run(work())


def test_another_loop_hands_over_to_the_home_loop_and_takes_the_reply_back() -> None:
    home = asyncio.new_event_loop()
    thread = threading.Thread(target=home.run_forever)
    thread.start()
    try:

        async def work() -> None:
            rig = Rig(home)
            mine = threading.current_thread()
            where: list[threading.Thread] = []
            inner = rig.protocol._answerer.answer
            reply = rig.connection.reply

            async def answer(path: str, message: bytes | None) -> bytes:
                where.append(threading.current_thread())
                return await inner(path, message)

            def replied(call: int, message: bytes) -> int:
                where.append(threading.current_thread())
                return reply(call, message)

            rig.protocol._answerer.answer = answer  # type: ignore[method-assign]
            rig.connection.reply = replied  # type: ignore[method-assign]
            assert (await rig.call(INFERENCE + "ServerLive", b""))[0] == "reply"
            assert where == [thread, mine]

        run(work())
    finally:
        home.call_soon_threadsafe(home.stop)
        thread.join()
        home.close()


@pytest.mark.parametrize(
    ("tell", "said"),
    [
        (lambda p: p.shutdown_notice(), ["notice"]),
        (lambda p: p.shutdown_final(), ["final"]),
        (lambda p: p.abort_calls("no time"), [("abort", 14, "no time")]),
    ],
)
def test_shutting_down(tell: Callable[[GrpcProtocol], None], said: list[Any]) -> None:
    async def work() -> None:
        rig = Rig()
        tell(rig.protocol)
        assert rig.connection.said == said
        rig.connection.open_calls = 3
        assert rig.protocol.open_calls == 3
        rig.protocol.connection_lost(None)
        tell(rig.protocol)  # too late, and no harm
        assert rig.connection.said == [*said, "lost"]
        assert rig.protocol.open_calls == 0

    run(work())


def test_one_connection_too_many_gets_a_goaway() -> None:
    async def work() -> None:
        rig = Rig(refused=True)
        assert rig.connection.said == ["notice", "final"]
        assert rig.transport.written == ["eof"]

    run(work())
