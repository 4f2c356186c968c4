"""Answers of HTTP/1.1 that are written in pieces, as they are ready: the calls of many messages over gRPC-Web, and
the server-sent events of models that answer a request any number of times.

An answer's source makes pieces only as far as they are taken, and they are taken only when it is the answer's turn and
the transport has room: a peer that does not read holds nobody but its own source.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from headrace import grpc_web
from headrace.engine import HttpConnection
from headrace.errors import HeadraceError, from_code
from headrace.grpc_calls import Answerer, Stream
from headrace.grpc_web import WebForm
from headrace.http_gateway import STREAM_INFER, WebCall
from headrace.http_message import Response
from headrace.http_reader import Call

__all__ = ["AnswerStream", "AnswerStreams", "Conversation", "InferPieces", "PieceSource"]

log = logging.getLogger("headrace.http")

_STEP = 768 << 10  # bytes that are written in one step; in the text form a multiple of three
_MOST_WAITING = 64 << 10  # bytes of messages that Python makes ahead of the transport
_DEADLINE_EXCEEDED, _INTERNAL, _UNAVAILABLE = 4, 13, 14

EVENTS = (("Content-Type", "text/event-stream; charset=utf-8"), ("Cache-Control", "no-cache"))

Part = bytes | memoryview
End = tuple[int, str]  # gRPC's code, and why


class PieceSource(Protocol):
    """Who makes the pieces. It calls the connection's `wake` when there is something to take."""

    def take(self, most: int) -> tuple[list[Part], End | None]:
        """Frames or events that are ready, about `most` bytes; behind the last of them how the call ended."""

    def cancel(self, code: int, text: str) -> None:
        """Ends the call so, behind the pieces that are there."""

    def close(self) -> None:
        """Nobody wants any more of it."""


class InferPieces:
    """ModelStreamInfer, and generate_stream: the core's."""

    def __init__(self, core: HttpConnection, number: int, wake: Callable[[], None]) -> None:
        self._core = core
        self._number = number
        self._wake = wake

    def take(self, most: int) -> tuple[list[Part], End | None]:
        """As PieceSource's."""
        return self._core.take_pieces(self._number, most)

    def cancel(self, code: int, text: str) -> None:
        """As PieceSource's."""
        self._core.cancel_stream(self._number, code, text)
        self._wake()

    def close(self) -> None:
        """The core hears of the connection's end by itself."""


class Conversation:
    """A call of many messages that Python answers: on the connection's loop, its requests all there."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        answerer: Answerer,
        path: str,
        messages: Sequence[bytes],
        wake: Callable[[], None],
    ) -> None:
        self._path = path
        self._wake = wake
        self._frames: deque[bytes] = deque()
        self._waiting = 0  # bytes of these
        self._room = asyncio.Event()
        self._end: End | None = None
        stream = Stream(path, lambda: None, self._send)
        for message in messages:
            stream.put(message)
        stream.end()
        self._task = loop.create_task(answerer.converse(stream))
        self._task.add_done_callback(self._ended)

    async def _send(self, message: bytes) -> None:
        frame = grpc_web.frame(message)
        self._frames.append(frame)
        self._waiting += len(frame)
        self._wake()
        while self._waiting > _MOST_WAITING:
            self._room.clear()
            await self._room.wait()

    def take(self, most: int) -> tuple[list[Part], End | None]:
        """As PieceSource's; `most` is kept by the bound of what waits."""
        frames: list[Part] = list(self._frames)
        self._frames.clear()
        self._waiting = 0
        self._room.set()
        return frames, self._end

    def cancel(self, code: int, text: str) -> None:
        """As PieceSource's."""
        if self._end is None:
            self._end = code, text
            self._task.cancel()
            self._wake()

    def close(self) -> None:
        """As PieceSource's."""
        self._end = self._end or (_UNAVAILABLE, "")
        self._task.cancel()

    def _ended(self, done: "asyncio.Task[None]") -> None:
        error = None if done.cancelled() else done.exception()
        if self._end is not None:
            return  # it was told to
        if done.cancelled():
            self._end = _UNAVAILABLE, "the server is shutting down"
        elif error is None:
            self._end = 0, ""
        elif isinstance(error, HeadraceError):
            self._end = error.code, error.message
        else:
            log.error("%s failed", self._path, exc_info=error)
            self._end = _INTERNAL, f"{self._path} failed inside the server; its log says more"
        self._wake()


class AnswerStream:
    """One answer in pieces: its head, chunks, and gRPC-Web's trailers in the last of them."""

    def __init__(self, source: PieceSource, form: WebForm | None, *, extra: bytes, chunked: bool) -> None:
        """`form`: None for server-sent events. `extra`: header lines. Not `chunked`: for HTTP/1.0, the end of the
        connection ends the answer."""
        self.source = source
        self._form = form
        self._chunked = chunked
        framing = (("Transfer-Encoding", "chunked"),) if chunked else ()
        kind = (("Content-Type", form.value),) if form is not None else EVENTS
        head = Response.head(200, (*kind, *framing))
        self._out: list[Part] = [head + extra + b"\r\n"]
        self._parts: deque[Part] = deque()
        self._ended = False

    def take(self) -> tuple[list[Part], bool]:
        """A step's worth of bytes for the transport, and whether that was all. Nothing: there is nothing now."""
        if not self._ended and not self._parts:
            parts, end = self.source.take(_STEP)
            self._parts.extend(parts)
            if end is not None:
                self._ended = True
                if self._form is not None:
                    self._parts.append(grpc_web.trailers(*end))
        self._chunk(self._cut())
        over = self._ended and not self._parts
        if over and self._chunked:
            self._out.append(b"0\r\n\r\n")
        out, self._out = self._out, []
        return out, over

    def _cut(self) -> list[Part]:
        cut: list[Part] = []
        left = _STEP
        while self._parts and left:
            part = memoryview(self._parts.popleft())
            cut.append(part[:left])
            if len(part) > left:
                self._parts.appendleft(part[left:])
            left -= len(cut[-1])
        return cut

    def _chunk(self, parts: list[Part]) -> None:
        if not parts:
            return  # an empty chunk would be the last
        if self._form is WebForm.TEXT:
            # Each chunk is padded by itself, so that all of it can be read when it is there.
            parts = [grpc_web.to_text(b"".join(parts))]
        if self._chunked:
            self._out += [b"%x\r\n" % sum(map(len, parts)), *parts, b"\r\n"]
        else:
            self._out += parts


def _wake_nobody() -> None:
    """The connection is gone."""


class AnswerStreams:
    """Those of one connection, by the numbers of their requests."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, core: HttpConnection, answerer: Answerer, wake: Callable[[], None]
    ) -> None:
        """`wake` is called when there may be something to write."""
        self._loop = loop
        self._core = core
        self._answerer = answerer
        self._wake = wake
        self._open: dict[int, AnswerStream] = {}
        self._deadlines: dict[int, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, call: Call, asked: WebCall) -> Response | None:
        """Begins the call, or says why not."""
        try:
            source = self._source(call, asked)
        except HeadraceError as error:
            return grpc_web.failure(error.code, error.message, asked.form)
        self._open[call.number] = AnswerStream(source, asked.form, extra=call.extra, chunked=call.chunked)
        if call.timeout >= 0:
            text = f"the deadline passed while {asked.path} was being answered"
            timer = self._loop.call_later(call.timeout, source.cancel, _DEADLINE_EXCEEDED, text)
            self._deadlines[call.number] = timer
        return None

    def begin_events(self, call: Call) -> None:
        """The core answers a generate_stream in pieces."""
        source = InferPieces(self._core, call.number, self._wake)
        self._open[call.number] = AnswerStream(source, None, extra=call.extra, chunked=call.chunked)

    def _source(self, call: Call, asked: WebCall) -> PieceSource:
        if asked.path != STREAM_INFER:
            messages = grpc_web.messages_of(asked.body)
            return Conversation(self._loop, self._answerer, asked.path, messages, self._wake)
        if (refused := self._core.infer_stream(call.number, asked.body, call.headers)) is not None:
            raise from_code(*refused)
        return InferPieces(self._core, call.number, self._wake)

    def write(self, number: int, transport: asyncio.Transport) -> tuple[bool, bool]:
        """Writes on at answer `number`, whose turn it is: whether anything was written, and whether that was all."""
        stream = self._open.get(number)
        if stream is None:
            return False, False
        pieces, over = stream.take()
        if pieces:
            transport.writelines(pieces)
        if over:
            del self._open[number]
            if (deadline := self._deadlines.pop(number, None)) is not None:
                deadline.cancel()
        return bool(pieces), over

    def cancel(self, code: int, text: str, *, endless: bool = False) -> None:
        """Ends all with this status, or those alone that have no end of their own, as Watch."""
        for stream in list(self._open.values()):
            if not endless or isinstance(stream.source, Conversation):
                stream.source.cancel(code, text)

    def close(self) -> None:
        """The connection is gone, and is not referred to any more."""
        for stream in self._open.values():
            stream.source.close()
        for deadline in self._deadlines.values():
            deadline.cancel()
        self._open.clear()
        self._deadlines.clear()
        self._wake = _wake_nobody
