"""Sockets: one listening socket for each port, and each accepted one to the loop that has the fewest.

A `Seat` is one event loop with its connections. It lives on that loop's thread; the listener, on loop 0, only reads
its load and hands sockets over.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from headrace.config import Config
from headrace.engine import LoopPort
from headrace.errors import StartError
from headrace.grpc_server import GrpcProtocol
from headrace.http_protocol import HttpProtocol

__all__ = ["Doors", "Listener", "Seat"]

log = logging.getLogger("headrace.listener")

_BACKLOG = 4096  # the kernel lowers it to net.core.somaxconn
_ACCEPTS = 64  # in one step of the loop
_ENDS = 64  # connections told that the server goes, in one step of the loop
_ENDED_CALLS = 512  # open calls of theirs
_REFUSALS = 256  # connections over the bound that are told so at one time; more are just closed
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RETRY_SECONDS = 0.5  # after accept had no descriptor
# Between the two GOAWAYs: calls that crossed the first one on the wire arrive in this time (a round trip, and some).
_NOTICE_SECONDS = 0.1
_FLUSH_SECONDS = 1.0  # for the last statuses to leave, when the drain time is over

T = TypeVar("T")
Protocol = GrpcProtocol | HttpProtocol
# (seat, peer, too many connections) -> the protocol object of a new connection
Factory = Callable[["Seat", str, bool], Protocol]
_PREFACE = b"PRI"  # so begins HTTP/2 with prior knowledge, and no request of HTTP/1.1 (RFC 9113, 3.4)


class Doors(NamedTuple):
    """What a connection of one port may turn out to be. `usual`: who speaks to one that is refused unheard."""

    grpc: Factory
    http: Factory
    usual: Factory

    def of(self, first: bytes) -> Factory | None:
        """Whose connection begins with these bytes; None while they may be anybody's."""
        if first.startswith(_PREFACE):
            return self.grpc
        return None if _PREFACE.startswith(first) else self.http


class Seat:
    """One event loop, its side of the core and its connections. All but `load` and `call` on the loop's own thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: LoopPort) -> None:
        self.loop = loop
        self.port = port
        self.given = 0  # written by the listener's thread alone
        self._gone = 0  # written by the loop's thread alone
        self._protocols: set[Protocol] = set()
        self._arrivals: set[asyncio.Task[None]] = set()
        self._silent: set[asyncio.Future[bool]] = set()  # arrivals of which no byte has come
        self._empty = asyncio.Event()
        self._draining = False

    @property
    def load(self) -> int:
        """Connections that are here or on their way."""
        return self.given - self._gone

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on this seat's loop, from any loop."""
        if asyncio.get_running_loop() is self.loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    def adopt(self, doors: Doors, accepted: socket.socket, peer: str, refused: bool) -> None:
        """Takes an accepted socket."""
        if self._draining:
            self._turn_away(accepted)
            return
        task = self.loop.create_task(self._adopt(doors, accepted, peer, refused))
        self._arrivals.add(task)
        task.add_done_callback(self._arrivals.discard)

    def _turn_away(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError):
            accepted.recv(len(_PREFACE))  # a close with bytes unread is a reset
        accepted.close()
        self._gone += 1

    async def _adopt(self, doors: Doors, accepted: socket.socket, peer: str, refused: bool) -> None:
        factory = doors.usual if refused else await self._door(doors, accepted)
        if factory is None:
            self._turn_away(accepted)
            return
        protocol = factory(self, peer, refused)
        self._protocols.add(protocol)
        try:
            await self.loop.connect_accepted_socket(lambda: protocol, accepted)
        except OSError as error:  # it was reset before we got to it
            log.debug("connection of %s was gone before it was taken: %s", peer, error)
            accepted.close()
            protocol.connection_lost(error)

    async def _door(self, doors: Doors, accepted: socket.socket) -> Factory | None:
        """Looks at the first bytes, without taking them. None: the peer has gone, or said too little for too long."""
        # Nothing at all counts as half a beginning: clients that are honest begin at once.
        due = self.loop.time() + self.port.config.message_stall_seconds
        enough = False
        while True:
            try:
                first = accepted.recv(len(_PREFACE), socket.MSG_PEEK)
                door = doors.of(first)
                if door is not None or not first or enough:  # enough and yet too little: the peer will say no more
                    return door
            except BlockingIOError:
                pass
            except OSError:
                return None
            if self._draining or self.loop.time() >= due:
                return None
            enough = await self._readable(accepted, due)

    async def _readable(self, accepted: socket.socket, due: float) -> bool:
        """Waits until there is enough to tell by, or the end of it (True), or for that time, or the drain (False)."""
        # The kernel counts, so that a peer that sends byte by byte wakes us once.
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(_PREFACE))
        readable: asyncio.Future[bool] = self.loop.create_future()
        self._silent.add(readable)
        self.loop.add_reader(accepted.fileno(), _wake, readable, True)
        timer = self.loop.call_at(due, _wake, readable, False)
        try:
            return await readable
        finally:
            timer.cancel()
            self.loop.remove_reader(accepted.fileno())
            self._silent.discard(readable)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def gone(self, protocol: Protocol) -> None:
        """A connection has ended: the protocols' on_close."""
        if protocol in self._protocols:
            self._protocols.discard(protocol)
            self._gone += 1
            if not self._protocols:
                self._empty.set()

    async def drain(self, seconds: float) -> int:
        """Ends every connection behind its last answer. After `seconds` the calls that are still open get UNAVAILABLE;
        returns how many those were. The listener is closed by now."""
        self._draining = True
        for silent in self._silent:
            _wake(silent, False)
        await asyncio.gather(*self._arrivals)
        await self._tell(_notice)
        if not await self._wait_empty(_NOTICE_SECONDS):
            await self._tell(_final)
        if await self._wait_empty(seconds):
            return 0
        aborted = sum(protocol.open_calls for protocol in self._protocols)
        await self._tell(_abort_calls)
        await self._wait_empty(_FLUSH_SECONDS)
        await self._tell(_abort)
        await self._wait_empty(_FLUSH_SECONDS)
        return aborted

    async def _tell(self, tell: Callable[[Protocol], None]) -> None:
        # In steps: there may be ten thousand, with a thousand calls each.
        step: list[Protocol] = []
        calls = 0
        for protocol in list(self._protocols):
            step.append(protocol)
            calls += protocol.open_calls
            if len(step) == _ENDS or calls >= _ENDED_CALLS:
                await self._tell_these(tell, step)
                step, calls = [], 0
        await self._tell_these(tell, step)

    async def _tell_these(self, tell: Callable[[Protocol], None], protocols: list[Protocol]) -> None:
        def step() -> None:
            for protocol in protocols:
                if protocol in self._protocols:
                    tell(protocol)

        self.port.measured("goodbye", step)()
        await asyncio.sleep(0)

    async def _wait_empty(self, seconds: float) -> bool:
        if not self._protocols:
            return True
        self._empty.clear()
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            return not self._protocols
        return True

    async def close(self) -> None:
        """Detaches from the core. The engine has answered everything by now."""
        self.port.close()


def _notice(protocol: Protocol) -> None:
    if isinstance(protocol, GrpcProtocol):
        protocol.shutdown_notice()
    else:
        protocol.shutdown()


def _final(protocol: Protocol) -> None:
    if isinstance(protocol, GrpcProtocol):
        protocol.shutdown_final()
    else:
        protocol.end_streams()


def _abort_calls(protocol: Protocol) -> None:
    protocol.abort_calls("the server is shutting down, and the time for it (--drain-seconds) is over")


def _abort(protocol: Protocol) -> None:
    protocol.abort()


def _wake(waiting: asyncio.Future[bool], heard: bool) -> None:
    if not waiting.done():
        waiting.set_result(heard)


class Listener:
    """The listening sockets, on loop 0."""

    def __init__(self, config: Config, seats: list[Seat]) -> None:
        self._config = config
        self._seats = seats
        self._loop = asyncio.get_running_loop()
        self._sockets: list[tuple[socket.socket, Doors]] = []
        self._retries: dict[socket.socket, asyncio.TimerHandle] = {}
        self._full_said = False

    def open(self, port: int, doors: Doors, what: str, flag: str) -> int:
        """Binds `port` (0: a free one) and returns its number. StartError when it cannot be had."""
        host = self._config.host
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (socket.gaierror, UnicodeError) as error:
            raise StartError(f"The address {host} is not known: {error} (--host).") from None
        found.sort(key=lambda row: row[0] != socket.AF_INET)  # "localhost" is both: what everybody reaches
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._config.reuse_port:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            if error.errno == errno.EADDRINUSE:
                raise StartError(f"Port {port} of {host} is taken: choose another for {what} with {flag}.") from None
            raise StartError(f"{what} cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}.") from None
        listening.setblocking(False)
        self._sockets.append((listening, doors))
        return int(listening.getsockname()[1])

    def start(self) -> None:
        """Accepts connections from now on."""
        for listening, doors in self._sockets:
            self._loop.add_reader(listening.fileno(), self._accept, listening, doors)

    def close(self) -> None:
        """Accepts no more. Idempotent."""
        for listening, _ in self._sockets:
            retry = self._retries.pop(listening, None)
            if retry is not None:
                retry.cancel()
            self._loop.remove_reader(listening.fileno())
            listening.close()
        self._sockets.clear()

    def _accept(self, listening: socket.socket, doors: Doors) -> None:
        for _ in range(_ACCEPTS):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(listening, doors, error)
                return
            self._place(accepted, address, doors)

    def _rest(self, listening: socket.socket, doors: Doors, error: OSError) -> None:
        # The socket stays readable, so accepting at once again would be a busy loop.
        level = logging.WARNING if error.errno in _NO_DESCRIPTOR else logging.ERROR
        log.log(level, "no connection can be accepted for %g s: %s (ulimit -n)", _RETRY_SECONDS, error.strerror)
        self._loop.remove_reader(listening.fileno())
        self._retries[listening] = self._loop.call_later(_RETRY_SECONDS, self._resume, listening, doors)

    def _resume(self, listening: socket.socket, doors: Doors) -> None:
        self._retries.pop(listening, None)
        self._loop.add_reader(listening.fileno(), self._accept, listening, doors)

    def _place(self, accepted: socket.socket, address: Any, doors: Doors) -> None:
        open_now = sum(seat.load for seat in self._seats)
        refused = open_now >= self._config.max_connections
        if refused != self._full_said:
            self._full_said = refused
            if refused:
                log.warning("there are %d connections: more are refused (--max-connections)", open_now)
        if open_now >= self._config.max_connections + _REFUSALS:
            accepted.close()
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = address[:2]
        peer = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        seat = min(self._seats, key=lambda candidate: candidate.load)
        seat.given += 1
        if seat.loop is self._loop:
            seat.adopt(doors, accepted, peer, refused)
        else:
            seat.loop.call_soon_threadsafe(seat.adopt, doors, accepted, peer, refused)
