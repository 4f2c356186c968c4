"""What an HTTP/1.1 request says of itself: `httptools` reads it, this keeps what means something here, puts its body
into the core's memory, and refuses what can be refused before the body has come.
"""

import re
from collections.abc import Callable, MutableMapping, Sequence
from typing import NamedTuple

import httptools

from headrace.config import Config
from headrace.engine import HttpConnection
from headrace.errors import HeadraceError, InvalidArgument
from headrace.grpc_web import WebForm, failure, from_text, web_form
from headrace.header_pattern import header_matcher
from headrace.http_gateway import MISSING, Gateway, Kind, Route
from headrace.http_message import (
    IDENTITY,
    Response,
    accepted_encoding,
    content_encoding,
    core_error,
    error_answer,
    parse_timeout,
)

__all__ = ["Call", "RequestReader", "reader_for"]

_MAX_ROUTES = 4096  # of inference, remembered by their target
_MAX_DIGITS = 15
_ASKED = b"access-control-request-headers"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,256}")
_INTERNAL = 13

# Headers that mean something here.
(
    _IGNORED,
    _LENGTH,
    _JSON_LENGTH,
    _ENCODING,
    _ACCEPTS,
    _TRANSFER,
    _EXPECT,
    _TIMEOUT,
    _ORIGIN,
    _HOST,
    _CONNECTION,
    _TYPE,
) = range(12)
_HEADERS = {
    b"content-length": _LENGTH,
    b"inference-header-content-length": _JSON_LENGTH,
    b"content-encoding": _ENCODING,
    b"accept-encoding": _ACCEPTS,
    b"transfer-encoding": _TRANSFER,
    b"expect": _EXPECT,
    b"grpc-timeout": _TIMEOUT,
    b"origin": _ORIGIN,
    b"host": _HOST,
    b"connection": _CONNECTION,
    b"upgrade": _CONNECTION,
    b"content-type": _TYPE,
}


class Call(NamedTuple):
    """A request that Python answers. `extra`: header lines of its answer. `headers`: of the request, those that may
    become parameters. `chunked`: its answer may come in chunks."""

    number: int
    route: Route
    head: bool
    extra: bytes
    timeout: float
    headers: Sequence[tuple[bytes, bytes]]
    chunked: bool


def _nothing(*_: object) -> None:
    """What is called when nobody listens any more."""


class RequestReader:
    """The requests of one connection, one after the other. What it has read is good from `on_request` to its end."""

    headers: Sequence[tuple[bytes, bytes]] = ()  # that may become parameters of an inference: none
    forwarded = ""  # of what a preflight asks for, names of headers that would be forwarded, each with a comma before

    def __init__(
        self,
        core: HttpConnection,
        gateway: Gateway,
        routes: MutableMapping[bytes, Route],
        *,
        on_request: Callable[[], None],
        on_refusal: Callable[[Response], None],
        on_expect: Callable[[], None],
    ) -> None:
        """`on_request`: one is whole. `on_refusal`: this is the last answer of the connection, because nobody can tell
        where the next request begins. `on_expect`: the client waits for 100 Continue."""
        self._core = core
        self._gateway = gateway
        self._config = gateway.config
        self._routes = routes
        self._on_request = on_request
        self._on_refusal = on_refusal
        self._on_expect = on_expect
        self._parser = httptools.HttpRequestParser(self)
        self.in_request = False
        self._in_headers = False
        self._ended = False
        self._header_bytes = 0  # read since the last whole request, as long as its header block is not whole
        self._parsed_bytes = 0  # of the target and the headers that are whole
        self._reset()

    def _reset(self) -> None:
        self._target = b""
        self._knows_method = False  # the parser, of this request
        self.method = b""
        self.route = MISSING
        self.length = -1
        self._chunked = False
        self.json_bytes = -1
        self._encoding: int | None = IDENTITY
        self.accepts = IDENTITY
        self.timeout = -1.0
        self.origin = b""
        self.host = b""
        self._type = b""
        self._expect = b""
        self._bad: HeadraceError | None = None
        self.refusal: Response | None = None  # decided before the body came
        self.body: bytes | None = None  # whole at first sight
        self.stored = False  # the core has (the beginning of) the body
        self._body_bytes = 0

    # --- The connection's side.

    def feed(self, data: memoryview) -> None:
        """Reads on. Ends with on_refusal for what is not HTTP."""
        if not self.in_request or self._in_headers:
            self._header_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # answered as if it had not asked, which HTTP allows; the connection ends behind the answer
        except httptools.HttpParserError as error:
            self._knows_method = self._knows_method or isinstance(error, httptools.HttpParserInvalidURLError)
            self._refuse(Response.error(400, f"this is not HTTP/1.1: {error}"))
        else:
            if self._header_bytes and (self._in_headers or not self.in_request):
                self._check_header(self._header_bytes)

    @property
    def half_read(self) -> bool:
        """A request has begun and is not whole."""
        return self.in_request or self._header_bytes != 0

    @property
    def is_head(self) -> bool:
        """Whether the request that is being read, however broken, is a HEAD: its answer has no body."""
        return self._knows_method and self._parser.get_method() == b"HEAD"

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants, and can have, another request on this connection."""
        return bool(self._parser.should_keep_alive()) and not self._parser.should_upgrade()

    @property
    def version(self) -> str:
        """Of HTTP: "1.1"."""
        return str(self._parser.get_http_version())

    @property
    def encoding(self) -> int:
        """Of the body: one that is known, once there is no refusal."""
        return self._encoding or IDENTITY

    @property
    def native(self) -> bool:
        """Whether the core answers it."""
        kind = self.route.kind
        return kind in (Kind.INFER, Kind.WEB_INFER) or (kind == Kind.PREDICT and self.method == b"POST")

    @property
    def form(self) -> WebForm | None:
        """Of gRPC-Web, if the request says that it is that."""
        return web_form(self._type) if self.route.kind >= Kind.WEB_INFER else None

    def take_body(self) -> bytes:
        """The body, for Python."""
        return self._core.take_body() if self.stored else self.body or b""

    def close(self) -> None:
        """Nothing more is read. Needed: the parser holds this object, this its owner, and all would wait for the
        collector."""
        self._ended = True
        self.__dict__.pop("_parser", None)
        self._on_request = self._on_expect = _nothing
        self._on_refusal = _nothing

    # --- httptools' side.

    def on_message_begin(self) -> None:
        self.in_request = self._in_headers = True

    def on_url(self, url: bytes) -> None:
        self._knows_method = True
        self._target += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        value = value.rstrip(b" \t")  # which is no part of it (RFC 9110, 5.5), and which the parser leaves
        meaning = _HEADERS.get(name.lower(), _IGNORED)
        if meaning == _LENGTH:
            self.length = int(value)  # the parser has checked it
        elif meaning == _JSON_LENGTH:
            if value.isdigit() and len(value) <= _MAX_DIGITS:
                self.json_bytes = int(value)
            else:
                text = value.decode("latin-1")
                self._bad = InvalidArgument(f"Inference-Header-Content-Length must be a number of bytes, not '{text}'")
        elif meaning == _ENCODING:
            self._encoding = content_encoding(value)
        elif meaning == _ACCEPTS:
            self.accepts = accepted_encoding(value)
        elif meaning == _TRANSFER:
            self._chunked = True
        elif meaning == _EXPECT:
            self._expect = value
        elif meaning == _ORIGIN:
            self.origin = value
        elif meaning == _HOST:
            self.host = value
        elif meaning == _TYPE:
            self._type = value
        elif meaning == _TIMEOUT:
            seconds = parse_timeout(value)
            if seconds is None:
                text = value.decode("latin-1")
                self._bad = InvalidArgument(f"grpc-timeout must be a number and a unit of H M S m u n, not '{text}'")
            else:
                self.timeout = seconds

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._header_bytes = 0
        self.method = self._parser.get_method()
        route = self._routes.get(self._target)
        if route is None:
            route = self._gateway.route(self._target)
            if route.kind == Kind.INFER and len(self._routes) < _MAX_ROUTES:
                self._routes[self._target] = route
        self.route = route
        self.refusal = self._judge(route)
        if self.refusal is not None and self._expect:
            self._refuse(self.refusal)  # the body may come or not

    def _judge(self, route: Route) -> Response | None:
        """Refuses what can be refused before the body is here."""
        method = self.method.decode("latin-1")
        path = self._target.split(b"?", 1)[0].decode("latin-1")
        if self.length > self._config.max_request_bytes:
            self._refuse(self._too_large())
            return None
        if route.kind == Kind.MISSING:
            return Response.error(404, f"there is nothing at {path}")
        if method == "OPTIONS":
            return Response(204, b"", (("Allow", route.allow),))
        if method not in route.methods and not (method == "HEAD" and "GET" in route.methods):
            return Response.error(405, f"{path} takes {route.allow}, not {method}", (("Allow", route.allow),))
        if route.kind >= Kind.WEB_INFER and self.form is None:
            known = (("Accept", ", ".join(WebForm)),)
            return Response.error(415, f"{path} is a gRPC method: over HTTP/1.1 it takes gRPC-Web", known)
        if self._bad is not None:
            # A page cannot read an HTTP status as gRPC's: it is told as the port of gRPC would.
            return error_answer(self._bad) if self.form is None else failure(_INTERNAL, self._bad.message, self.form)
        if self.form is WebForm.TEXT and self._encoding != IDENTITY:
            return Response.error(415, "a body in gRPC-Web's text form is not compressed besides")
        if self._encoding is None:
            known = (("Accept-Encoding", "gzip, deflate"),)
            return Response.error(415, "Content-Encoding may be gzip, deflate or identity", known)
        if route.body and method == "POST" and self.length < 0 and not self._chunked:
            return Response.error(411, f"{path} takes a body: send Content-Length, or chunks")
        if self._expect:
            if self._expect.lower() != b"100-continue":
                return Response.error(417, "of Expect only 100-continue is known")
            self._on_expect()
        return None

    def on_body(self, body: bytes) -> None:
        if self._ended:
            return
        size = len(body)
        if size == self.length and self._encoding == IDENTITY:
            self.body = body
            return
        self._body_bytes += size
        if self._body_bytes > self._config.max_request_bytes:
            self._refuse(self._too_large())
        elif self.refusal is None:
            refused = None if self.stored else self.begin_body(size)
            if refused is None:
                refused = self._core.append_body(body)
            if refused is not None:
                self.stored = False
                self._refuse(core_error(refused[0], 0, refused[1]))

    def begin_body(self, here: int) -> tuple[int, str] | None:
        """The core makes room for a body, `here` bytes of which are at hand."""
        self.stored = True
        align_at = self.json_bytes if self.json_bytes > 0 and self._encoding == IDENTITY else 0
        # Python inflates what the core does not infer with.
        encoding = self.encoding if self.native else IDENTITY
        return self._core.begin_body(self.length, align_at, encoding, here)

    def on_message_complete(self) -> None:
        self.in_request = False
        self._parsed_bytes = 0
        if self._ended:
            return
        if self.refusal is None and self.form is WebForm.TEXT:
            self._decode_text(WebForm.TEXT)
        self._on_request()
        self._reset()

    def _decode_text(self, form: WebForm) -> None:
        body, self.stored = self.take_body(), False
        try:
            self.body = from_text(body)
        except HeadraceError as error:
            self.refusal = failure(error.code, error.message, form)

    # --- Bounds.

    def _too_large(self) -> Response:
        limit = self._config.max_request_bytes
        return Response.error(413, f"the body is over the limit of {limit} bytes (--max-request-bytes)")

    def _count(self, size: int) -> None:
        self._parsed_bytes += size
        self._check_header(self._parsed_bytes)

    def _check_header(self, size: int) -> None:
        limit = self._config.max_header_bytes
        if size > limit:
            self._refuse(Response.error(431, f"a header block may have {limit} bytes (--max-header-bytes)"))

    def _refuse(self, response: Response) -> None:
        if self._ended:
            return
        self._ended = True
        if self.stored:
            self._core.drop_body()
        self._on_refusal(response)


class ForwardingReader(RequestReader):
    """The same, for a server that makes parameters of headers: which of them, the core knows."""

    def _reset(self) -> None:
        super()._reset()
        self.headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self.headers.append((name, value.rstrip(b" \t")))

    @property
    def forwarded(self) -> str:  # type: ignore[override]  # see above
        """Of Access-Control-Request-Headers."""
        web = self.route.kind >= Kind.WEB_INFER
        config = self._config
        matches = header_matcher(config.grpc_header_forward_pattern if web else config.http_header_forward_pattern)
        if matches is None:
            return ""
        asked = b",".join(value for name, value in self.headers if name.lower() == _ASKED).lower().decode("latin-1")
        return "".join(
            f", {name}" for name in asked.replace(" ", "").split(",") if _NAME.fullmatch(name) and matches(name)
        )


def reader_for(config: Config) -> type[RequestReader]:
    """The kind of reader that a server of this configuration needs."""
    forwards = config.grpc_header_forward_pattern or config.http_header_forward_pattern
    return ForwardingReader if forwards else RequestReader
