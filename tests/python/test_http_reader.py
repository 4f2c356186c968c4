"""Requests that are none, over a real socket."""

import socket
from pathlib import Path
from typing import Any

import pytest

import headrace

GOOD = b"HEAD /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
FINE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n"


@pytest.mark.parametrize(
    ("broken", "has_body"),
    [
        (b"HEAD / HTTP/1.1\r\nBad Header\r\n\r\n", False),
        (b"HEAD /a b HTTP/1.1\r\n\r\n", False),
        (b"HEAD \0/ HTTP/1.1\r\n\r\n", False),
        (b"HEAD / HTTP/1.1\r\nContent-Length: x\r\n\r\n", False),
        (GOOD + b"\1\2", True),
        (GOOD + b"GET / HTTP/1.1\r\nBad Header\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nBad Header\r\n\r\n", True),
    ],
)
def test_a_malformed_head_is_answered_without_a_body(tmp_path: Path, broken: bytes, has_body: bool) -> None:
    options: dict[str, Any] = {"model_control_mode": "explicit", "grpc_port": 0, "http_port": 0}
    with (
        headrace.Server(model_repository=tmp_path, **options) as server,
        socket.create_connection(("127.0.0.1", server.http_port), timeout=20) as plug,
        plug.makefile("rb") as said,
    ):
        plug.sendall(broken)
        head, _, body = said.read().removeprefix(FINE).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    size = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
    assert size > 0
    assert len(body) == (size if has_body else 0)
