"""HTTP/1.1: the answers, keep-alive and pipelining, and a bound on everything that a peer can send."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace import config
from headrace.http_gateway import HttpProtocol, Response, respond

HOST = config.Host(cores=2, memory_bytes=8 * config.GIB)
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


def service(live: bool = True, ready: bool = True, draining: bool = False) -> Any:
    return SimpleNamespace(live=live, ready=ready, draining=draining)


class Client:
    """One connection to an HttpProtocol on a real socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:-2])
        body = b"" if head else await self.reader.readexactly(int(headers["Content-Length"]))
        return int(lines[0].split(" ")[1]), headers, body

    async def ended(self) -> bool:
        return await self.reader.read() == b""


@contextlib.asynccontextmanager
async def connected(
    answers: Any = None,
    *,
    refused: bool = False,
    on_close: Callable[[object], None] = lambda _: None,
    **flags: object,
) -> AsyncIterator[Client]:
    loop = asyncio.get_running_loop()
    settings = config.resolve(flags, host=HOST)
    answering = cast(Any, answers or service())
    server = await loop.create_server(
        lambda: HttpProtocol(loop, answering, settings, on_close, refused=refused), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        server.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


# --- Routes


@pytest.mark.parametrize(
    ("live", "ready", "path", "status"),
    [
        (True, True, "/v2/health/live", 200),
        (True, False, "/v2/health/live", 200),
        (True, True, "/v2/health/ready", 200),
        (True, False, "/v2/health/ready", 503),
    ],
)
def test_health(live: bool, ready: bool, path: str, status: int) -> None:
    for method in ("GET", "HEAD"):
        answer = respond(service(live, ready), method, path)
        assert (answer.status, answer.body) == (status, b"")


def test_errors_are_json_and_name_the_thing() -> None:
    missing = respond(service(), "GET", "/v2/nothing")
    assert missing.status == 404
    assert "/v2/nothing" in json.loads(missing.body)["error"]
    wrong = respond(service(), "POST", "/v2/health/live")
    assert wrong.status == 405
    assert ("Allow", "GET, HEAD") in wrong.headers
    assert "POST" in json.loads(wrong.body)["error"]


def test_a_heads_answer_has_the_headers_only() -> None:
    encoded = Response.error(404, "no").encode(head=True, keep_alive=True)
    assert encoded.endswith(b"\r\n\r\n")
    assert b"Content-Length: 15\r\n" in encoded


# --- Connections


def test_keep_alive_and_queries() -> None:
    async def work() -> None:
        async with connected() as client:
            for _ in range(3):
                await client.send(b"GET /v2/health/ready?a=b HTTP/1.1\r\nHost: x\r\n\r\n")
                status, headers, body = await client.answer()
                assert (status, headers["Connection"], body) == (200, "keep-alive", b"")

    run(work())


def test_byte_by_byte() -> None:
    async def work() -> None:
        async with connected() as client:
            await client.send(*(LIVE[i : i + 1] for i in range(len(LIVE))))
            assert (await client.answer())[0] == 200

    run(work())


def test_pipelined_requests_are_answered_in_order() -> None:
    async def work() -> None:
        async with connected(service(ready=False)) as client:
            ready = LIVE.replace(b"live", b"ready")
            await client.send(LIVE + ready + LIVE + ready[:20], ready[20:])
            assert [(await client.answer())[0] for _ in range(4)] == [200, 503, 200, 503]

    run(work())


@pytest.mark.parametrize(
    "request_bytes",
    [
        LIVE.replace(b"Host: x", b"Connection: close"),
        b"GET /v2/health/live HTTP/1.0\r\n\r\n",
        LIVE.replace(b"Host: x", b"Connection: Upgrade\r\nUpgrade: h2c"),  # not done, and no error either
    ],
)
def test_a_connection_ends_when_it_should(request_bytes: bytes) -> None:
    async def work() -> None:
        closed = asyncio.Event()
        async with connected(on_close=lambda _: closed.set()) as client:
            await client.send(request_bytes)
            status, headers, _ = await client.answer()
            assert (status, headers["Connection"]) == (200, "close")
            assert await client.ended()
            client.writer.close()
            await closed.wait()

    run(work())


def test_a_drain_ends_connections_behind_their_answer() -> None:
    async def work() -> None:
        async with connected(service(ready=False, draining=True)) as client:
            await client.send(LIVE)
            assert (await client.answer())[1]["Connection"] == "close"
            assert await client.ended()

    run(work())


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ([b"nonsense\r\n\r\n"], 400, "not HTTP/1.1"),
        ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], 400, "not HTTP/1.1"),
        ([b"GET /", b"a" * 3000], 431, "--max-header-bytes"),
        ([b"GET / HTTP/1.1\r\nA: " + b"a" * 3000 + b"\r\n\r\n"], 431, "2048"),
        ([b"GET / HTTP/1.1\r\n", *[b"A: b\r\n"] * 600], 431, "2048"),
        ([b"GET / HTTP/1.1\r\nA: ", b"a" * 1000, b"a" * 1500], 431, "2048"),
        ([b"POST / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000], 413, "--max-request-bytes"),
        (
            [b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"400\r\n" + b"x" * 1024 + b"\r\n"] * 5],
            413,
            "4096",
        ),
    ],
)
def test_what_is_too_much_or_wrong_is_refused_and_the_connection_ends(
    sent: list[bytes], status: int, words: str
) -> None:
    async def work() -> None:
        async with connected(max_header_bytes=2048, max_request_bytes=4096) as client:
            with contextlib.suppress(ConnectionError):  # it may be answered, and closed, before the last piece
                await client.send(*sent)
            answered, headers, body = await client.answer()
            assert (answered, headers["Connection"]) == (status, "close")
            assert words in json.loads(body)["error"]
            assert await client.ended()

    run(work())


def test_a_body_within_the_bound_is_read_and_the_next_request_served() -> None:
    async def work() -> None:
        async with connected(max_header_bytes=1024) as client:
            post = b"POST /v2/health/live HTTP/1.1\r\nContent-Length: 4000\r\n\r\n" + b"x" * 4000
            await client.send(post, LIVE)
            assert (await client.answer())[0] == 405
            assert (await client.answer())[0] == 200

    run(work())


def test_half_a_request_is_not_waited_for() -> None:
    async def work() -> None:
        async with connected(message_stall_seconds=0.05) as client:
            await client.send(LIVE[:30])
            status, _, body = await client.answer()
            assert status == 408
            assert "--message-stall-seconds" in json.loads(body)["error"]

    run(work())


def test_a_slow_request_has_an_end() -> None:
    async def work() -> None:
        async with connected(message_whole_seconds=0.05) as client:
            await client.send(LIVE[:-2])
            status, _, body = await client.answer()
            assert status == 408
            assert "--message-whole-seconds" in json.loads(body)["error"]

    run(work())


def test_an_idle_connection_is_closed() -> None:
    async def work() -> None:
        async with connected(idle_seconds=0.05, message_stall_seconds=0.05) as client:
            await client.send(LIVE)
            assert (await client.answer())[0] == 200
            assert await client.ended()

    run(work())


def test_one_connection_too_many_is_told_so() -> None:
    async def work() -> None:
        async with connected(refused=True, max_connections=7) as client:
            status, _, body = await client.answer()
            assert status == 503
            assert "7 connections" in json.loads(body)["error"]
            assert await client.ended()

    run(work())


def test_too_many_pipelined_requests_in_one_read() -> None:
    async def work() -> None:
        async with connected() as client:
            await client.send(LIVE * 200)
            statuses: list[int] = []
            while not statuses or statuses[-1] == 200:
                statuses.append((await client.answer())[0])
            assert statuses[-1] == 429

    run(work())
