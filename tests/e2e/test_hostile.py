"""Peers that break the protocol, flood or sit: the process lives, others are served, and nothing is left behind."""

import contextlib
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hpack
import pytest

from e2e.checks import check_ends_clean, check_serves
from e2e.h2_peer import (
    CONTINUATION,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INFER,
    LIVE,
    LONG,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Peer,
    add_sub,
    connect,
    frame,
    frames_of,
    headers,
    hello,
    kill,
    message,
    read_to_end,
    slow,
)
from server_process import ServerProcess

Serve = Callable[..., ServerProcess]
ENHANCE_YOUR_CALM, REFUSED_STREAM, CANCEL = 11, 7, 8


@pytest.fixture
def small_models(repository: Callable[..., Path], models: Path) -> Path:
    return repository(**{name: models / f"{name}.onnx" for name in ("add_sub", "slow")})


def open_sockets(server: ServerProcess) -> int:
    """Sockets that the server has open, its listening ones included."""
    found = 0
    for descriptor in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(descriptor.readlink()).startswith("socket:")
    return found


def wait_for_sockets(server: ServerProcess, count: int) -> None:
    deadline = time.monotonic() + LONG
    while open_sockets(server) > count:
        assert time.monotonic() < deadline, f"{open_sockets(server)} sockets are still open"
        server.process.poll()
        time.sleep(0.02)


def goaway_code(data: bytes) -> int | None:
    """The code of the last GOAWAY in what a server has sent."""
    codes = [struct.unpack(">I", payload[4:8])[0] for kind, _, _, payload in frames_of(data) if kind == GOAWAY]
    return codes[-1] if codes else None


def pour(plug: socket.socket, pieces: Iterator[bytes], *, reading: bool) -> bytes:
    """Writes pieces until there are no more or the server has had enough; returns what it said, to its end."""
    heard = b""
    try:
        for piece in pieces:
            plug.sendall(piece)
            if reading:
                plug.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    heard += plug.recv(1 << 20)
                plug.settimeout(LONG)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return heard + read_to_end(plug)


# --- Floods -----------------------------------------------------------------------------------------------------------


def rapid_resets() -> Iterator[bytes]:
    for stream in range(1, 40_000, 2):
        yield headers(stream, INFER) + frame(RST_STREAM, stream, struct.pack(">I", CANCEL))


def empty_data() -> Iterator[bytes]:
    yield headers(1, INFER)
    for _ in range(500):
        yield frame(DATA, 1) * 100


def endless_header_block() -> Iterator[bytes]:
    yield frame(HEADERS, 1, b"")  # no END_HEADERS
    for _ in range(500):
        yield frame(CONTINUATION, 1, b"") * 100


def large_header_block() -> Iterator[bytes]:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    yield frame(HEADERS, 1, b"")
    for number in range(20_000):
        yield frame(CONTINUATION, 1, encoder.encode([hpack.NeverIndexedHeaderTuple(f"x-{number}", "v" * 4000)]))


def settings_flood() -> Iterator[bytes]:
    for _ in range(2000):
        yield frame(SETTINGS, payload=struct.pack(">HI", 4, 65535) * 50) * 20


def ping_flood() -> Iterator[bytes]:
    for _ in range(5000):
        yield frame(PING, payload=b"01234567") * 100


def window_of_nothing() -> Iterator[bytes]:
    yield headers(1, INFER)
    yield frame(WINDOW_UPDATE, 0, struct.pack(">I", 0))


@pytest.mark.parametrize(
    ("flood", "reading", "code"),
    [
        (rapid_resets, True, ENHANCE_YOUR_CALM),
        (empty_data, True, ENHANCE_YOUR_CALM),
        (endless_header_block, True, None),
        (large_header_block, True, None),
        (settings_flood, False, None),
        (ping_flood, False, None),
        (window_of_nothing, True, None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_flood_ends_its_connection(
    serve: Serve, small_models: Path, flood: Callable[[], Iterator[bytes]], reading: bool, code: int | None
) -> None:
    server = serve(small_models, "--write-stall-seconds", "1")
    with connect(server.grpc) as plug, Peer(server.grpc) as other:
        plug.sendall(hello())
        heard = pour(plug, flood(), reading=reading)
        if code is not None:
            assert goaway_code(heard) == code
        assert other.ask(INFER, add_sub()).code == 0
    check_serves(server)
    check_ends_clean(server)


def test_a_peer_that_reads_its_pings_may_send_many(serve: Serve, small_models: Path) -> None:
    server = serve(small_models)
    with Peer(server.grpc) as peer:
        for _ in range(300):
            peer.write(frame(PING, payload=b"01234567") * 10)
            assert peer.ask(LIVE, b"").code == 0
    check_ends_clean(server)


def test_an_honest_client_may_cancel_more_than_a_thousand_calls(serve: Serve, small_models: Path) -> None:
    server = serve(small_models)
    with Peer(server.grpc) as peer:
        for _ in range(1500):
            cancelled = peer.call(INFER, slow(200))
            peer.reset(cancelled)
            good = [peer.call(INFER, add_sub()) for _ in range(2)]
            assert [peer.wait(stream).code for stream in good] == [0, 0]
        assert not peer.goaways
    check_ends_clean(server)


# --- Header blocks ----------------------------------------------------------------------------------------------------


def test_header_bombs_cost_their_stream_alone(serve: Serve, small_models: Path) -> None:
    server = serve(small_models)
    with Peer(server.grpc) as peer:
        large = peer.begin(INFER, [(f"x-{number}", "v" * 1000) for number in range(15)])
        assert peer.send(large, message(add_sub()), end=True)
        assert peer.wait(large).code == 0  # 15 kB are fine
        # Few bytes that mean many: one entry of the table, named again and again.
        bomb = peer.begin(INFER, [("x-bomb", "b" * 3000)])
        peer.send(bomb, message(add_sub()), end=True)
        assert peer.wait(bomb).code == 0
        many = peer.begin(INFER, [("x-bomb", "b" * 3000)] * 2000)
        assert peer.wait(many).reset == ENHANCE_YOUR_CALM
        assert peer.ask(INFER, add_sub()).code == 0
        assert not peer.goaways
    check_ends_clean(server)


def test_broken_header_blocks(serve: Serve, small_models: Path) -> None:
    server = serve(small_models)
    blocks = {
        "no such index": b"\xff\xff\xff\xff\x07",
        "huge integer": b"\xff" * 40,
        "bad Huffman": b"\x40\x84\xff\xff\xff\xff\x84\xff\xff\xff\xff",
        "table size": b"\x3f\xff\xff\xff\xff\x0f",
        "string beyond the end": b"\x00\x7f\xff\xff\x03abc",
    }
    for name, block in blocks.items():
        with connect(server.grpc) as plug:
            heard = pour(plug, iter([hello(frame(HEADERS, 1, block, 5))]), reading=False)
            assert goaway_code(heard) not in (None, 0), name
    check_serves(server)
    check_ends_clean(server)


# --- Sitting there ----------------------------------------------------------------------------------------------------


def test_half_sent_beginnings_are_closed(serve: Serve, small_models: Path) -> None:
    server = serve(small_models, "--message-stall-seconds", "1")
    before = open_sockets(server)
    request = headers(1, INFER)
    half_http = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nX-Slow: "
    beginnings = [b"", PREFACE[:11], PREFACE, hello(request[:12]), hello(frame(HEADERS, 1, request[9:20]))]
    plugs = []
    for _ in range(40):
        for beginning in beginnings:
            plugs.append(connect(server.grpc))
            plugs[-1].sendall(beginning)
        plugs.append(connect(server.http))
        plugs[-1].sendall(half_http)
    check_serves(server)
    wait_for_sockets(server, before)
    for plug in plugs:
        read_to_end(plug)
        plug.close()
    check_serves(server)
    check_ends_clean(server)


def test_an_idle_connection_is_closed(serve: Serve, small_models: Path) -> None:
    server = serve(small_models, "--idle-seconds", "0.5")
    with Peer(server.grpc) as peer, connect(server.http) as http:
        assert peer.ask(LIVE, b"").code == 0
        http.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_to_end(http).startswith(b"HTTP/1.1 200 ")
        peer.wait_closed()
        assert not peer.was_reset
        assert [code for _, code, _ in peer.goaways] == [0, 0] or peer.goaways[-1][1] == 0
    check_ends_clean(server)


# --- Rubbish ----------------------------------------------------------------------------------------------------------


def scrambled(dice: random.Random, data: bytes) -> bytes:
    """Some bytes changed, dropped or doubled."""
    mixed = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        at = dice.randrange(len(mixed))
        choice = dice.random()
        if choice < 0.6:
            mixed[at] = dice.randrange(256)
        elif choice < 0.8:
            del mixed[at : at + dice.randint(1, 20)]
        else:
            mixed[at:at] = mixed[at : at + dice.randint(1, 50)]
    return bytes(mixed)


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(serve: Serve, small_models: Path, seed: int) -> None:
    server = serve(small_models)
    dice = random.Random(seed)
    good = hello(headers(1, INFER), frame(DATA, 1, message(add_sub()), END_STREAM), headers(3, LIVE))
    good += frame(DATA, 3, message(b""), END_STREAM) + frame(PING, payload=b"01234567")
    for number in range(150):
        kind = number % 4
        if kind == 0:
            data = dice.randbytes(dice.randint(1, 3000))
        elif kind == 1:
            data = hello(dice.randbytes(dice.randint(1, 3000)))
        elif kind == 2:
            frames = [
                frame(dice.randrange(14), dice.randrange(8), dice.randbytes(dice.randint(0, 60)), dice.randrange(256))
                for _ in range(30)
            ]
            data = hello(*frames)
        else:
            data = scrambled(dice, good)
        plug = connect(server.http if dice.random() < 0.2 else server.grpc)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            plug.sendall(data)
            if dice.random() < 0.5:
                plug.shutdown(socket.SHUT_WR)
                read_to_end(plug)
        kill(plug)
    check_serves(server)
    check_ends_clean(server)


# --- Too much ---------------------------------------------------------------------------------------------------------


def test_ten_thousand_streams_at_once(serve: Serve, small_models: Path) -> None:
    server = serve(small_models)
    with Peer(server.grpc) as peer, Peer(server.grpc) as other:
        peer.ask(LIVE, b"")  # the limit is known, and so binding
        for _ in range(10_000):
            peer.begin(INFER)
            if peer.closed:
                break
        assert other.ask(INFER, add_sub()).code == 0
        with contextlib.suppress(TimeoutError):
            while not peer.closed:
                peer.pump(0.5)
        # Over the limit a stream is refused, or the connection ended: both are HTTP/2's own answers.
        refused = [answer for answer in peer.answers.values() if answer.reset == REFUSED_STREAM]
        assert peer.closed or len(refused) >= 10_000 - 1025
    check_serves(server)
    check_ends_clean(server)


def test_ten_thousand_calls_one_after_the_other(serve: Serve, small_models: Path) -> None:
    server = serve(small_models)
    with Peer(server.grpc) as peer:
        for _ in range(100):
            streams = [peer.call(INFER, add_sub()) for _ in range(100)]
            assert {peer.wait(stream).code for stream in streams} == {0}
            peer.answers.clear()
    check_ends_clean(server)


def test_connections_over_the_bound_are_told_so(serve: Serve, small_models: Path) -> None:
    server = serve(small_models, "--max-connections", "20")
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(server.grpc)) for _ in range(20)]
        for peer in peers:
            assert peer.ask(LIVE, b"").code == 0
        with Peer(server.grpc) as late:
            late.wait_closed()
            assert late.goaways
            assert all(code == 0 for _, code, _ in late.goaways)
        with connect(server.http) as http:
            http.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            told = read_to_end(http)
            assert told.startswith(b"HTTP/1.1 503 ")
            assert b"--max-connections" in told
        crowd = [connect(server.grpc) for _ in range(600)]
        assert peers[3].ask(INFER, add_sub()).code == 0
        for plug in crowd:
            read_to_end(plug)
            plug.close()
        peers[0].plug.close()
        deadline = time.monotonic() + LONG
        while True:  # until the server has seen that one has gone
            with contextlib.suppress(ConnectionError), Peer(server.grpc) as again:
                if again.ask(LIVE, b"").code == 0:
                    break
            assert time.monotonic() < deadline
        assert peers[5].ask(INFER, add_sub()).code == 0
    check_ends_clean(server)
