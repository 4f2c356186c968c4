"""Answers that go straight to a connection's socket: they stay whole, in order, and with their connection."""

import json
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from e2e.checks import check_ends_clean
from server_process import ServerProcess

Serve = Callable[..., ServerProcess]
SECONDS = 60
LENGTH = 14 << 10  # of an answer, in FP32: 56 KiB, which are still copied into one piece


def asks(value: float) -> bytes:
    """An inference, whose answer is `LENGTH` times `value`."""
    data = np.float32(value).tobytes()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "parameters": {"binary_data_size": len(data)}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return (
        b"POST /v2/models/repeat/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n"
        b"Inference-Header-Content-Length: %d\r\n\r\n" % (len(text) + len(data), len(text))
    ) + (text + data)


def answered(stream: BinaryIO) -> "np.ndarray[Any, Any]":
    """The tensor of the next answer."""
    assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
    headers = dict(line.split(": ") for line in iter(lambda: stream.readline().decode().strip(), ""))
    body = stream.read(int(headers["Content-Length"]))
    return np.frombuffer(body[int(headers["Inference-Header-Content-Length"]) :], np.float32)


def connect(server: ServerProcess, *, receive_buffer: int = 0) -> socket.socket:
    host, port = server.http.rsplit(":", 1)
    made = socket.socket()
    if receive_buffer:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    made.settimeout(SECONDS)
    made.connect((host, int(port)))
    return made


def successes(server: ServerProcess) -> int:
    """Requests that the model has answered."""
    with urllib.request.urlopen(f"http://{server.http}/v2/models/repeat/stats", timeout=SECONDS) as said:
        return int(json.load(said)["model_stats"][0]["inference_stats"]["success"]["count"])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def repeat(repository: Callable[..., Path], tmp_path: Path) -> Path:
    """A model that answers with what it was given, `LENGTH` times, a few milliseconds later."""
    zeros = helper.make_tensor("zeros", TensorProto.FLOAT, [1, LENGTH], np.zeros(LENGTH, np.float32))
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "zeros"], ["y"])],
        "repeat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", LENGTH])],
        [zeros],
    )
    file = tmp_path / "repeat.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    folder = repository(repeat=file)
    (folder / "repeat" / "config.pbtxt").write_text(
        "max_batch_size: 64 dynamic_batching { preferred_batch_size: 64 max_queue_delay_microseconds: 3000 }"
    )
    return folder


def test_answers_that_nobody_reads_for_a_while_are_whole(repeat: Path, serve: Serve) -> None:
    """More of them than the system's buffers hold: some go out in parts, and the rest by the transport."""
    server, groups, group = serve(repeat), 16, 24
    begin = threading.Event()
    with connect(server, receive_buffer=4096) as made, made.makefile("rb") as stream:

        def send() -> None:
            for first in range(0, groups * group, group):
                if first >= 3 * group:
                    begin.set()  # 4 MB wait to be read
                made.sendall(b"".join(map(asks, range(first, first + group))))
                until(lambda: successes(server) >= first + group)  # noqa: B023

        sender = threading.Thread(target=send)
        sender.start()
        assert begin.wait(SECONDS)
        for value in range(groups * group):
            assert (answered(stream) == value).all(), value
        sender.join(SECONDS)
    check_ends_clean(server)


def test_no_answer_goes_to_the_connection_that_came_after(repeat: Path, serve: Serve) -> None:
    """Clients that reset their connections while they are owed answers, and others that get the same descriptors."""
    server = serve(repeat)
    for value in range(0, 400, 2):
        gone = [connect(server) for _ in range(4)]
        for each in gone:
            each.sendall(asks(-1.0) * 3)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for each in gone:
            each.close()
        stay = [connect(server) for _ in range(4)]
        for each in stay:
            each.sendall(asks(value) + asks(value + 1))
        for each in stay:
            with each, each.makefile("rb") as stream:
                assert (answered(stream) == value).all()
                assert (answered(stream) == value + 1).all()
                each.shutdown(socket.SHUT_WR)
                assert stream.read() == b"", "and nothing else comes"
    check_ends_clean(server)
