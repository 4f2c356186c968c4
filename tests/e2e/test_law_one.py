"""A ModelInfer, or a message of a ModelStreamInfer, makes no Python object of its own: the loop's thread sees as many
Python events in a step for 10 as for 1,000, and a step is for hundreds."""

import collections
import fcntl
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

import headrace
from e2e.h2_peer import INFER, LIVE, STREAM_INFER, Answer, Peer, infer, message
from headrace.engine import LoopPort
from headrace.grpc_server import GrpcProtocol

SECONDS = 60.0
ANSWERS_A_STEP = 256
BYTES_A_STEP = 16 << 10  # of a read, at the least: what takes long is looked at in several steps


class GatheringPeer(Peer):
    """A client that can hold back what it writes, to send it as one."""

    held: bytearray | None = None

    def write(self, data: bytes) -> None:
        if self.held is None:
            super().write(data)
        else:
            self.held += data


@pytest.fixture
def server(tmp_path: Path) -> Iterator[headrace.Server]:
    """The reference backend, so that messages are small and a thousand of them fit into one read."""
    (tmp_path / "e/1").mkdir(parents=True)
    (tmp_path / "e/config.pbtxt").write_text('backend: "echo" max_batch_size: 32 dynamic_batching { }')
    (tmp_path / "e/1/model.echo").write_text("input x UINT8 [-1,1]\n")
    with headrace.Server(tmp_path, grpc_port=0, http_port=0, lanes=1) as running:
        yield running


Step = collections.Counter[tuple[str, str]]  # (event, name) of one entry into Python


class Census:
    """Counts the events of one thread by profiler, from the read of the calls to the write of their answers."""

    def __init__(self, server: headrace.Server, protocol: GrpcProtocol) -> None:
        instance: Any = server._instance
        self._engine = instance.engine.core
        self._protocol = protocol
        self.steps: list[Step] = []  # the read first
        self.reads: list[int] = []
        self.done = threading.Event()
        self._within: CodeType | None = None  # a step that is none of ours, until it returns

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        """sys.setprofile's. What it calls itself is not profiled."""
        code = frame.f_code
        if self._within is not None:
            if code is self._within and event == "return":
                self._within = None
            return
        if code is LoopPort._on_timer.__code__:  # comes when its time comes
            self._within = code
            return
        is_read, is_ready = code is GrpcProtocol.buffer_updated.__code__, code is LoopPort._ready.__code__
        if event == "call" and (is_read or is_ready):
            self.steps.append(collections.Counter())
        if event == "call" and is_read:
            self.reads.append(frame.f_locals["nbytes"])
        if self.steps:
            function = code.co_qualname if event in ("call", "return") else getattr(argument, "__qualname__", "")
            self.steps[-1][event, function] += 1
        if event == "return" and is_read:
            # The answers then come back as one: how many wake-ups there are is a matter of timing otherwise.
            assert self._engine.drain(SECONDS)
        if event == "return" and is_ready and self._protocol.open_calls == 0:
            sys.setprofile(None)
            self.done.set()


BODY = infer("e", x=np.array([[7]], np.uint8))


def unary(peer: Peer, calls: int) -> list[int]:
    """So many ModelInfer calls."""
    return [peer.call(INFER, BODY) for _ in range(calls)]


def streamed(peer: Peer, messages: int) -> list[int]:
    """One ModelStreamInfer of so many messages."""
    stream = peer.begin(STREAM_INFER)
    peer.send(stream, message(BODY) * messages, end=True)
    return [stream]


def census(
    server: headrace.Server, peer: GatheringPeer, send: Callable[[Peer, int], list[int]], count: int
) -> tuple[Census, list[Answer]]:
    """The events that so many requests make, which come in one read; and their answers."""
    instance: Any = server._instance
    seat = instance._seats[0]
    (protocol,) = seat._protocols
    peer.held = bytearray()
    streams = send(peer, count)
    data, peer.held = bytes(peer.held), None
    blocked, go_on = threading.Event(), threading.Event()
    counted = Census(server, protocol)

    def gate() -> None:
        blocked.set()
        go_on.wait(SECONDS)
        sys.setprofile(counted)

    seat.loop.call_soon_threadsafe(gate)
    assert blocked.wait(SECONDS)
    peer.write(data)
    plug = protocol._transport.get_extra_info("socket").fileno()
    deadline = time.monotonic() + SECONDS
    while (there := struct.unpack("i", fcntl.ioctl(plug, termios.FIONREAD, b"\0" * 4))[0]) < len(data):
        assert time.monotonic() < deadline, f"{there} of {len(data)} bytes have come to the server's socket"
    go_on.set()
    assert counted.done.wait(SECONDS)
    assert counted.reads == [len(data)]
    return counted, [peer.wait(stream) for stream in streams]


def test_ten_calls_and_a_thousand_make_the_same_python_events(server: headrace.Server) -> None:
    with GatheringPeer(f"127.0.0.1:{server.grpc_port}") as peer:
        assert peer.ask(LIVE, b"").code == 0
        assert peer.ask(INFER, infer("e", x=np.array([[7]], np.uint8))).code == 0
        for calls in (10, 1000, 10, 1000):
            counted, answers = census(server, peer, unary, calls)
            assert [answer.code for answer in answers] == [0] * calls
            assert len({bytes(answer.body) for answer in answers}) == 1
            read, *steps = counted.steps
            assert len(steps) <= -(-calls // ANSWERS_A_STEP) + counted.reads[0] // BYTES_A_STEP
            assert read.total() < 20
            assert all(step.total() < 50 for step in steps)
            # What the peer has sent meanwhile (it says what it has read) is not part of the next count.
            assert peer.ask(LIVE, b"").code == 0


def test_ten_messages_of_a_stream_and_many_make_the_same_python_events(server: headrace.Server) -> None:
    with GatheringPeer(f"127.0.0.1:{server.grpc_port}") as peer:
        assert peer.ask(LIVE, b"").code == 0
        assert peer.ask(INFER, BODY).code == 0
        counts = []
        for messages in (10, 250, 10, 250):  # as many as a stream may have in flight, so that one step answers all
            counted, (answer,) = census(server, peer, streamed, messages)
            assert answer.code == 0
            assert len(answer.messages) == messages
            assert len(set(answer.messages)) == 1
            read, write = counted.steps
            assert read.total() < 10
            assert write.total() < 50
            counts.append((read, write))
            assert peer.ask(LIVE, b"").code == 0
        assert all(count == counts[0] for count in counts)


def test_a_call_that_python_answers_is_seen(server: headrace.Server) -> None:
    """The measure can fail: ten ServerLive make ten times the events of one."""
    with GatheringPeer(f"127.0.0.1:{server.grpc_port}") as peer:
        assert peer.ask(LIVE, b"").code == 0
        instance: Any = server._instance
        loop = instance._seats[0].loop
        totals = []
        for calls in (1, 10):
            counted: collections.Counter[str] = collections.Counter()

            def profile(frame: FrameType, event: str, _: object, seen: collections.Counter[str] = counted) -> None:
                seen[f"{event} {frame.f_code.co_qualname}"] += 1

            loop.call_soon_threadsafe(sys.setprofile, profile)
            peer.held = bytearray()
            streams = [peer.call(LIVE, b"") for _ in range(calls)]
            data, peer.held = bytes(peer.held), None
            peer.write(data)
            for stream in streams:
                assert peer.wait(stream).code == 0
            loop.call_soon_threadsafe(sys.setprofile, None)
            totals.append(counted["call Answerer.answer"])
        assert totals == [1, 10]
