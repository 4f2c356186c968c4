"""HTTP/1.1 on asyncio: `httptools` reads, this answers. For now the two health routes; the rest of the protocol will
come in at `HttpProtocol._answer`.

A readiness that is false is 503 (Triton: 400), because that is what load balancers and people look for.
"""

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus

import httptools

from headrace.config import Config
from headrace.service import Service

__all__ = ["HttpProtocol", "Response", "respond"]

_LINGER_SECONDS = 2.0  # after an answer that ends the connection, this long for the peer to close its side
_MAX_PIPELINED = 128  # answers of one read; more than that is nobody's honest pipeline


class Response:
    """Status, body and extra headers of one answer."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    @classmethod
    def error(cls, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> "Response":
        """The protocol's error body: {"error": "..."}."""
        return cls(status, json.dumps({"error": message}).encode(), (("Content-Type", "application/json"), *headers))

    def encode(self, *, head: bool, keep_alive: bool) -> bytes:
        """The bytes on the wire; a HEAD's answer has the headers of the body and not the body."""
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"Content-Length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers),
            "Connection: keep-alive" if keep_alive else "Connection: close",
        ]
        return "\r\n".join((*lines, "", "")).encode("latin-1") + (b"" if head else self.body)


def respond(service: Service, method: str, path: str) -> Response:
    """Routes one request. `path` has no query."""
    routes = {"/v2/health/live": lambda: service.live, "/v2/health/ready": lambda: service.ready}
    check = routes.get(path)
    if check is None:
        return Response.error(404, f"there is nothing at {path}")
    if method not in ("GET", "HEAD"):
        return Response.error(405, f"{path} takes GET and HEAD, not {method}", (("Allow", "GET, HEAD"),))
    return Response(200 if check() else 503)


class HttpProtocol(asyncio.Protocol):
    """One connection: keep-alive, pipelining, and a bound on everything that a peer can make us hold."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        service: Service,
        config: Config,
        on_close: Callable[["HttpProtocol"], None],
        *,
        refused: bool = False,
    ) -> None:
        """`refused`: there are too many connections, so this one gets a 503."""
        self._loop = loop
        self._service = service
        self._config = config
        self._on_close = on_close
        self._refused = refused
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._header_bytes = 0  # read since the last whole request, as long as its header block is not whole
        self._parsed_bytes = 0  # of the target and the headers that are whole
        self._body_bytes = 0
        self._begun = 0.0
        self._in_request = False
        self._in_body = False
        self._ending = False  # our last answer is written
        self._answers: list[bytes] = []
        self._last_byte = loop.time()

    # --- The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a socket: it reads and writes
        if self._refused:
            limit = self._config.max_connections
            self._fail(503, f"there are {limit} connections, and more are not taken (--max-connections)")
        else:
            self._arm()

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        self._last_byte = self._loop.time()
        if not self._in_body:
            self._header_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # answered as if it had not asked, which HTTP allows; on_message_complete ended the connection
        except httptools.HttpParserError as error:
            self._fail(400, f"this is not HTTP/1.1: {error}")
        else:
            if not self._in_body:
                self._check_header(self._header_bytes)
        self._flush()

    def eof_received(self) -> bool:
        return False  # a client that has said all it will has its answers already: they are written as we read

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        del self._parser  # it holds us: the two would else wait for the garbage collector, and the loop with them
        self._on_close(self)

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()  # who does not read its answers may not ask for more

    def resume_writing(self) -> None:
        if self._transport is not None and not self._ending:
            self._transport.resume_reading()

    # --- httptools' side.

    def on_message_begin(self) -> None:
        self._in_request = True
        self._in_body = False
        self._begun = self._loop.time()
        self._target = b""
        self._parsed_bytes = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._parsed_bytes += len(url)
        self._check_header(self._parsed_bytes)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._parsed_bytes += len(name) + len(value) + 4
        self._check_header(self._parsed_bytes)

    def on_headers_complete(self) -> None:
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._config.max_request_bytes:
            limit = self._config.max_request_bytes
            self._fail(413, f"a request may have {limit} bytes (--max-request-bytes)")

    def on_message_complete(self) -> None:
        self._in_request = self._in_body = False
        self._header_bytes = 0
        if self._ending:
            return
        method = self._parser.get_method().decode("latin-1")
        path = self._target.split(b"?", 1)[0].decode("latin-1")
        keep_alive = (
            self._parser.should_keep_alive() and not self._parser.should_upgrade() and not self._service.draining
        )
        if len(self._answers) >= _MAX_PIPELINED:
            self._fail(429, f"more than {_MAX_PIPELINED} requests were sent without reading an answer")
            return
        answer = respond(self._service, method, path)
        self._answers.append(answer.encode(head=method == "HEAD", keep_alive=keep_alive))
        if not keep_alive:
            self._ending = True

    # --- Ours.

    def _check_header(self, size: int) -> None:
        limit = self._config.max_header_bytes
        if size > limit:
            self._fail(431, f"a header block may have {limit} bytes (--max-header-bytes)")

    def _fail(self, status: int, message: str) -> None:
        if not self._ending:
            self._ending = True
            self._answers.append(Response.error(status, message).encode(head=False, keep_alive=False))
            self._flush()

    def _flush(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._answers:
            transport.write(b"".join(self._answers))
            self._answers.clear()
        if self._ending:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(_LINGER_SECONDS, transport.abort)
            transport.write_eof()

    def _arm(self) -> None:
        # One timer a connection, which looks at the clock when it fires: re-arming it for each read would cost more.
        config, now = self._config, self._loop.time()
        stall, whole = config.message_stall_seconds, config.message_whole_seconds
        if not (self._in_request or self._header_bytes):
            due = self._last_byte + config.idle_seconds
            if due <= now and self._transport is not None:
                self._transport.close()
                return
        else:
            due = self._last_byte + stall
            if due <= now:
                self._fail(408, f"half a request, and no byte for {stall:g} s (--message-stall-seconds)")
                return
            if self._in_request:
                due = min(due, self._begun + whole)
                if due <= now:
                    self._fail(408, f"no whole request in {whole:g} s (--message-whole-seconds)")
                    return
        self._timer = self._loop.call_later(min(due - now, stall, whole), self._arm)

    def shutdown(self) -> None:
        """Ends the connection if it is idle; one in the middle of a request ends behind its answer."""
        if self._transport is not None and not (self._in_request or self._header_bytes):
            self._transport.close()

    def abort(self) -> None:
        """Closes at once."""
        if self._transport is not None:
            self._transport.abort()
