"""Calls of many messages over gRPC-Web: on real sockets, against a server in this process."""

import base64
import contextlib
import gzip
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import headrace
from headrace import _proto
from headrace.grpc_web import WebForm
from headrace.http_message import Response
from headrace.http_stream import AnswerStream, End, Part

INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
WATCH = "/grpc.health.v1.Health/Watch"
ORIGIN = "http://app.example"
BINARY, TEXT = "application/grpc-web+proto", "application/grpc-web-text+proto"
FORMS = (BINARY, TEXT)
Trailers = dict[str, str]


def frame(message: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(message)) + message


def ask(number: int, *, model: str = "echo", rows: int = 1) -> bytes:
    """A request in its frame, whose answer has its number."""
    request = _proto.ModelInferRequest(model_name=model, id=str(number))
    request.inputs.add(name="x", datatype="INT32", shape=[rows, 1])
    request.raw_input_contents.append(struct.pack("i", number) * rows)
    return frame(request.SerializeToString())


def told(message: bytes) -> tuple[str, str, list[int]]:
    """(error, id, values) of an answer."""
    answer = _proto.ModelStreamInferResponse.FromString(message)
    raw = b"".join(answer.infer_response.raw_output_contents)
    return answer.error_message, answer.infer_response.id, [value for (value,) in struct.iter_unpack("i", raw)]


class Web:
    """One connection, and its answers' chunks as they come: this test's own reading of HTTP and gRPC-Web."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self.plug = socket.socket()
        self.plug.settimeout(20)
        if receive_buffer:
            self.plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.plug.connect(("127.0.0.1", port))
        self._file = self.plug.makefile("rb")
        self._text = False
        self._frames = b""

    def call(self, path: str, body: bytes, form: str = BINARY, headers: str = "", version: str = "1.1") -> None:
        if form == TEXT:
            body = base64.b64encode(body)
        head = f"POST {path} HTTP/{version}\r\nHost: x\r\nContent-Type: {form}\r\nContent-Length: {len(body)}\r\n"
        self.plug.sendall(f"{head}{headers}\r\n".encode() + body)

    def head(self) -> tuple[int, dict[str, str]]:
        status = int(self._file.readline().split(b" ")[1])
        headers = {}
        while line := self._file.readline().strip().decode():
            name, _, value = line.partition(": ")
            headers[name] = value
        self._text = headers.get("Content-Type") == TEXT
        return status, headers

    def chunk(self) -> bytes:
        """One chunk, out of its base64; b"" is the last."""
        data = self._file.read(int(self._file.readline(), 16))
        assert self._file.read(2) == b"\r\n"
        return base64.b64decode(data, validate=True) if self._text else data

    def frame(self) -> tuple[int, bytes]:
        """One frame, of as many chunks as it takes."""
        while len(self._frames) < 5 or len(self._frames) < 5 + struct.unpack_from(">BI", self._frames)[1]:
            chunk = self.chunk()
            assert chunk, "an answer ends with its trailers"
            self._frames += chunk
        flag, size = struct.unpack_from(">BI", self._frames)
        data, self._frames = self._frames[5 : 5 + size], self._frames[5 + size :]
        return flag, data

    def answers(self) -> tuple[list[bytes], Trailers]:
        """All messages, and the trailers behind them."""
        messages: list[bytes] = []
        while True:
            flag, data = self.frame()
            if flag == 0x80:
                assert self._frames == b""
                assert self.chunk() == b"", "nothing comes behind them"
                lines = data.decode().removesuffix("\r\n").split("\r\n")
                return messages, dict(line.split(":", 1) for line in lines)
            assert flag == 0
            messages.append(data)

    def close(self) -> None:
        self._file.close()
        self.plug.close()


@contextlib.contextmanager
def serving(root: Path, **options: Any) -> Iterator[headrace.Server]:
    """echo of INT32 rows; `rows` answers for each row; `stuck` goes on with a 7 until nobody waits for it."""
    for name, more in (("echo", ""), ("rows", "answers rows\n"), ("stuck", "hold_on 7\n")):
        (root / name / "1").mkdir(parents=True, exist_ok=True)
        policy = "model_transaction_policy { decoupled: true }" if name == "rows" else ""
        (root / name / "config.pbtxt").write_text(f'backend: "echo" max_batch_size: 65536 {policy}')
        (root / name / "1/model.echo").write_text(f"input x INT32 [-1,1]\n{more}")
    with headrace.Server(
        root, **{"grpc_port": 0, "http_port": 0, "cors_allow_origin": (ORIGIN,), **options}
    ) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[headrace.Server]:
    with serving(tmp_path) as running:
        yield running
        until(lambda: snapshot(running)["tickets"] == 0)


@contextlib.contextmanager
def web(port: int, **options: Any) -> Iterator[Web]:
    client = Web(port, **options)
    try:
        yield client
    finally:
        client.close()


def snapshot(running: headrace.Server) -> Any:
    instance: Any = running._instance
    return instance.engine.snapshot()


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("form", FORMS)
def test_many_requests_of_one_body_on_both_ports(server: headrace.Server, form: str) -> None:
    for port in (server.http_port, server.grpc_port):
        with web(port) as client:
            for _ in range(2):  # the connection goes on
                client.call(INFER, b"".join(ask(number) for number in range(300)), form)
                status, headers = client.head()
                assert (status, headers["Content-Type"], headers["Transfer-Encoding"]) == (200, form, "chunked")
                messages, trailers = client.answers()
                assert trailers == {"grpc-status": "0"}
                assert sorted(map(told, messages), key=lambda row: int(row[1])) == [
                    ("", str(number), [number]) for number in range(300)
                ]


@pytest.mark.parametrize("form", FORMS)
def test_answers_of_any_size_cross_chunks(server: headrace.Server, form: str) -> None:
    rows = (1, 2, 3, 65536, 5, 40000)
    with web(server.http_port) as client:
        # One in flight at a time keeps the order here: none has an id.
        body = b"".join(ask(number, rows=count) for number, count in enumerate(rows))
        client.call(INFER, body, form)
        client.head()
        messages, trailers = client.answers()
    found = sorted(map(told, messages), key=lambda row: int(row[1]))
    assert [(row[1], row[2]) for row in found] == [(str(i), [i] * count) for i, count in enumerate(rows)]
    assert trailers == {"grpc-status": "0"}


def test_answers_come_while_others_are_not_ready(server: headrace.Server) -> None:
    with web(server.http_port) as client:
        client.call(INFER, ask(1, model="stuck") + ask(7, model="stuck"))
        client.head()
        flag, message = client.frame()
        assert (flag, told(message)) == (0, ("", "1", [1]))
        assert snapshot(server)["tickets"] == 1
    until(lambda: snapshot(server)["tickets"] == 0)  # its caller has gone, and the lane is free
    with web(server.http_port) as client:
        client.call(INFER, ask(2, model="stuck"))
        client.head()
        assert told(client.answers()[0][0]) == ("", "2", [2])


def test_one_request_may_have_many_answers(server: headrace.Server) -> None:
    with web(server.http_port, receive_buffer=4096) as client:
        client.call(INFER, ask(3, model="rows", rows=5000) + ask(4, model="rows", rows=2))
        client.head()
        messages, trailers = client.answers()
    found = [told(message) for message in messages]
    assert sorted(row[1] for row in found) == ["3"] * 5000 + ["4"] * 2
    assert all(row[2] == [int(row[1])] for row in found)
    assert trailers == {"grpc-status": "0"}


def test_errors_answer_their_request(server: headrace.Server) -> None:
    with web(server.http_port) as client:
        client.call(INFER, ask(1) + ask(2, model="nobody") + frame(b"\xff") + ask(3))
        client.head()
        messages, trailers = client.answers()
    found = [told(message) for message in messages]
    assert sorted(row[2] for row in found if not row[0]) == [[1], [3]]
    assert ["nobody" in row[0] for row in found if row[1] == "2"] == [True]
    assert len(found) == 4
    assert trailers == {"grpc-status": "0"}


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (INFER, ask(1)[:-1], "3"),
        (INFER, frame(b"x", 1), "12"),
        (INFER, frame(b"x", 0x80), "3"),
        (WATCH, b"\0\0", "3"),
        (WATCH, frame(b"x", 1), "12"),
        (WATCH, frame(b"\xff"), "3"),
        (WATCH, b"", "3"),
    ],
)
def test_broken_bodies_end_in_trailers(server: headrace.Server, path: str, body: bytes, code: str) -> None:
    with web(server.http_port) as client:
        client.call(path, body)
        status, headers = client.head()
        assert status == 200
        if headers.get("Transfer-Encoding") == "chunked":
            assert client.answers()[1]["grpc-status"] == code
        else:
            assert f"grpc-status:{code}\r\n".encode() in client._file.read(int(headers["Content-Length"]))


@pytest.mark.parametrize("form", FORMS)
def test_watch_tells_each_change_and_ends_with_the_drain(tmp_path: Path, form: str) -> None:
    with serving(tmp_path) as running, web(running.http_port) as client:
        client.call(WATCH, frame(b""), form)
        assert client.head()[0] == 200
        assert client.frame() == (0, _proto.HealthCheckResponse(status=1).SerializeToString())
        ending = threading.Thread(target=running.stop)
        ending.start()
        assert client.frame() == (0, _proto.HealthCheckResponse(status=2).SerializeToString())
        messages, trailers = client.answers()
        assert (messages, trailers["grpc-status"]) == ([], "14")
        assert client._file.read() == b"", "and the connection with it"
        ending.join()


def test_a_deadline_ends_a_call_behind_what_is_there(server: headrace.Server) -> None:
    with web(server.http_port) as client:
        client.call(WATCH, frame(b""), headers="grpc-timeout: 200m\r\n")
        client.head()
        messages, trailers = client.answers()
        assert (len(messages), trailers["grpc-status"]) == (1, "4")
        client.call(INFER, ask(1, model="stuck") + ask(7, model="stuck"), headers="grpc-timeout: 200m\r\n")
        client.head()
        messages, trailers = client.answers()
        assert ([told(message)[1] for message in messages], trailers["grpc-status"]) == (["1"], "4")


def test_reflection_takes_its_questions_in_one_body(server: headrace.Server) -> None:
    path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    request = _proto.METHODS[path].request(list_services="")
    with web(server.http_port) as client:
        client.call(path, frame(request.SerializeToString()) * 3)
        client.head()
        messages, trailers = client.answers()
    assert (len(messages), trailers) == (3, {"grpc-status": "0"})
    response = _proto.METHODS[path].response.FromString(messages[0])
    assert "inference.GRPCInferenceService" in {row.name for row in response.list_services_response.service}


def test_what_is_asked_behind_a_stream_is_answered_behind_it(server: headrace.Server) -> None:
    with web(server.http_port) as client:
        client.call(INFER, ask(1) + ask(2))
        client.plug.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        client.call(INFER, ask(3))
        assert client.head()[0] == 200
        assert len(client.answers()[0]) == 2
        status, headers = client.head()
        assert (status, client._file.read(int(headers["Content-Length"]))) == (200, b'{"live": true}')
        client.head()
        assert told(client.answers()[0][0])[2] == [3]


def test_compressed_bodies_and_pages_of_other_origins(server: headrace.Server) -> None:
    with web(server.http_port) as client:
        client.call(INFER, gzip.compress(ask(1) + ask(2)), headers=f"Content-Encoding: gzip\r\nOrigin: {ORIGIN}\r\n")
        status, headers = client.head()
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)
        assert len(client.answers()[0]) == 2
        client.call(INFER, ask(1), headers="Origin: http://elsewhere.example\r\n")
        assert "Access-Control-Allow-Origin" not in client.head()[1]


def test_http_1_0_has_no_chunks_and_ends_with_the_connection(server: headrace.Server) -> None:
    with web(server.http_port) as client:
        client.call(INFER, ask(1) + ask(2), headers="Connection: keep-alive\r\n", version="1.0")
        status, headers = client.head()
        assert (status, headers["Connection"], "Transfer-Encoding" in headers) == (200, "close", False)
        body = client._file.read()
        assert body.endswith(frame(b"grpc-status:0\r\n", 0x80))


def test_a_peer_that_does_not_read_costs_a_bounded_amount(tmp_path: Path) -> None:
    """What it asked for would be 48 MiB of answers; the server makes only as much as it may keep for one stream."""
    with serving(tmp_path, max_output_bytes=4 << 20) as running, web(running.http_port, receive_buffer=4096) as client:
        rows = 1 << 14  # 64 KiB
        client.call(INFER, b"".join(ask(number, rows=rows) for number in range(768)))
        until(lambda: any(row["inference_count"] for row in snapshot(running)["models"]))
        settled = settled_pool(running)
        body = 768 * (64 << 10)
        assert settled < body + (8 << 20), "the body, which waits, and a few answers"
        client.head()
        messages, trailers = client.answers()
        assert (len(messages), trailers) == (768, {"grpc-status": "0"})
        until(lambda: snapshot(running)["pool"]["bytes_in_use"] == 0)


def settled_pool(running: headrace.Server) -> int:
    """Bytes in use once nothing runs and nothing moves any more."""
    until(lambda: snapshot(running)["tickets"] == 0)
    return int(snapshot(running)["pool"]["bytes_in_use"])


class Source:
    """Pieces as a list has them."""

    def __init__(self, *steps: tuple[list[Part], End | None]) -> None:
        self._steps = list(steps)

    def take(self, most: int) -> tuple[list[Part], End | None]:
        assert most % 3 == 0, "text is padded at the end of what there is only"
        return self._steps.pop(0) if self._steps else ([], None)

    def cancel(self, code: int, text: str) -> None:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


@pytest.mark.parametrize("form", WebForm)
@pytest.mark.parametrize("chunked", [True, False])
def test_a_long_message_is_written_in_steps(form: WebForm, chunked: bool) -> None:
    message = bytes(range(256)) * (1 << 13)  # 2 MiB
    stream = AnswerStream(Source(([message, memoryview(b"ab")], None), ([], (0, ""))), form, extra=b"", chunked=chunked)
    steps = []
    over = False
    while not over:
        parts, over = stream.take()
        steps.append(b"".join(parts))
        assert len(steps[-1]) <= (1 << 20) + 200
    head = Response.head(200, (("Content-Type", form.value), *((("Transfer-Encoding", "chunked"),) * chunked)))
    written = b"".join(steps).removeprefix(head + b"\r\n")
    data = b""
    while written:
        if chunked:
            size, _, written = written.partition(b"\r\n")
            part, written = written[: int(size, 16)], written[int(size, 16) + 2 :]
        else:
            part, written = written, b""
        data += part
    if form is WebForm.TEXT:
        data = b"".join(
            base64.b64decode(piece + b"=" * (-len(piece) % 4)) for piece in data.replace(b"=", b" ").split()
        )
    assert data == message + b"ab" + frame(b"grpc-status:0\r\n", 0x80)


def test_a_step_without_news_writes_nothing() -> None:
    stream = AnswerStream(Source(([b"a"], None), ([], None), ([], (5, "no"))), WebForm.BINARY, extra=b"", chunked=True)
    assert b"".join(stream.take()[0]).endswith(b"\r\n\r\n1\r\na\r\n")
    assert stream.take() == ([], False)
    last, over = stream.take()
    assert over
    assert b"".join(last).endswith(b"grpc-status:5\r\ngrpc-message:no\r\n\r\n0\r\n\r\n")
