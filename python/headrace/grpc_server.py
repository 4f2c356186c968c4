"""gRPC on asyncio: the protocol that glues a transport to the core's connection, and the tasks of the calls that Python
answers.

A ModelInfer never comes up here: `buffer_updated` hands the bytes to the core and writes what it gives back. The other
calls are tasks on loop 0; a connection of another loop hands over to it and takes the reply back on its own loop.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

from headrace.engine import (
    CALL,
    HAS_CALLS,
    HAS_CANCELLED,
    HAS_OUTPUT,
    HAS_UNREAD,
    MESSAGE,
    OPEN,
    READ_ON,
    WANTS_CLOSE,
    LoopPort,
)
from headrace.errors import HeadraceError
from headrace.farewell import Farewell
from headrace.grpc_calls import Answerer, Stream

__all__ = ["GrpcProtocol", "MeasuredProtocol"]

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("headrace.grpc")

_INTERNAL = 13
_UNAVAILABLE = 14
_WRITES_A_STEP = 2  # of a MiB: a kernel that takes more copies for milliseconds
_MOST_OUTPUT = 1 << 20  # bytes of answers that wait before a call of many messages has to wait too


class GrpcProtocol(asyncio.BufferedProtocol):
    """One connection. uvloop asks a protocol for `get_buffer` once, so the core's is there from the start."""

    def __init__(
        self,
        port: LoopPort,
        answerer: Answerer,
        peer: str,
        on_close: Callable[["GrpcProtocol"], None],
        *,
        refused: bool = False,
    ) -> None:
        """`refused`: there are too many connections, so this one gets a GOAWAY and no calls."""
        self._port = port
        self._answerer = answerer
        self._on_close = on_close
        self._refused = refused
        self._token, connection = port.connect(self, peer)
        self._connection = connection
        self.get_buffer = connection.get_buffer  # type: ignore[method-assign, assignment]
        self._receive = connection.receive
        self._take_output = connection.take_output
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._paused_at = 0.0  # the loop's time
        self._lost = False
        self._ended = False  # our side is shut down, behind all that was written
        self._eof = False  # the peer has shut its side down
        self._writes_on = False  # there is more to write, in the loop's next turn
        self._resting = False  # we read no more until the core is through with what there is
        self._linger: asyncio.TimerHandle | Farewell | None = None
        self._calls: dict[int, asyncio.Future[bytes] | concurrent.futures.Future[bytes]] = {}
        self._streams: dict[int, tuple[Stream, asyncio.Task[None]]] = {}
        self._room: list[asyncio.Future[None]] = []  # streams that wait until less output does

    # --- The transport's side: as few operations for each read as can be.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a socket: it reads and writes
        self._write()  # our SETTINGS need not wait for the peer's
        if self._refused:
            self.shutdown_notice()
            self.shutdown_final()

    def buffer_updated(self, nbytes: int) -> None:
        bits = self._receive(nbytes)
        if bits:
            self.act(bits)

    def eof_received(self) -> bool:
        self._eof = True
        if self._ended:
            return False
        self.act(self._connection.receive_eof())
        return True  # we close when the core wants it: calls that are open are answered first

    def pause_writing(self) -> None:
        self._paused = True
        self._paused_at = self._port.loop.time()
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._paused = False
        self.act(self._connection.resume_writing())
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        if self._linger is not None:
            self._linger.cancel()
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()
        for _, task in self._streams.values():
            task.cancel()
        self._streams.clear()
        self._port.disconnect(self._token)
        self._connection.lost()
        self._on_close(self)

    # --- The core's side.

    def act(self, bits: int) -> None:
        """Does what the core asks for. Called after each read, and by the loop's port."""
        if self._lost:
            return
        if bits & HAS_OUTPUT and self._write():
            bits |= WANTS_CLOSE
        if self._room and bits & HAS_OUTPUT:
            self._make_room()
        if bits & HAS_CALLS:
            for call_id, kind, path, _metadata, message in self._connection.take_calls():
                if kind == CALL:
                    self._start(call_id, path, message)
                else:
                    self._stream_event(call_id, kind, path, message)
            self._port.arm()  # a call may have brought a deadline
        if bits & HAS_CANCELLED:
            for call_id in self._connection.take_cancelled():
                gone = self._calls.pop(call_id, None)
                if gone is not None:
                    gone.cancel()
                stream = self._streams.pop(call_id, None)
                if stream is not None:
                    stream[1].cancel()
        if bits & (HAS_UNREAD | READ_ON):
            self._rest(bool(bits & HAS_UNREAD))
        if bits & WANTS_CLOSE and not self._writes_on:  # the last of what is to be written brings it again
            self._close()

    def _rest(self, resting: bool) -> None:
        if resting == self._resting or self._transport is None or self._transport.is_closing():
            return
        self._resting = resting
        if resting:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _write(self) -> bool:
        """True when the last that there will be is written, and the connection is to be closed."""
        transport = self._transport
        if transport is None:
            return False
        for _ in range(_WRITES_A_STEP):
            if self._paused:
                return False
            chunks = self._take_output()
            if not chunks:
                return chunks is None
            if len(chunks) == 1:
                transport.write(chunks[0])
            else:
                transport.writelines(chunks)
        if not self._writes_on:
            self._writes_on = True
            self._port.loop.call_soon(self._port.measured("write", self._write_on))
        return False

    def _write_on(self) -> None:
        self._writes_on = False
        self.act(HAS_OUTPUT)

    def _close(self) -> None:
        if self._ended or self._transport is None:
            return
        self._receive = self._drop
        if self._linger is not None:
            self._linger.cancel()
        if self._paused:
            # resume_writing brings the same bits again. A peer that reads nothing is cut off.
            waited = self._port.loop.time() - self._paused_at
            self._linger = self._port.loop.call_later(max(0.0, self._port.write_stall_seconds - waited), self.abort)
            return
        self._ended = True
        self._rest(False)  # to see its end
        self._linger = Farewell(self._transport, self._port.loop, self._port.write_stall_seconds)
        if not self._eof and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()  # once what is written has left

    @staticmethod
    def _drop(_nbytes: int, /) -> int:
        return 0

    # --- The server's side: shutting down.

    @property
    def open_calls(self) -> int:
        """Calls that are not answered yet."""
        return 0 if self._lost else self._connection.open_calls

    def shutdown_notice(self) -> None:
        """Tells the peer to open no more calls; those on their way are still served."""
        if not self._lost:
            self.act(self._connection.shutdown_notice())

    def shutdown_final(self) -> None:
        """No call that comes from now on is served; the connection ends behind the last answer."""
        if not self._lost:
            for _, task in list(self._streams.values()):
                task.cancel()  # it has no end of its own
            self.act(self._connection.shutdown_final())

    def abort_calls(self, message: str) -> None:
        """Answers every open call UNAVAILABLE."""
        if not self._lost:
            self.act(self._connection.abort_calls(_UNAVAILABLE, message))

    def abort(self) -> None:
        """Closes at once, whatever is still to be written."""
        if self._transport is not None:
            self._transport.abort()

    # --- Calls that Python answers.

    def _start(self, call_id: int, path: str, message: bytes) -> None:
        loop, home = self._port.loop, self._answerer.home
        answer = self._answerer.answer(path, message)
        call: asyncio.Future[bytes] | concurrent.futures.Future[bytes]
        if home is loop:
            call = task = loop.create_task(answer)
            task.add_done_callback(lambda done: self._answered(call_id, path, done))
        else:
            call = remote = asyncio.run_coroutine_threadsafe(answer, home)
            remote.add_done_callback(lambda done: self._hand_back(call_id, path, done))
        self._calls[call_id] = call

    def _hand_back(self, call_id: int, path: str, done: "concurrent.futures.Future[bytes]") -> None:
        with contextlib.suppress(RuntimeError):  # our loop is closed, and its connections with it
            self._port.loop.call_soon_threadsafe(self._answered, call_id, path, done)

    def _answered(
        self, call_id: int, path: str, done: "asyncio.Future[bytes] | concurrent.futures.Future[bytes]"
    ) -> None:
        if self._calls.pop(call_id, None) is None:
            return  # the caller has gone, or the connection
        bits = self._failed(call_id, path, done)
        self.act(self._connection.reply(call_id, done.result()) if bits is None else bits)

    def _failed(
        self, call_id: int, path: str, done: "asyncio.Future[Any] | concurrent.futures.Future[Any]"
    ) -> int | None:
        """Ends the call with what went wrong; None when nothing did."""
        error = None if done.cancelled() else done.exception()
        if done.cancelled():
            return self._connection.fail(call_id, _UNAVAILABLE, "the server is shutting down", [])
        if error is None:
            return None
        if isinstance(error, HeadraceError):
            return self._connection.fail(call_id, error.code, error.message, [])
        log.error("%s failed", path, exc_info=error)
        return self._connection.fail(call_id, _INTERNAL, f"{path} failed inside the server; its log says more", [])

    # --- Calls of many messages. They live on this loop.

    def _stream_event(self, call_id: int, kind: int, path: str, message: bytes) -> None:
        if kind == OPEN:
            stream = Stream(path, partial(self._release, call_id), partial(self._send, call_id))
            task = self._port.loop.create_task(self._answerer.converse(stream))
            self._streams[call_id] = stream, task
            task.add_done_callback(partial(self._conversed, call_id, path))
            return
        row = self._streams.get(call_id)
        if row is None:
            return  # it was cancelled in the same read, or has failed
        if kind == MESSAGE:
            row[0].put(message)
        else:
            row[0].end()

    def _release(self, call_id: int) -> None:
        self._connection.release_message(call_id)

    async def _send(self, call_id: int, message: bytes) -> None:
        self.act(self._connection.send_part(call_id, message))
        while self._paused or self._connection.output_waiting > _MOST_OUTPUT:
            turn = self._port.loop.create_future()
            self._room.append(turn)
            await turn

    def _make_room(self) -> None:
        room, self._room = self._room, []
        for turn in room:
            if not turn.done():
                turn.set_result(None)

    def _conversed(self, call_id: int, path: str, done: "asyncio.Task[None]") -> None:
        if self._streams.pop(call_id, None) is None:
            if not done.cancelled():
                done.exception()  # nobody is there to hear of it
            return
        bits = self._failed(call_id, path, done)
        self.act(self._connection.finish(call_id) if bits is None else bits)


class MeasuredProtocol(GrpcProtocol):
    """The same with its callbacks measured, for --measure-steps."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._run("connect", super().connection_made, transport)

    def buffer_updated(self, nbytes: int) -> None:
        self._run("read", super().buffer_updated, nbytes)

    def eof_received(self) -> bool:
        return self._run("eof", super().eof_received)

    def resume_writing(self) -> None:
        self._run("resume", super().resume_writing)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run("lost", super().connection_lost, exc)

    def _run(self, kind: str, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        steps = self._port.steps
        return step(*args, **kwargs) if steps is None else steps.run(kind, step, *args, **kwargs)
