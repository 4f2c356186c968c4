"""One HTTP/1.1 connection on asyncio: reads go to the core, which takes plain inferences by itself, and to the reader,
which takes everything else; answers leave in the order of the requests. Everything that a peer can make us hold has a
bound: header block, body, requests that wait for their answer, and the time that each of these may take.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from headrace import grpc_web
from headrace.config import Config
from headrace.engine import LoopPort
from headrace.errors import Unavailable
from headrace.farewell import Farewell
from headrace.grpc_web import WebForm
from headrace.http_calls import PythonCalls
from headrace.http_gateway import Answer, Gateway, Kind, Route, WebCall
from headrace.http_generate import Generation
from headrace.http_message import Request, Response, core_error, error_answer
from headrace.http_reader import Call, reader_for
from headrace.http_stream import AnswerStreams

if TYPE_CHECKING:
    from headrace.engine import HttpAnswer

__all__ = ["Call", "HttpProtocol"]

_MAX_PIPELINED = 128  # requests without an answer; more than that is nobody's honest pipeline
_NUMBERS = 1 << 32  # of requests, before they begin again
_PAUSE_PIPELINED = 32  # of these, reading rests until they are answered
_UNAVAILABLE = 14
_INFER, _GENERATE, _PREDICT, _WEB, _BARE_WEB, _EVENTS = range(6)  # the forms of an inference, as the core numbers them
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

Payload = bytes | list[bytes | memoryview]


def _numbers(first: int, count: int) -> Iterable[int]:
    """The numbers of `count` requests: the core's, which begin again."""
    return range(first, first + count) if first + count < _NUMBERS else ((first + i) % _NUMBERS for i in range(count))


class HttpProtocol(asyncio.BufferedProtocol):
    """One connection: keep-alive, pipelining, bodies into the core's memory, answers in the order of the requests."""

    def __init__(
        self,
        port: LoopPort,
        gateway: Gateway,
        routes: dict[bytes, Route],
        peer: str,
        on_close: Callable[["HttpProtocol"], None],
        *,
        refused: bool = False,
    ) -> None:
        """`routes`: those of inference by their targets, shared by the connections of a loop. `refused`: there are too
        many connections, so this one gets a 503."""
        self._port = port
        self._loop = port.loop
        self._gateway = gateway
        self._service = gateway.service
        self._config: Config = gateway.config
        self._on_close = on_close
        self._refused = refused
        self._token, self._core = port.connect_http(self, peer)
        # uvloop asks a protocol for these once, so the core's are there from the start.
        self.get_buffer = self._core.get_buffer  # type: ignore[method-assign, assignment]
        self.buffer_updated = self._core.buffer_updated  # type: ignore[method-assign, assignment]
        self._buffer = self._core.get_buffer(-1)
        self._reader = reader_for(self._config)(
            self._core,
            gateway,
            routes,
            on_request=self._requested,
            on_refusal=self._fail,
            on_expect=self._expected,
        )
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lost = False
        self._plain = True  # the reader has no half of a request: the core may look first
        self._last_byte = port.loop.time()
        self._begun = 0.0  # when the request did that the reader has half of; 0: not known yet
        self._next = 0  # number of the next request
        self._waiting: deque[int] = deque()  # numbers of requests without an answer, in order
        self._done: dict[int, Payload] = {}  # answers that wait for those before them
        self._events: dict[int, Call] = {}  # that may be answered in pieces
        self._web: dict[int, WebForm] = {}
        self._extras: dict[int, bytes] = {}  # header lines of answers that the core may have to leave to us
        self._calls = PythonCalls(self._loop, gateway, self._answered)
        self._streams = AnswerStreams(port.loop, self._core, gateway.grpc, self._write)
        self._writes_on = False  # there is more to write, in the loop's next turn
        self._out: list[bytes | memoryview] = []
        self._last = -1  # number of the request whose answer ends the connection
        self._leaving = False  # the connection ends when there is nothing more to answer
        self._ending = False  # our last answer is out
        self._farewell: Farewell | None = None  # and our side is shut down behind it
        self._paused = False  # the transport takes no more
        self._resting = False  # we take no more
        self._unsent = 0  # bytes that the transport had when it was last looked at

    # --- The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = both = cast("asyncio.Transport", transport)  # of a socket: it reads and writes
        self._core.connect_protocol(both, self._read, self._received, self._write_answers)
        if self._refused:
            limit = self._config.max_connections
            text = f"there are {limit} connections, and more are not taken (--max-connections)"
            self._fail(Response.error(503, text))
        else:
            self._shorten()
            self._arm()

    def _shorten(self) -> None:
        """Leaves the connection to the core while nothing special goes on: plain inferences come and are answered
        without a step here, until there is something for `_read`, `_received` or `_write_answers`."""
        special = self._waiting or self._last >= 0 or self._leaving or self._paused or self._resting or self._lost
        if self._plain and not special and not self._service.draining:
            self._core.enter_short_way(self._next)

    def _see(self) -> None:
        """Takes over what the core did by itself: which requests are open, and when something was heard last."""
        if (left := self._core.leave_short_way()) is not None:
            first, self._next, silent = left
            self._waiting.extend(_numbers(first, (self._next - first) % _NUMBERS))
            self._last_byte = self._loop.time() - silent

    def _read(self, nbytes: int) -> None:
        """Bytes that the core has not looked at."""
        self._see()
        if self._last >= 0:
            return
        self._last_byte = self._loop.time()
        # A drain tells each client so in its answers' heads, which is the reader's way.
        if self._plain and (not self._service.draining or self._core.receiving_for is not None):
            self._received(nbytes, self._core.receive(nbytes, self._next, _MAX_PIPELINED - len(self._waiting)))
        else:
            self._received(nbytes, nbytes << 32)

    def _received(self, nbytes: int, packed: int) -> None:
        """The core has looked, and says what it did, and what it left: see `HttpConnection.receive`."""
        self._see()
        started, left = packed >> 8 & 0xFFFFFF, packed >> 32
        if started:
            self._started(started)
        if packed & 0xFF:
            self._collect(self._core.take_answers())
        if left:
            self._reader.feed(self._buffer[nbytes - left : nbytes])
            self._plain = not self._reader.half_read
            self._begun = 0.0 if self._plain else self._begun or self._last_byte
        self._write()

    def eof_received(self) -> bool:
        # Nobody can tell a client that has gone from one that has only said all it will: as other servers do, it is
        # taken to be gone, and what it asked for is cancelled.
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        for pending in (self._timer, self._farewell):
            if pending is not None:
                pending.cancel()
        self._calls.close()
        self._streams.close()
        self._port.disconnect(self._token)
        self._core.lost()
        self._reader.close()
        self._on_close(self)

    def pause_writing(self) -> None:
        self._see()
        self._paused = True
        self._last_byte = self._loop.time()
        self._unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        self._rest()  # who does not read its answers may not ask for more

    def resume_writing(self) -> None:
        self._paused = False
        if self._streams:
            self._write()
            return
        self._wake()
        self._shorten()

    def _rest(self) -> None:
        if not self._resting and self._transport is not None and not self._transport.is_closing():
            self._resting = True
            self._transport.pause_reading()

    def _wake(self) -> None:
        if self._resting and not self._paused and len(self._waiting) < _PAUSE_PIPELINED and self._transport is not None:
            self._resting = False
            if not self._transport.is_closing():
                self._last_byte = self._loop.time()
                self._transport.resume_reading()

    # --- Requests.

    def _started(self, count: int) -> int:
        """Gives the next `count` numbers to requests; returns the last."""
        self._waiting.extend(_numbers(self._next, count))
        self._next = (self._next + count) % _NUMBERS
        if len(self._waiting) >= _PAUSE_PIPELINED:
            self._rest()
        return self._waiting[-1]

    def _expected(self) -> None:
        if not self._waiting and self._reader.version == "1.1":
            self._out.append(_CONTINUE)

    def _requested(self) -> None:
        """The reader has a whole request."""
        if self._last >= 0:
            return
        self._begun = 0.0
        if len(self._waiting) >= _MAX_PIPELINED:
            text = f"more than {_MAX_PIPELINED} requests were sent without reading an answer"
            self._fail(Response.error(429, text, (("Retry-After", "1"),)))
            return
        reader = self._reader
        number = self._started(1)
        extra = b""
        in_pieces = reader.route.kind in (Kind.STREAM, Kind.WEB_STREAM)
        endless = in_pieces and reader.version != "1.1"  # its end is the connection's
        if not reader.keep_alive or self._service.draining or endless:
            self._last = number
            extra = b"Connection: close\r\n"
        elif reader.version != "1.1":
            extra = b"Connection: keep-alive\r\n"
        if reader.origin:
            origin = reader.origin.decode("latin-1")
            extra += self._gateway.origins.headers(origin, reader.method, reader.route.allow, reader.forwarded)
        if reader.refusal is not None:
            if reader.stored:
                self._core.drop_body()
            self._put(number, reader.refusal.encode(head=reader.method == b"HEAD", extra=extra))
        elif reader.native:
            self._infer(number, extra)
        else:
            self._answer_in_python(number, extra)

    def _infer(self, number: int, extra: bytes) -> None:
        reader, route = self._reader, self._reader.route
        if reader.body is None and not reader.stored:
            reader.begin_body(0)  # an empty one
        if extra:
            self._extras[number] = extra
        form = _PREDICT if route.kind == Kind.PREDICT else _INFER
        if (web := reader.form) is not None:
            self._web[number] = web
            form = _BARE_WEB if web is WebForm.TEXT else _WEB
        asked = (number, route.model, route.version, reader.body, reader.json_bytes, reader.timeout, reader.accepts)
        if self._core.infer(*asked, extra, form, reader.headers):
            self._collect(self._core.take_answers())

    # --- What Python answers.

    def _answer_in_python(self, number: int, extra: bytes) -> None:
        reader, route = self._reader, self._reader.route
        method = reader.method.decode("latin-1")
        head = method == "HEAD"
        origin, host = reader.origin.decode("latin-1"), reader.host.decode("latin-1")
        request = Request("GET" if head else method, route.parts, reader.take_body(), origin, host, reader.form)
        if route.kind == Kind.INLINE:
            self._put(number, self._gateway.answer_inline(route, request).encode(head=head, extra=extra))
        else:
            chunked = reader.version == "1.1"
            call = Call(number, route, head, extra, reader.timeout, reader.headers, chunked)
            self._calls.start(call, request, reader.encoding, reader.accepts)

    def _answered(self, call: Call, answer: Answer) -> None:
        if isinstance(answer, Generation):
            self._generate(call, answer)
            return
        done = self._streams.open(call, answer) if isinstance(answer, WebCall) else answer
        if done is not None:
            self._put(call.number, done.encode(head=call.head, extra=call.extra))
        self._write()

    def _generate(self, call: Call, generation: Generation) -> None:
        number, route = call.number, call.route
        form = _GENERATE
        if route.kind is Kind.STREAM:
            form = _EVENTS
            self._events[number] = call
        if call.extra:
            self._extras[number] = call.extra
        asked = (number, route.model, route.version, generation.request, -1, call.timeout, generation.accepts)
        if self._core.infer(*asked, call.extra, form, call.headers):
            self._write_answers(self._core.take_answers())

    # --- The core's side, and what goes out.

    def act(self, bits: int) -> None:
        """Writes the answers that the core has. Called by the loop's port."""
        if bits and not self._lost:
            self._write_answers(self._core.take_answers())

    def _write_answers(self, answers: "list[HttpAnswer]") -> None:
        self._see()
        self._collect(answers)
        self._write()

    def _collect(self, answers: "list[HttpAnswer]") -> None:
        for number, code, http, said in answers:
            payload = said
            if code or self._extras or self._web or self._events:
                payload = self._finished(number, code, http, said)
            if payload is not None:
                self._put(number, payload)

    def _finished(self, number: int, code: int, http: int, said: Any) -> Payload | None:
        extra = self._extras.pop(number, b"")
        call = self._events.pop(number, None)
        if call is not None and not code and said is None:
            self._streams.begin_events(call)
            return None
        if (form := self._web.pop(number, None)) is not None and (code or form is WebForm.TEXT):
            return grpc_web.finished(code, said, form).encode(head=False, extra=extra)
        if code:
            return core_error(code, http, said).encode(head=False, extra=extra)
        payload: Payload = said
        return payload

    def _put(self, number: int, payload: Payload) -> None:
        """The answer to request `number`: out now, or behind those before it."""
        waiting = self._waiting
        if waiting[0] != number:
            self._done[number] = payload
            return
        done = self._done
        while True:
            waiting.popleft()
            if isinstance(payload, bytes):
                self._out.append(payload)
            else:
                self._out.extend(payload)
            if number == self._last:
                self._ending = True
            if not (done and waiting and waiting[0] in done):
                return
            number = waiting[0]
            payload = done.pop(number)

    def _write(self) -> None:
        transport = self._transport
        if transport is None or self._lost or transport.is_closing():
            self._out = []
            return
        out = self._out
        if out:
            self._out = []
            if len(out) == 1:
                transport.write(out[0])
            else:
                transport.writelines(out)
        if self._streams and not self._paused and not self._writes_on:
            moved, over = self._streams.write(self._waiting[0], transport)
            if over:
                self._put(self._waiting[0], b"")
                self._write()  # what is behind it
                return
            if moved:
                self._writes_on = True
                self._loop.call_soon(self._port.measured("http write", self._write_on))
        if self._ending or (self._leaving and not self._busy):
            self._end(transport)
        else:
            self._wake()
            self._shorten()

    def _write_on(self) -> None:
        self._writes_on = False
        self._write()

    def _end(self, transport: asyncio.Transport) -> None:
        if self._farewell is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._farewell = Farewell(transport, self._loop, self._config.write_stall_seconds)
        if self._resting:
            self._resting = False
            transport.resume_reading()  # to see its end
        transport.write_eof()

    def _fail(self, response: Response) -> None:
        """The last answer of this connection, behind those that are still to come."""
        if self._last >= 0 or self._lost:
            return
        # An inference whose body is only half here has its number already.
        number = self._waiting[-1] if self._core.receiving_for is not None else self._started(1)
        self._last = number
        self._put(number, response.encode(head=self._reader.is_head, extra=b"Connection: close\r\n"))
        self._write()

    # --- Time.

    def _arm(self) -> None:
        # One timer a connection, which looks at the clock when it fires: re-arming it for each read would cost more.
        self._see()
        config, now, transport = self._config, self._loop.time(), self._transport
        stall, whole = config.message_stall_seconds, config.message_whole_seconds
        if self._last >= 0 or transport is None:
            if self._farewell is not None or transport is None:
                return
            due = now + stall  # the last answer is on its way
        elif self._paused:
            unsent = transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._unsent, self._last_byte = unsent, now
            due = self._last_byte + config.write_stall_seconds
            if due <= now:
                transport.abort()
                return
        elif self._resting:
            self._last_byte = now
            due = now + stall
        elif self._reader.half_read or self._core.receiving_for is not None:
            due = self._last_byte + stall
            text = f"half a request, and no byte for {stall:g} s (--message-stall-seconds)"
            received = self._core.receiving_for
            begun = self._begun if received is None else now - received
            if begun and begun + whole < due:
                due = begun + whole
                text = f"no whole request in {whole:g} s (--message-whole-seconds)"
            if due <= now:
                self._fail(Response.error(408, text))
                return
        elif self._waiting:
            self._last_byte = now
            due = now + stall
        else:
            due = self._last_byte + config.idle_seconds
            if due <= now:
                transport.close()
                return
        wait = min(due - now, stall, whole, config.write_stall_seconds)
        self._timer = self._loop.call_later(wait, self._arm)
        self._shorten()

    # --- The server's side: shutting down.

    @property
    def open_calls(self) -> int:
        """Requests that are not answered yet."""
        self._see()
        return 0 if self._lost else len(self._waiting)

    def shutdown(self) -> None:
        """Ends the connection if it is idle; one in the middle of a request ends behind its answer."""
        self._see()
        if self._transport is None or self._last >= 0:
            return
        if self._busy:
            self._leaving = True
        else:
            self._transport.close()

    def end_streams(self) -> None:
        """Ends calls that have no end of their own, as Watch."""
        self._streams.cancel(_UNAVAILABLE, "the server is shutting down", endless=True)

    @property
    def _busy(self) -> bool:
        return bool(self._waiting) or self._reader.half_read or self._core.receiving_for is not None

    def abort_calls(self, message: str) -> None:
        """Answers every open request 503."""
        if self._lost:
            return
        self._see()
        self._core.abort_calls(_UNAVAILABLE, message)
        self._collect(self._core.take_answers())
        self._streams.cancel(_UNAVAILABLE, message)
        for number in self._calls.abandon():
            self._put(number, error_answer(Unavailable(message)).encode(head=False))
        self._leaving = True
        self._write()

    def abort(self) -> None:
        """Closes at once."""
        if self._transport is not None:
            self._transport.abort()
