"""Uploads that break off, stall, lie about their size or do not fit: what they cost, and that nobody else pays."""

import gzip
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from e2e.checks import check_ends_clean, check_serves
from e2e.h2_peer import (
    ACK,
    DATA,
    INFER,
    LONG,
    SETTINGS,
    Peer,
    add_sub,
    connect,
    frame,
    frames_of,
    headers,
    hello,
    infer,
    kill,
    message,
)
from server_process import ServerProcess

Serve = Callable[..., ServerProcess]
KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def small_models(repository: Callable[..., Path], models: Path) -> Path:
    return repository(**{name: models / f"{name}.onnx" for name in ("add_sub", "dynamic_inner")})


def memory(server: ServerProcess, row: str = "VmRSS") -> int:
    """Bytes of a row of /proc/PID/status: VmRSS is the resident set, VmHWM its peak."""
    status = Path(f"/proc/{server.process.pid}/status").read_text().split("\n")
    return int(next(line for line in status if line.startswith(row)).split()[1]) * KIB


def payload(size: int) -> bytes:
    """A good request for dynamic_inner of about `size` bytes."""
    return infer("dynamic_inner", x=np.ones((1, size // 16, 4), dtype=np.float32))


def killed_mid_message(server: ServerProcess, whole: bytes) -> None:
    """A connection that ends with a reset when the server has read the first 60 kB of a message."""
    plug = connect(server.grpc)
    parts = [frame(DATA, 1, whole[at : at + 15_000]) for at in range(0, 60_000, 15_000)]
    plug.sendall(hello(headers(1, INFER), *parts))
    heard = b""
    while not any(kind == SETTINGS and flags & ACK for kind, flags, _, _ in frames_of(heard)):
        part = plug.recv(1 << 16)
        assert part, "the server ended the connection"
        heard += part
    kill(plug)


def test_a_thousand_clients_killed_mid_message_leave_nothing(serve: Serve, small_models: Path) -> None:
    server = serve(small_models)
    whole = message(payload(MIB))
    for _ in range(100):
        killed_mid_message(server, whole)
    after_a_hundred = memory(server)
    for _ in range(900):
        killed_mid_message(server, whole)
    deadline = time.monotonic() + LONG
    while (now := memory(server)) >= after_a_hundred * 1.05:  # threads give back what they hold in their own time
        assert time.monotonic() < deadline, (after_a_hundred, now)
        check_serves(server)
    check_serves(server)
    check_ends_clean(server)


def test_half_sent_uploads_do_not_lock_a_small_call_out(serve: Serve, small_models: Path) -> None:
    # One step of 256 KiB each, of 128 MiB: about half of the thousand fit.
    limits = {
        "--max-request-bytes": "512KiB",
        "--process-inflight-bytes": "128MiB",
        "--connection-inflight-bytes": "64MiB",
        "--message-stall-seconds": "600",
    }
    server = serve(small_models, *(word for row in limits.items() for word in row))
    whole = message(payload(500 * KIB))
    half = whole[: 100 * KIB]
    peers = [Peer(server.grpc) for _ in range(20)]
    oldest = peers[0]
    first = oldest.begin(INFER)
    oldest.send(first, half)
    oldest.ask("/nowhere", b"")  # the server has read it; which connection it reads next is its own affair
    for number in range(1, 1000):
        peer = peers[number % 20]
        peer.send(peer.begin(INFER), half)
    for peer in peers:
        # Frames are read in order, so when this is answered (or refused) all before it has been judged.
        peer.ask("/nowhere", b"")
    answers = [answer for peer in peers for answer in peer.answers.values() if answer.code != 12]
    refused = [answer for answer in answers if answer.over]
    assert len(answers) == 1000
    assert 400 < len(refused) < 600
    assert {answer.code for answer in refused} == {8}
    assert all("--process-inflight-bytes" in answer.text for answer in refused)

    began = time.monotonic()
    check_serves(server)
    assert peers[7].ask(INFER, add_sub()).code == 0  # and on a connection of theirs
    assert time.monotonic() - began < 10

    assert oldest.send(first, whole[len(half) :], end=True)
    assert (oldest.wait(first).code, oldest.answers[first].text) == (0, "")
    for peer in peers:
        kill(peer.plug)
    check_serves(server)
    check_ends_clean(server)


@pytest.mark.parametrize("why", ["too large", "no room"])
def test_a_good_call_after_a_thousand_refused_uploads(serve: Serve, small_models: Path, why: str) -> None:
    """On the same connection: what a refused upload still sends is counted back to the connection's window."""
    server = serve(small_models, "--max-request-bytes", "1MiB", "--connection-inflight-bytes", "1MiB")
    with Peer(server.grpc) as peer:
        if why == "too large":
            upload, flag = message(bytes(64 * KIB), size=2 * MIB), "--max-request-bytes"
        else:
            held = peer.begin(INFER)  # keeps three of the connection's four steps
            peer.send(held, message(bytes(513 * KIB), size=MIB))
            upload, flag = message(bytes(300 * KIB), size=MIB), "--connection-inflight-bytes"
        sent = 0
        for _ in range(1000):
            stream = peer.begin(INFER)
            # All of it, whatever the server says meanwhile: that much may be on its way when a refusal comes.
            sent += len(upload) if peer.send(stream, upload) else 0
            answer = peer.wait(stream)
            assert answer.code == 8, answer
            assert flag in answer.text
        assert sent > 16 * MIB, "too little was sent to fill the connection's window"
        assert peer.ask(INFER, add_sub()).code == 0
        assert not peer.goaways
    check_ends_clean(server)


def test_a_prefix_of_64_mb_without_a_body_costs_one_step(serve: Serve, small_models: Path) -> None:
    server = serve(small_models, "--process-inflight-bytes", "160MiB")
    check_serves(server)
    before = memory(server)
    with Peer(server.grpc) as peer:
        streams = [peer.begin(INFER) for _ in range(200)]
        for stream in streams:
            peer.send(stream, message(b"\x0a", size=64 * MIB))
        assert peer.ask(INFER, add_sub()).code == 0
        # 12.8 GB of promises, and 50 MB of charge: none is refused.
        assert not [stream for stream in streams if peer.answers[stream].over]
        assert memory(server) - before < 50 * MIB
        for stream in streams:
            peer.reset(stream)
        assert peer.ask(INFER, add_sub()).code == 0
    check_ends_clean(server)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_refused_at_the_limit(serve: Serve, small_models: Path, encoding: str) -> None:
    server = serve(small_models, "--max-request-bytes", "1MiB")
    check_serves(server)
    before = memory(server, "VmHWM")
    packed = gzip.compress(bytes(64 * MIB), 9)
    bomb = (
        packed if encoding == "gzip" else b"\x78\x9c" + packed[10:-8] + (1 + (256 << 20 << 16)).to_bytes(8, "big")[-4:]
    )
    assert len(bomb) < MIB
    with Peer(server.grpc) as peer:
        for _ in range(5):
            stream = peer.begin(INFER, [("grpc-encoding", encoding)])
            peer.send(stream, message(bomb, flag=1), end=True)
            answer = peer.wait(stream)
            assert answer.code == 8, answer
            assert "--max-request-bytes" in answer.text
        assert memory(server, "VmHWM") - before < 16 * MIB
        # Rubbish, and a good one.
        for sent, code in ((b"not gzip at all", 13), (bomb[:200], 13)):
            stream = peer.begin(INFER, [("grpc-encoding", "gzip")])
            peer.send(stream, message(sent, flag=1), end=True)
            assert peer.wait(stream).code == code, peer.answers[stream]
        stream = peer.begin(INFER, [("grpc-encoding", "gzip")])
        peer.send(stream, message(gzip.compress(add_sub()), flag=1), end=True)
        assert peer.wait(stream).code == 0
    check_ends_clean(server)


def test_an_upload_that_stops_is_ended(serve: Serve, small_models: Path) -> None:
    server = serve(small_models, "--message-stall-seconds", "1.5", "--message-whole-seconds", "3")
    with Peer(server.grpc) as peer:
        half = peer.begin(INFER)
        peer.send(half, message(payload(MIB))[: 300 * KIB])
        nothing = peer.begin(INFER)  # a header block, and then nothing at all
        for stream in (half, nothing):
            answer = peer.wait(stream)
            assert answer.code == 4, answer
        # Byte by byte it never stalls; but it is not whole in time.
        drip = peer.begin(INFER)
        began = time.monotonic()
        while not peer.answers[drip].over:
            assert time.monotonic() - began < LONG
            peer.send(drip, message(bytes(99), size=MIB) if peer.answers[drip].window > MIB - 1 else b"x")
            try:
                peer.pump(0.1)
            except TimeoutError:
                continue
        assert peer.answers[drip].code == 4
        assert "whole" in peer.answers[drip].text
        assert peer.ask(INFER, add_sub()).code == 0
    check_ends_clean(server)
