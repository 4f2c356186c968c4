"""SIGTERM, as a client sees it: every call that was accepted gets its answer, whatever is going on."""

import contextlib
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from e2e.h2_peer import (
    ENDLESS,
    INFER,
    LONG,
    PING,
    READY,
    Answer,
    Peer,
    add_sub,
    frame,
    infer,
    slow,
)
from server_process import ServerProcess

Serve = Callable[..., ServerProcess]
MakeRepository = Callable[..., Path]
ALL_STREAMS = 0x7FFFFFFF  # of the first GOAWAY: nothing is refused yet


@pytest.fixture
def models_to_drain(repository: MakeRepository, models: Path) -> Path:
    return repository(**{name: models / f"{name}.onnx" for name in ("add_sub", "slow", "dynamic_inner")})


def sum_of(answer: Answer) -> np.ndarray:
    response = service_pb2.ModelInferResponse.FromString(answer.messages[0])
    return np.frombuffer(response.raw_output_contents[0], np.int32)


def is_ready(server: ServerProcess) -> bool:
    """On a connection of its own, so that accepting is tried too."""
    with Peer(server.grpc) as peer:
        return bool(service_pb2.ServerReadyResponse.FromString(peer.ask(READY, b"").messages[0]).ready)


def last_stream(peer: Peer) -> int | None:
    """Of the final GOAWAY, if it has come."""
    return next((last for last, _, _ in peer.goaways if last != ALL_STREAMS), None)


def check_ended_well(peer: Peer) -> int:
    """Both GOAWAYs, then an end without a reset; each stream that was accepted has its answer, and no other has one.
    Returns how many were answered."""
    assert [code for _, code, _ in peer.goaways] == [0, 0], peer.goaways
    assert peer.goaways[0][0] == ALL_STREAMS
    assert peer.closed
    assert not peer.was_reset, "the connection was reset: answers may have been lost"
    last = last_stream(peer)
    assert last is not None
    accepted = {stream: answer for stream, answer in peer.answers.items() if stream <= last}
    missing = [stream for stream, answer in accepted.items() if not answer.over]
    assert not missing, f"{len(missing)} of {len(accepted)} accepted calls have no answer; the first is {missing[0]}"
    wrong = [(stream, answer.code, answer.text) for stream, answer in accepted.items() if answer.code != 0]
    assert not wrong, wrong[:3]
    assert not [stream for stream, answer in peer.answers.items() if stream > last and answer.fields]
    return len(accepted)


class Caller(threading.Thread):
    """Keeps 16 calls in flight on one connection until the final GOAWAY, and reads to the end."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.peer = Peer(address)
        self.answered = 0
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # told by the test, in its own thread
            self.failed = error

    def _call(self) -> None:
        peer, count = self.peer, 0
        deadline = time.monotonic() + LONG
        while not peer.closed:
            self.answered = sum(answer.over for answer in peer.answers.values())
            while len(peer.answers) - self.answered < 16 and last_stream(peer) is None and not peer.closed:
                count += 1
                peer.call(INFER, slow(20) if count % 50 == 0 else add_sub())
            assert time.monotonic() < deadline, "the connection did not end"
            with contextlib.suppress(TimeoutError):
                peer.pump(1.0)


@pytest.mark.parametrize("io_threads", [1, 2])
def test_every_accepted_call_is_answered_under_load(serve: Serve, models_to_drain: Path, io_threads: int) -> None:
    server = serve(models_to_drain, "--io-threads", str(io_threads))
    callers = [Caller(server.grpc) for _ in range(8)]
    for caller in callers:
        caller.start()
    deadline = time.monotonic() + LONG
    while min(caller.answered for caller in callers) < 50:
        assert not [caller.failed for caller in callers if caller.failed]
        assert time.monotonic() < deadline, "the load does not get going"
        callers[0].join(0.01)
    asked = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - asked < 30, "longer than --drain-seconds"
    for caller in callers:
        caller.join(LONG)
        if caller.failed:
            raise caller.failed
        assert check_ended_well(caller.peer) >= 50
        some = [answer for answer in caller.peer.answers.values() if answer.messages][:40]
        assert all((sum_of(answer) == 4).all() for answer in some)
        caller.peer.plug.close()
    assert "0 bytes in 0 blocks in use" in server.output()


def test_a_call_longer_than_the_drain_time_gets_unavailable(serve: Serve, models_to_drain: Path) -> None:
    server = serve(models_to_drain, "--drain-seconds", "1", "--lanes", "1")
    with Peer(server.grpc) as peer:
        running = peer.call(INFER, slow(ENDLESS))
        queued = peer.call(INFER, slow(ENDLESS))
        assert peer.ask(READY, b"").code == 0  # both calls were read before it
        asked = time.monotonic()
        assert server.stop() == 1
        assert time.monotonic() - asked < 10
        peer.wait_closed()
        for stream in (running, queued):
            answer = peer.answers[stream]
            assert answer.code == 14, answer
            assert "--drain-seconds" in answer.text
        assert not peer.was_reset
    assert "2 call(s) did not end in 1 s" in server.output()
    assert "0 bytes in 0 blocks in use" in server.output()


def test_drain_delay_serves_on_and_is_not_ready(serve: Serve, models_to_drain: Path) -> None:
    server = serve(models_to_drain, "--drain-delay", "4")
    with Peer(server.grpc) as peer:
        assert is_ready(server)
        asked = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        while is_ready(server):
            assert time.monotonic() - asked < 4, "still ready"
        # A connection of before, a new one, and HTTP.
        assert peer.ask(INFER, add_sub()).code == 0
        assert not peer.goaways
        with Peer(server.grpc) as late:
            assert late.ask(INFER, add_sub()).code == 0
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=LONG)
        assert refused.value.code == 503
        with urllib.request.urlopen(f"http://{server.http}/v2/health/live", timeout=LONG) as live:
            assert live.status == 200
        assert server.process.poll() is None
        peer.wait_closed()
        assert time.monotonic() - asked >= 4
        assert check_ended_well(peer) == 1
    assert server.wait() == 0


def test_goaway_twice_then_the_end(serve: Serve, models_to_drain: Path) -> None:
    server = serve(models_to_drain)
    with Peer(server.grpc) as idle, Peer(server.grpc) as busy:
        idle.wait(idle.call(READY, b""))
        long_call = busy.call(INFER, slow(4000))
        assert busy.ask(READY, b"").code == 0
        server.process.send_signal(signal.SIGTERM)
        while not busy.goaways:
            busy.pump()
        crossing = busy.call(INFER, add_sub())  # sent after the first GOAWAY, perhaps before the final one
        while last_stream(busy) is None:
            busy.pump()
        idle.wait_closed()
        assert check_ended_well(idle) == 1
        too_late = busy.call(INFER, add_sub())
        busy.wait_closed()
        assert busy.answers[long_call].code == 0
        assert crossing in busy.answers
        assert not busy.answers[too_late].fields
        assert check_ended_well(busy) >= 2
    assert server.wait() == 0


def test_an_idle_connection_does_not_hold_the_end_up(serve: Serve, models_to_drain: Path) -> None:
    server = serve(models_to_drain)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(server.grpc)) for _ in range(20)]
        for peer in peers:
            peer.wait(peer.call(READY, b""))
        asked = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for peer in peers:
            peer.wait_closed()
            peer.plug.close()
        assert server.wait() == 0
        assert time.monotonic() - asked < 15  # and not the 30 s of --drain-seconds
        for peer in peers:
            assert check_ended_well(peer) == 1


def test_the_last_answers_reach_a_client_that_reads_late_and_writes_on(serve: Serve, models_to_drain: Path) -> None:
    server = serve(models_to_drain)
    wide = np.arange(1_000_000, dtype=np.float32).reshape(1, -1, 4)
    with Peer(server.grpc, window=1 << 26, receive_buffer=1 << 16) as peer:
        call = peer.call(INFER, infer("dynamic_inner", x=wide))
        while not peer.answers[call].body:  # the answer has begun, and most of it waits in the server
            peer.pump()
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_output("draining", LONG)
        while not peer.closed:
            # What a client may still send while the server ends: unread bytes would make the kernel reset it.
            peer.write(frame(PING, payload=b"12345678"))
            peer.pump()
        answer = peer.answers[call]
        assert (answer.code, answer.text) == (0, "")
        response = service_pb2.ModelInferResponse.FromString(answer.messages[0])
        names = [output.name for output in response.outputs]
        double = np.frombuffer(response.raw_output_contents[names.index("double")], np.float32)
        np.testing.assert_array_equal(double, wide.ravel() * 2)
        assert check_ended_well(peer) == 1
    assert server.wait() == 0
    assert "0 bytes in 0 blocks in use" in server.output()
