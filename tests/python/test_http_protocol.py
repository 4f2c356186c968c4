"""One HTTP/1.1 connection: order, bounds, times and ends, on real sockets against a server in this process."""

import contextlib
import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import headrace
from headrace.http_protocol import HttpProtocol

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
READY = LIVE.replace(b"live", b"ready")


def put(root: Path, name: str, model: str) -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    (root / name / "config.pbtxt").write_text('backend: "echo" max_batch_size: 8 dynamic_batching {}')
    (folder / "model.echo").write_text(model)


class Client:
    """One connection, read as HTTP."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def answer(self, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        status = self._file.readline().split(b" ")
        headers = {}
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        body = b"" if head else self._file.read(int(headers.get("Content-Length", "0")))
        return int(status[1]), headers, body

    def ended(self) -> bool:
        try:
            return self._file.read() == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@contextlib.contextmanager
def connected(root: Path, **options: Any) -> Iterator[Client]:
    if not (root / "echo").exists():
        put(root, "echo", "input x FP32 [-1,2]\n")
    with headrace.Server(root, **{"grpc_port": 0, "http_port": 0, **options}) as running:
        client = Client(running.http_port)
        client.running = running  # type: ignore[attr-defined]
        try:
            yield client
        finally:
            client.close()


def infer(value: float, *, model: str = "echo", headers: str = "", rows: int = 1) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": [value] * 2 * rows}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def values(body: bytes) -> list[float]:
    data: list[float] = json.loads(body)["outputs"][0]["data"]
    return data


def test_keep_alive_queries_and_head(tmp_path: Path) -> None:
    with connected(tmp_path) as client:
        for _ in range(3):
            client.send(READY.replace(b" HTTP", b"?a=b HTTP"))
            status, headers, body = client.answer()
            assert (status, json.loads(body)) == (200, {"ready": True})
            assert "Connection" not in headers
        client.send(LIVE.replace(b"GET", b"HEAD"), LIVE)
        status, headers, _ = client.answer(head=True)
        assert (status, headers["Content-Length"]) == (200, "14")
        assert client.answer()[0] == 200


def test_byte_by_byte(tmp_path: Path) -> None:
    with connected(tmp_path) as client:
        for request in (
            LIVE,
            infer(1.5),
            infer(2.5, headers="Connection: keep-alive\r\n"),
        ):
            client.send(*(request[i : i + 1] for i in range(len(request))))
            assert client.answer()[0] == 200


def test_a_body_cut_anywhere(tmp_path: Path) -> None:
    with connected(tmp_path) as client:
        request = infer(7.25)
        for cut in range(1, len(request), 7):
            client.send(request[:cut])
            client.send(request[cut:])
            status, _, body = client.answer()
            assert (status, values(body)) == (200, [7.25, 7.25]), cut


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    with connected(tmp_path) as client:
        client.send(
            infer(1, model="echo") + LIVE + infer(2) + infer(3, model="nope") + infer(4, model="echo") + READY[:20],
            READY[20:],
        )
        answers = [client.answer() for _ in range(6)]
        assert [status for status, _, _ in answers] == [200, 200, 200, 404, 200, 200]
        assert [values(answers[i][2])[0] for i in (0, 2, 4)] == [1, 2, 4]


def test_numbers_of_requests_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that lasts for four thousand million requests."""
    begin = HttpProtocol.__init__

    def late(self: HttpProtocol, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        self._next = (1 << 32) - 5

    monkeypatch.setattr(HttpProtocol, "__init__", late)
    with connected(tmp_path) as client:
        for value in range(3):  # by the core alone
            client.send(infer(value))
            assert json.loads(client.answer()[2])["outputs"][0]["data"] == [value] * 2
        client.send(*(infer(value) + READY for value in range(20)), infer(20) * 4)
        for value in range(20):
            assert json.loads(client.answer()[2])["outputs"][0]["data"] == [value] * 2
            assert json.loads(client.answer()[2]) == {"ready": True}
        for _ in range(4):
            assert json.loads(client.answer()[2])["outputs"][0]["data"] == [20, 20]


def test_many_pipelined_inferences(tmp_path: Path) -> None:
    with connected(tmp_path) as client:
        for _ in range(3):
            client.send(b"".join(infer(i) for i in range(100)))
            assert [values(client.answer()[2])[0] for _ in range(100)] == list(range(100))


def test_too_many_pipelined_requests_in_one_read(tmp_path: Path) -> None:
    for request in (LIVE, infer(1)):
        with connected(tmp_path) as client:
            with contextlib.suppress(ConnectionError):
                client.send(request * 1000)
            statuses: list[int] = []
            while len(statuses) < 1000 and (not statuses or statuses[-1] == 200):
                statuses.append(client.answer()[0])
            # Some reads are short enough to be answered; if they all were, that is right too.
            assert statuses[-1] == 429 or len(statuses) == 1000


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (LIVE.replace(b"Host: x", b"Connection: close"), 200),
        (b"GET /v2/health/live HTTP/1.0\r\n\r\n", 200),
        (LIVE.replace(b"Host: x", b"Connection: Upgrade\r\nUpgrade: h2c"), 200),  # not done, and no error either
        (infer(1, headers="Connection: close\r\n"), 200),
        (infer(1, model="nope", headers="Connection: close\r\n"), 404),
    ],
)
def test_a_connection_ends_when_it_should(tmp_path: Path, request_bytes: bytes, status: int) -> None:
    with connected(tmp_path) as client:
        client.send(request_bytes)
        answered, headers, _ = client.answer()
        assert (answered, headers["Connection"]) == (status, "close")
        assert client.ended()


def test_the_old_keep_alive(tmp_path: Path) -> None:
    with connected(tmp_path) as client:
        client.send(b"GET /v2/health/live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert client.answer()[1]["Connection"] == "keep-alive"
        client.send(LIVE)
        assert client.answer()[0] == 200


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", *lines, "", "")).encode()


INFER = "/v2/models/echo/infer"


@pytest.mark.parametrize(
    ("request_bytes", "status", "words"),
    [
        (head("GET", "/v2/nothing"), 404, "/v2/nothing"),
        (head("POST", "/v2/health/live", "Content-Length: 0"), 405, "GET, HEAD, OPTIONS"),
        (head("DELETE", INFER), 405, "POST, OPTIONS"),
        (head("POST", INFER), 411, "Content-Length"),
        (head("POST", INFER, "Content-Length: 2", "Content-Encoding: br") + b"{}", 415, "gzip, deflate"),
        (head("POST", INFER, "Content-Length: 2", "grpc-timeout: soon") + b"{}", 400, "grpc-timeout"),
        (
            head("POST", INFER, "Content-Length: 2", "Inference-Header-Content-Length: x") + b"{}",
            400,
            "number of bytes",
        ),
        (head("POST", INFER, "Content-Length: 2", "Inference-Header-Content-Length: 3") + b"{}", 400, "has 2 bytes"),
        (head("POST", INFER, "Content-Length: 2") + b"{}", 400, "inputs"),
        (head("POST", INFER, "Content-Length: 0"), 400, "JSON"),
        (head("POST", INFER, "Content-Length: 1", "Content-Encoding: gzip") + b"x", 400, "cut short"),
        (head("POST", "/v2/models/echo/versions/9/infer", "Content-Length: 2") + b"{}", 400, "inputs"),
        (head("POST", "/v2/models/echo/generate", "Content-Length: 7") + b'{"y":1}', 400, "no input 'y'"),
        (head("POST", "/v2/repository/models/echo/load", "Content-Length: 0"), 503, "--model-control-mode explicit"),
    ],
)
def test_refusals_that_leave_the_connection_open(tmp_path: Path, request_bytes: bytes, status: int, words: str) -> None:
    with connected(tmp_path) as client:
        client.send(request_bytes, LIVE)
        answered, _, body = client.answer()
        assert answered == status
        assert words in json.loads(body)["error"]
        assert client.answer()[0] == 200


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ([b"nonsense\r\n\r\n"], 400, "not HTTP/1.1"),
        ([b"GET /", b"a" * 3000], 431, "--max-header-bytes"),
        ([b"GET / HTTP/1.1\r\nA: " + b"a" * 3000 + b"\r\n\r\n"], 431, "2048"),
        ([b"GET / HTTP/1.1\r\n", *[b"A: b\r\n"] * 600], 431, "2048"),
        ([b"GET / HTTP/1.1\r\nA: ", b"a" * 1000, b"a" * 1500], 431, "2048"),
        ([infer(1, headers="A: " + "a" * 3000 + "\r\n")], 431, "2048"),
        ([head("POST", INFER, "Content-Length: 5000") + b"x" * 5000], 413, "--max-request-bytes"),
        ([head("POST", "/v2", "Content-Length: 5000", "Expect: 100-continue")], 413, "4096"),
        ([head("GET", "/nothing", "Content-Length: 50", "Expect: 100-continue")], 404, "nothing"),
        ([head("POST", INFER, "Content-Length: 50", "Expect: miracles")], 417, "100-continue"),
        (
            [head("POST", INFER, "Transfer-Encoding: chunked"), *[b"400\r\n" + b"x" * 1024 + b"\r\n"] * 5],
            413,
            "4096",
        ),
        ([head("POST", INFER, "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n"], 400, "not HTTP/1.1"),
        ([head("POST", INFER, "Content-Length: 5", "Content-Length: 6") + b"aaaaaa"], 400, "not HTTP/1.1"),
    ],
)
def test_what_is_too_much_or_wrong_is_refused_and_the_connection_ends(
    tmp_path: Path, sent: list[bytes], status: int, words: str
) -> None:
    with connected(tmp_path, max_header_bytes=2048, max_request_bytes=4096) as client:
        with contextlib.suppress(ConnectionError):  # it may be answered, and closed, before the last piece
            client.send(*sent)
        answered, headers, body = client.answer()
        assert (answered, headers["Connection"]) == (status, "close")
        assert words in json.loads(body)["error"]
        assert client.ended()


def test_a_bomb_is_stopped(tmp_path: Path) -> None:
    with connected(tmp_path, max_request_bytes=4096) as client:
        bomb = gzip.compress(b" " * 1_000_000)
        for path in (INFER, "/v2/repository/index"):
            client.send(head("POST", path, f"Content-Length: {len(bomb)}", "Content-Encoding: gzip") + bomb)
            status, _, body = client.answer()
            assert (status, "--max-request-bytes" in json.loads(body)["error"]) == (413, True)


def test_a_body_within_the_bound_of_no_use_is_read_over(tmp_path: Path) -> None:
    with connected(tmp_path, max_header_bytes=1024) as client:
        client.send(head("POST", "/v2/health/live", "Content-Length: 4000") + b"x" * 4000, LIVE)
        assert client.answer()[0] == 405
        assert client.answer()[0] == 200


def test_chunks_and_continue(tmp_path: Path) -> None:
    with connected(tmp_path) as client:
        body = infer(3.5).split(b"\r\n\r\n", 1)[1]
        client.send(head("POST", INFER, "Transfer-Encoding: chunked", "Expect: 100-continue"))
        assert client.answer()[0] == 100
        for i in range(0, len(body), 9):
            piece = body[i : i + 9]
            client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        client.send(b"0\r\n\r\n")
        status, _, said = client.answer()
        assert (status, values(said)) == (200, [3.5, 3.5])
        client.send(head("POST", INFER, f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert client.answer()[0] == 100
        client.send(body)
        assert client.answer()[0] == 200


def test_binary_and_the_raw_form(tmp_path: Path) -> None:
    with connected(tmp_path) as client:
        raw = struct.pack("<4f", 1, 2, 3, 4)
        tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}}
        text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        length = len(text) + 16
        for more in ("", "grpc-timeout: 10S"):  # the plain way, and the reader's
            lines = (
                f"Content-Length: {length}",
                f"Inference-Header-Content-Length: {len(text)}",
                *([more] if more else []),
            )
            client.send(head("POST", INFER, *lines) + text + raw)
            status, headers, body = client.answer()
            assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
            assert body[int(headers["Inference-Header-Content-Length"]) :] == raw
        client.send(head("POST", INFER, "Content-Length: 8", "Inference-Header-Content-Length: 0") + raw[:8])
        assert client.answer()[2].endswith(raw[:8])


def test_a_large_tensor_both_ways(tmp_path: Path) -> None:
    put(tmp_path, "wide", "input x FP32 [-1,500000]\n")
    with connected(tmp_path) as client:
        raw = struct.pack("<500000f", *range(500000))
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 500000], "parameters": {"binary_data_size": len(raw)}}
        text = json.dumps(
            {"inputs": [tensor], "outputs": [{"name": "x", "parameters": {"binary_data": True}}]}
        ).encode()
        lines = (f"Content-Length: {len(text) + len(raw)}", f"Inference-Header-Content-Length: {len(text)}")
        for _ in range(3):
            client.send(head("POST", "/v2/models/wide/infer", *lines) + text + raw)
            status, headers, body = client.answer()
            assert status == 200
            assert body[int(headers["Inference-Header-Content-Length"]) :] == raw
        client.send(head("POST", "/v2/models/wide/infer", *lines, "Accept-Encoding: gzip") + text + raw)
        status, headers, body = client.answer()
        assert headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(body).endswith(raw)


def test_cors(tmp_path: Path) -> None:
    with connected(tmp_path, cors_allow_origin=["https://site"]) as client:
        client.send(infer(1, headers="Origin: https://site\r\n"))
        _, headers, _ = client.answer()
        assert headers["Access-Control-Allow-Origin"] == "https://site"
        client.send(infer(1, model="nope", headers="Origin: https://site\r\n"))
        status, headers, _ = client.answer()
        assert (status, headers["Access-Control-Allow-Origin"]) == (404, "https://site")
        client.send(infer(1, headers="Origin: https://other\r\n"))
        assert "Access-Control-Allow-Origin" not in client.answer()[1]
        client.send(head("OPTIONS", INFER, "Origin: https://site", "Access-Control-Request-Method: POST"))
        status, headers, _ = client.answer()
        assert (status, headers["Access-Control-Allow-Methods"]) == (204, "POST, OPTIONS")


def test_generate(tmp_path: Path) -> None:
    with connected(tmp_path) as client:
        body = json.dumps({"x": [1.5, 2.5], "id": "q"}).encode()
        client.send(head("POST", "/v2/models/echo/generate", f"Content-Length: {len(body)}") + body)
        assert json.loads(client.answer()[2])["x"] == [1.5, 2.5]
        client.send(head("POST", "/v2/models/echo/generate_stream", f"Content-Length: {len(body)}") + body)
        _, headers, said = client.answer()
        assert headers["Content-Type"].startswith("text/event-stream")
        assert json.loads(said.removeprefix(b"data: "))["x"] == [1.5, 2.5]


def test_tensorflow_servings_predict(tmp_path: Path) -> None:
    with connected(tmp_path) as client:
        for path in ("/v1/models/echo:predict", "/v1/models/echo/versions/1:predict", "/v1/models/echo"):
            body = json.dumps({"instances": [[1.5, 2.5], [3, 4]]}).encode()
            client.send(head("POST", path, f"Content-Length: {len(body)}") + body)
            assert json.loads(client.answer()[2]) == {"predictions": [[1.5, 2.5], [3, 4]]}
        body = gzip.compress(json.dumps({"inputs": {"x": [[1, 2]]}}).encode())
        client.send(head("POST", path, f"Content-Length: {len(body)}", "Content-Encoding: gzip") + body)
        assert json.loads(client.answer()[2]) == {"outputs": [[1, 2]]}
        client.send(head("GET", path))
        assert json.loads(client.answer()[2])["model_version_status"][0]["state"] == "AVAILABLE"
        client.send(head("POST", "/v1/models/nope:predict", "Content-Length: 2") + b"{}")
        assert client.answer()[0] == 404


def test_a_deadline(tmp_path: Path) -> None:
    put(tmp_path, "held", "input x FP32 [-1,2]\nhold_on 7\n")
    with connected(tmp_path) as client:
        client.send(infer(7, model="held", headers="grpc-timeout: 50m\r\n"))
        status, _, body = client.answer()
        assert status == 504
        assert "deadline" in json.loads(body)["error"].lower()


def test_a_caller_that_goes_cancels(tmp_path: Path) -> None:
    put(tmp_path, "held", "input x FP32 [-1,2]\nhold_on 7\n")
    with connected(tmp_path) as client:
        client.send(infer(7, model="held"))
        instance: Any = client.running._instance  # type: ignore[attr-defined]
        wait_for(lambda: any(row["running"] for row in instance.engine.snapshot()["models"]))
        client.close()
        wait_for(lambda: instance.engine.snapshot()["tickets"] == 0)


def wait_for(done: Any) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline


def test_half_a_request_is_not_waited_for(tmp_path: Path) -> None:
    for half in (LIVE[:30], infer(1)[:-5], head("POST", INFER, "Transfer-Encoding: chunked")):
        with connected(tmp_path, message_stall_seconds=0.5) as client:
            client.send(half)
            status, _, body = client.answer()
            assert status == 408
            assert "--message-stall-seconds" in json.loads(body)["error"]
            assert client.ended()


def test_a_slow_request_has_an_end(tmp_path: Path) -> None:
    for half in (LIVE[:-2], infer(1)[:-5]):
        with connected(tmp_path, message_whole_seconds=0.05) as client:
            client.send(half)
            status, _, body = client.answer()
            assert status == 408
            assert "--message-whole-seconds" in json.loads(body)["error"]


def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    with connected(tmp_path, idle_seconds=0.05) as client:  # which begins with the first answer
        client.send(LIVE)
        assert client.answer()[0] == 200
        assert client.ended()


def test_one_connection_too_many_is_told_so(tmp_path: Path) -> None:
    with connected(tmp_path, max_connections=1) as client:
        client.send(LIVE)
        assert client.answer()[0] == 200
        second = Client(client.running.http_port)  # type: ignore[attr-defined]
        status, _, body = second.answer()
        assert (status, "1 connections" in json.loads(body)["error"]) == (503, True)
        assert second.ended()
        second.close()


def test_a_peer_that_reads_nothing_is_cut_off(tmp_path: Path) -> None:
    put(tmp_path, "wide", "input x FP32 [-1,500000]\n")
    with connected(tmp_path, write_stall_seconds=0.2, max_request_bytes=1 << 23) as client:
        raw = bytes(2_000_000)
        request = head(
            "POST", "/v2/models/wide/infer", f"Content-Length: {len(raw)}", "Inference-Header-Content-Length: 0"
        )
        with pytest.raises(OSError):
            client.send(*[request + raw] * 100)


def test_a_drain_ends_what_is_open(tmp_path: Path) -> None:
    put(tmp_path, "held", "input x FP32 [-1,2]\nhold_on 7\n")
    with connected(tmp_path, drain_seconds=0.2) as client:
        running: headrace.Server = client.running  # type: ignore[attr-defined]
        idle = Client(running.http_port)
        idle.send(LIVE)
        assert idle.answer()[0] == 200
        client.send(infer(7, model="held"))
        instance: Any = running._instance
        wait_for(lambda: any(row["running"] for row in instance.engine.snapshot()["models"]))
        stopped: list[bool] = []
        stopping = threading.Thread(target=lambda: stopped.append(running.stop()))
        stopping.start()
        assert idle.ended()
        status, _, body = client.answer()
        assert (status, "--drain-seconds" in json.loads(body)["error"]) == (503, True)
        stopping.join(20)
        assert stopped == [False]
        idle.close()


def test_a_drain_says_close(tmp_path: Path) -> None:
    with connected(tmp_path, drain_delay=3.0) as client:
        running: headrace.Server = client.running  # type: ignore[attr-defined]
        instance: Any = running._instance
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        wait_for(lambda: instance.service.draining)
        client.send(infer(1))
        status, headers, _ = client.answer()
        assert (status, headers["Connection"]) == (200, "close")
        assert client.ended()
        stopping.join(20)
