"""Sockets: which loop a connection goes to, what happens when there are too many, and when descriptors run out."""

import asyncio
import errno
import socket
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from headrace import config
from headrace.errors import StartError
from headrace.grpc_server import GrpcProtocol
from headrace.listener import Listener, Seat

HOST = config.Host(cores=2, memory_bytes=8 * config.GIB)


class FakeSeat:
    """Takes what it is given, and says how loaded it is."""

    def __init__(self, load: int = 0) -> None:
        self.loop = asyncio.get_running_loop()
        self.given = load
        self.adopted: list[tuple[str, bool]] = []
        self.arrived = asyncio.Event()

    @property
    def load(self) -> int:
        return self.given

    def adopt(self, _factory: Any, accepted: socket.socket, peer: str, refused: bool) -> None:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert accepted.getblocking() is False
        accepted.close()
        self.adopted.append((peer, refused))
        self.arrived.set()


def listener(*seats: FakeSeat, **flags: object) -> Listener:
    return Listener(config.resolve(flags, host=HOST), cast(list[Seat], list(seats)))


def open_port(listening: Listener, port: int = 0) -> int:
    return listening.open(port, cast(Any, None), "gRPC", "--grpc-port")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def test_a_connection_goes_to_the_loop_that_has_the_fewest() -> None:
    async def work() -> None:
        seats = [FakeSeat(3), FakeSeat(1), FakeSeat(2)]
        listening = listener(*seats)
        port = open_port(listening)
        listening.start()
        clients = []
        for seat in (seats[1], seats[1], seats[2]):  # 1 -> 2 (a tie goes to the first), 2 -> 3, 2 -> 3
            clients.append(socket.create_connection(("127.0.0.1", port)))
            await seat.arrived.wait()
            seat.arrived.clear()
        assert [seat.given for seat in seats] == [3, 3, 3]
        assert seats[2].adopted == [(f"127.0.0.1:{clients[2].getsockname()[1]}", False)]
        for client in clients:
            client.close()
        listening.close()
        listening.close()

    run(work())


@pytest.mark.parametrize(("load", "refused"), [(4, False), (5, True)])
def test_over_the_bound_a_connection_is_marked(load: int, refused: bool) -> None:
    async def work() -> None:
        seat = FakeSeat(load)
        listening = listener(seat, max_connections=5)
        port = open_port(listening)
        listening.start()
        with socket.create_connection(("127.0.0.1", port)):
            await seat.arrived.wait()
        assert seat.adopted[0][1] is refused
        listening.close()

    run(work())


def test_far_over_the_bound_a_connection_is_just_closed() -> None:
    async def work() -> None:
        seat = FakeSeat(5 + 256)
        listening = listener(seat, max_connections=5)
        port = open_port(listening)
        listening.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        assert seat.adopted == []
        writer.close()
        listening.close()

    run(work())


def test_without_descriptors_accepting_rests_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.listener._RETRY_SECONDS", 0.01)

    async def work() -> None:
        seat = FakeSeat()
        listening = listener(seat)
        port = open_port(listening)
        real, factory = listening._sockets[0]
        tries: list[int] = []

        class Short:
            """A listening socket whose process has no descriptor the first time."""

            def fileno(self) -> int:
                return real.fileno()

            def close(self) -> None:
                real.close()

            def accept(self) -> Any:
                tries.append(len(tries))
                if len(tries) == 1:
                    raise OSError(errno.EMFILE, "Too many open files")
                return real.accept()

        listening._sockets[0] = (cast(socket.socket, Short()), factory)
        listening.start()
        with socket.create_connection(("127.0.0.1", port)):
            await seat.arrived.wait()
        assert len(tries) >= 2
        listening.close()

    run(work())


def test_a_port_is_had_once() -> None:
    async def work() -> None:
        first, second = listener(), listener()
        port = open_port(first)
        with pytest.raises(StartError, match=f"Port {port} .* is taken"):
            open_port(second, port)
        first.close()
        assert open_port(second, port) == port  # free again at once
        second.close()

    run(work())


def test_replicas_share_a_port_when_asked_to() -> None:
    async def work() -> None:
        first, second = listener(reuse_port=True), listener(reuse_port=True)
        assert open_port(second, open_port(first)) != 0
        first.close()
        second.close()

    run(work())


def test_an_address_that_is_none() -> None:
    async def work() -> None:
        with pytest.raises(StartError, match=r"no\.such\.host\.invalid is not known.*--host"):
            open_port(listener(host="no.such.host.invalid"))
        with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1"):
            open_port(listener(host="192.0.2.1"))

    run(work())


class FakeProtocol(GrpcProtocol):
    """A connection that remembers what it was told, and ends when it has been told enough."""

    def __init__(self, seat: Seat, told: list[str], *, calls: int = 0, ends_at: str = "final") -> None:
        self._seat, self._told, self._open, self._ends_at = seat, told, calls, ends_at

    def _hear(self, word: str) -> None:
        self._told.append(word)
        if word == self._ends_at:
            self._seat.gone(self)

    @property
    def open_calls(self) -> int:
        return self._open

    def shutdown_notice(self) -> None:
        self._hear("notice")

    def shutdown_final(self) -> None:
        self._hear("final")

    def abort_calls(self, message: str) -> None:
        assert "--drain-seconds" in message
        self._hear("abort_calls")

    def abort(self) -> None:
        self._hear("abort")


class FakePort:
    """Counts what is said in each step."""

    def __init__(self, told: list[str]) -> None:
        self.told = told
        self.steps: list[int] = []

    def measured(self, kind: str, step: Any) -> Any:
        def run_step() -> None:
            before = len(self.told)
            step()
            self.steps.append(len(self.told) - before)

        assert kind == "goodbye"
        return run_step


def test_drain_tells_a_thousand_connections_in_steps() -> None:
    async def work() -> None:
        told: list[str] = []
        port = FakePort(told)
        seat = Seat(asyncio.get_running_loop(), cast(Any, port))
        seat._protocols.update(FakeProtocol(seat, told) for _ in range(1000))
        assert await seat.drain(20) == 0
        assert (told.count("notice"), told.count("final")) == (1000, 1000)
        assert max(port.steps) == 64
        assert len(port.steps) >= 32

    run(work())


def test_drain_ends_the_calls_of_few_connections_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.listener._NOTICE_SECONDS", 0.001)
    monkeypatch.setattr("headrace.listener._FLUSH_SECONDS", 0.001)

    async def work() -> None:
        told: list[str] = []
        port = FakePort(told)
        seat = Seat(asyncio.get_running_loop(), cast(Any, port))
        seat._protocols.update(FakeProtocol(seat, told, calls=300, ends_at="abort") for _ in range(10))
        assert await seat.drain(0.001) == 3000
        assert {word: told.count(word) for word in set(told)} == dict.fromkeys(
            ["notice", "final", "abort_calls", "abort"], 10
        )
        assert max(port.steps) == 2

    run(work())
