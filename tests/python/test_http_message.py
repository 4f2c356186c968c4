"""HTTP's values: answers as bytes, encodings, deadlines, bodies."""

import gzip
import zlib

import pytest

from headrace.errors import HeadraceError, InvalidArgument, ResourceExhausted
from headrace.http_message import (
    DEFLATE,
    GZIP,
    IDENTITY,
    Request,
    Response,
    accepted_encoding,
    compress,
    content_encoding,
    core_error,
    error_answer,
    inflate,
    parse_timeout,
)


def test_an_answer_on_the_wire() -> None:
    answer = Response.of_json({"a": "ä"})
    body = '{"a": "ä"}'.encode()
    start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n"
    assert answer.encode(head=False) == start + b"\r\n" + body
    assert answer.encode(head=True, extra=b"A: b\r\n") == start + b"A: b\r\n\r\n"
    assert Response(204).encode(head=False) == b"HTTP/1.1 204 No Content\r\n\r\n"
    assert Response(499).encode(head=False).startswith(b"HTTP/1.1 499 Client Closed Request\r\n")


def test_errors_by_the_table() -> None:
    answer = error_answer(ResourceExhausted("full"))
    assert (answer.status, answer.body) == (429, b'{"error": "full"}')
    assert ("Retry-After", "1") in answer.headers
    assert core_error(11, 413, "too large").status == 413
    assert core_error(4, 0, "late").status == 504


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (b"", IDENTITY),
        (b"gzip", GZIP),
        (b"deflate, gzip", GZIP),
        (b"deflate, x-gzip;q=0.9", DEFLATE),
        (b"br,\tx-gzip", GZIP),
        (b"gzip;q=0.5, deflate;q=0.8", DEFLATE),
        (b"gzip;q=0", IDENTITY),
        (b"br, *", GZIP),
        (b"GZIP ; q=1", GZIP),
        (b"gzip;q=x", IDENTITY),
    ],
)
def test_what_an_answer_may_be_compressed_with(value: bytes, encoding: int) -> None:
    assert accepted_encoding(value) == encoding


def test_content_encodings() -> None:
    assert [content_encoding(v) for v in (b"gzip", b"X-GZIP", b"deflate", b"identity", b"")] == [1, 1, 2, 0, 0]
    assert content_encoding(b"br") is None


@pytest.mark.parametrize("encoding", [GZIP, DEFLATE])
def test_compressed_and_back(encoding: int) -> None:
    answer = compress(Response(200, b"x" * 5000), encoding)
    assert len(answer.body) < 100
    assert inflate(answer.body, encoding, 5000) == b"x" * 5000
    assert inflate(answer.body, encoding, 4999) is None
    for broken in (answer.body[:-3], answer.body + b"more", b"nonsense"):
        with pytest.raises(InvalidArgument):
            inflate(broken, encoding, 5000)
    assert zlib.decompress(answer.body, 47) == b"x" * 5000
    assert encoding == DEFLATE or gzip.decompress(answer.body) == b"x" * 5000


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *[(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"250m", 0.25), (b"5u", 5e-6), (b"7n", 7e-9), (b"0S", 0)],
        (b"000000000S", 0),
        (b"123456789S", 123456789),  # more digits than gRPC has, and what they say
        (b"100800000m", 28 * 3600),
    ],
)
def test_deadlines(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"99999999H", b"1000000000S", b"1" * 19 + b"n", b"9" * 60_000 + b"m"])
def test_a_deadline_that_nobody_will_see(value: bytes) -> None:
    assert parse_timeout(value) == -1.0


@pytest.mark.parametrize("value", [b"", b"1", b"S", b"-1S", b"1.5S", b"1s", "१S".encode(), b"1" * 9])
def test_what_is_no_deadline(value: bytes) -> None:
    assert parse_timeout(value) is None


def test_a_json_body() -> None:
    assert Request("POST", (), b" ").json() == {}
    assert Request("POST", (), b'{"a": 1}').json() == {"a": 1}
    for body in (b"[]", b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000):
        with pytest.raises(HeadraceError):
            Request("POST", (), body).json()
