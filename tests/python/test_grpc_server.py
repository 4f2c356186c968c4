"""The gRPC door: protobuf in and out, and the glue between a transport and the core's connection."""

import asyncio
import logging
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace import _proto
from headrace.engine import CALL, END, HAS_CALLS, HAS_CANCELLED, HAS_OUTPUT, MESSAGE, OPEN, WANTS_CLOSE
from headrace.grpc_server import GrpcProtocol
from python.grpc_rig import Rig, run

INFERENCE = "/inference.GRPCInferenceService/"


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


def test_what_is_much_is_written_in_several_turns_and_the_end_comes_behind_it() -> None:
    async def work() -> None:
        rig = Rig()
        rig.connection.outputs = [[b"one"], [b"two"], [b"three"], [b"four"], [b"five"], None]
        rig.protocol.act(HAS_OUTPUT | WANTS_CLOSE)
        assert rig.transport.written == [b"one", b"two"]
        await asyncio.sleep(0)
        assert rig.transport.written == [b"one", b"two", b"three", b"four"]
        await asyncio.sleep(0)
        assert rig.transport.written == [b"one", b"two", b"three", b"four", b"five", "eof"]

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

        async def answer(_path: str, _message: bytes) -> bytes:
            entered.set()
            try:
                await held.wait()
            finally:
                ended.set()
            return b""

        rig.protocol._answerer = cast(Any, SimpleNamespace(answer=answer, home=asyncio.get_running_loop()))
        for call in (1, 2):
            rig.connection.calls.append((call, CALL, "/x", [], b""))
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

            async def answer(path: str, message: bytes) -> bytes:
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


# --- Calls of many messages

REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
LIST = _proto.METHODS[REFLECTION].request(list_services="*").SerializeToString()


class Talk(Rig):
    """A rig with one call of many messages open."""

    def __init__(self) -> None:
        super().__init__()
        self.event(OPEN, REFLECTION)

    def event(self, kind: int, path: str = "", message: bytes = b"") -> None:
        self.connection.calls.append((5, kind, path, [], message))
        self.protocol.act(HAS_CALLS)

    async def said(self) -> list[Any]:
        await self.connection.replied.wait()
        self.connection.replied.clear()
        said, self.connection.said = self.connection.said, []
        return [word[:2] if isinstance(word, tuple) else word for word in said]


def test_a_stream_is_answered_message_by_message_and_ends() -> None:
    async def work() -> None:
        talk = Talk()
        talk.event(MESSAGE, message=LIST)
        assert await talk.said() == [("release", 5), ("send", 5)]
        talk.event(MESSAGE, message=LIST)
        talk.event(END)
        await talk.said()
        assert await talk.said() == [("finish", 5)]

    run(work())


def test_a_stream_that_fails() -> None:
    async def work() -> None:
        talk = Talk()
        talk.event(MESSAGE, message=b"\xff")
        assert await talk.said() == [("release", 5), ("fail", 5)]
        talk.event(MESSAGE, message=LIST)  # what still comes finds nobody
        talk.event(END)
        assert talk.connection.said == []

    run(work())


def test_a_stream_whose_caller_goes_or_whose_connection_is_lost_ends_without_a_word() -> None:
    async def work() -> None:
        for lost in (False, True):
            talk = Talk()
            (task,) = (task for _, task in talk.protocol._streams.values())
            if lost:
                talk.protocol.connection_lost(None)
            else:
                talk.connection.cancelled = [5]
                talk.protocol.act(HAS_CANCELLED)
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            assert talk.connection.said == (["lost"] if lost else [])

    run(work())


def test_a_drain_ends_streams() -> None:
    async def work() -> None:
        talk = Talk()
        await asyncio.sleep(0)
        talk.protocol.shutdown_final()
        assert await talk.said() == ["final", ("fail", 5)]

    run(work())


@pytest.mark.parametrize("paused", [True, False])
def test_a_stream_waits_while_too_much_output_does(paused: bool) -> None:
    async def work() -> None:
        talk = Talk()
        if paused:
            talk.protocol.pause_writing()
            talk.connection.said.clear()
        else:
            talk.connection.output_waiting = (1 << 20) + 1
        for _ in range(2):
            talk.event(MESSAGE, message=LIST)
        assert await talk.said() == [("release", 5), ("send", 5)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert talk.connection.said == []  # the second request is not even taken up
        if paused:
            talk.protocol.resume_writing()
            talk.connection.said.clear()
        else:
            talk.protocol.act(HAS_OUTPUT)  # something was written, and still too much waits
            for _ in range(5):
                await asyncio.sleep(0)
            assert talk.connection.said == []
            talk.connection.output_waiting = 0
            talk.protocol.act(HAS_OUTPUT)
        assert await talk.said() == [("release", 5), ("send", 5)]

    run(work())
