"""Requests and answers of HTTP/1.1 as values, and how an error becomes an answer."""

import dataclasses
import json
import re
import zlib
from http import HTTPStatus
from typing import Any

from headrace.errors import HeadraceError, InvalidArgument, from_code, status_of

__all__ = [
    "COMPRESS_BYTES",
    "GZIP",
    "IDENTITY",
    "JSON",
    "Request",
    "Response",
    "accepted_encoding",
    "compress",
    "content_encoding",
    "core_error",
    "error_answer",
    "inflate",
    "parse_timeout",
]

JSON = ("Content-Type", "application/json")
IDENTITY, GZIP, DEFLATE = 0, 1, 2  # as the core numbers them
COMPRESS_BYTES = 1024  # a smaller answer would hardly shrink
_ENCODINGS = {b"": IDENTITY, b"identity": IDENTITY, b"gzip": GZIP, b"x-gzip": GZIP, b"deflate": DEFLATE}
_NAMES = {GZIP: "gzip", DEFLATE: "deflate"}
_WINDOW = {GZIP: 16 + zlib.MAX_WBITS, DEFLATE: zlib.MAX_WBITS}
_TIMEOUT = re.compile(rb"(\d+)([HMSmun])")
_MOST_DIGITS = 18
_LONGEST = 1e9  # seconds: 31 years
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


@dataclasses.dataclass
class Request:
    """What a handler gets: percent-decoded parts of the path, and the body, inflated."""

    method: str
    parts: tuple[str, ...]
    body: bytes = b""
    origin: str = ""
    host: str = ""
    form: str | None = None  # of gRPC-Web
    _parsed: dict[str, Any] | None = None

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; {} for an empty body. InvalidArgument says what is wrong with it."""
        if self._parsed is None:
            self._parsed = _parse(self.body)
        return self._parsed


def _parse(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise InvalidArgument(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument("the body must be a JSON object")
    return value


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


class Response:
    """Status, body and extra headers of one answer."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    @classmethod
    def of_json(cls, value: object, status: int = 200) -> "Response":
        """A JSON answer."""
        return cls(status, json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"), (JSON,))

    @classmethod
    def error(cls, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> "Response":
        """The protocol's error body: {"error": "..."}."""
        return cls(status, json.dumps({"error": message}).encode(), (JSON, *headers))

    def encode(self, *, head: bool, extra: bytes = b"") -> bytes:
        """The bytes on the wire; a HEAD's answer has the headers of the body and not the body. `extra`: more header
        lines, each with its line end."""
        length = (("Content-Length", str(len(self.body))),) if self.status != 204 else ()
        start = Response.head(self.status, (*self.headers, *length))
        return b"".join((start, extra, b"\r\n", b"" if head else self.body))

    @staticmethod
    def head(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
        """The status line and header lines; more of them and the empty line may follow."""
        lines = [f"HTTP/1.1 {status} {_phrase(status)}", *(f"{name}: {value}" for name, value in headers), ""]
        return "\r\n".join(lines).encode("latin-1", "replace")


def _phrase(status: int) -> str:
    return "Client Closed Request" if status == 499 else HTTPStatus(status).phrase


def error_answer(error: HeadraceError, http: int = 0) -> Response:
    """The answer that a status becomes; `http` in place of the table's where that would say too little."""
    status = http or status_of(error).http
    return Response.error(status, error.message, (("Retry-After", "1"),) if status == 429 else ())


def core_error(code: int, http: int, message: str) -> Response:
    """The same for a status of the core."""
    return error_answer(from_code(code, message), http)


def content_encoding(value: bytes) -> int | None:
    """The core's number of a Content-Encoding; None for one that is not known."""
    return _ENCODINGS.get(value.strip().lower())


def accepted_encoding(value: bytes) -> int:
    """What an Accept-Encoding lets an answer be compressed with: the best liked of gzip and deflate, or nothing. As the
    core has it, gzip where both are liked as much."""
    best, chosen = 0.0, IDENTITY
    for part in value.lower().split(b","):
        name, _, quality = part.partition(b";")
        encoding = GZIP if name.strip() == b"*" else _ENCODINGS.get(name.strip(), IDENTITY)
        try:
            weight = float(quality.partition(b"=")[2]) if quality else 1.0
        except ValueError:
            continue
        if encoding != IDENTITY and (weight > best or (weight == best > 0 and encoding == GZIP)):
            best, chosen = weight, encoding
    return chosen


def compress(response: Response, encoding: int) -> Response:
    """The same answer, compressed."""
    packer = zlib.compressobj(1, zlib.DEFLATED, _WINDOW[encoding])
    body = packer.compress(response.body) + packer.flush()
    return Response(response.status, body, (*response.headers, ("Content-Encoding", _NAMES[encoding])))


def inflate(body: bytes, encoding: int, limit: int) -> bytes | None:
    """The inflated body, None if it would have more than `limit` bytes. InvalidArgument: it is broken."""
    unpacker = zlib.decompressobj(_WINDOW[encoding])
    try:
        inflated = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidArgument(f"the body cannot be inflated: {error}") from None
    if len(inflated) > limit:
        return None
    if not unpacker.eof:
        raise InvalidArgument("the compressed body is cut short")
    if unpacker.unused_data:
        raise InvalidArgument(f"{len(unpacker.unused_data)} bytes follow the end of the compressed body")
    return inflated


def parse_timeout(value: bytes) -> float | None:
    """Seconds of a grpc-timeout ("250m"), negative where that is no deadline; None when it is not one.

    gRPC has 8 digits at most; its client for browsers sends what a deadline has in milliseconds, which are more of
    them from 28 hours on.
    """
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        return None
    digits = match.group(1).lstrip(b"0")
    seconds = int(digits or b"0") * _UNITS[match.group(2)] if len(digits) <= _MOST_DIGITS else _LONGEST
    return seconds if seconds < _LONGEST else -1.0
