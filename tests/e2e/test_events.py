"""generate_stream and generate of models that answer a request any number of times: on real sockets."""

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import headrace
from python.test_http_stream import ORIGIN, snapshot, until

END = b"0\r\n\r\n"


@contextlib.contextmanager
def serving(root: Path, **options: Any) -> Iterator[headrace.Server]:
    """`rows` answers once for each row, fails at a 9 and stays at a 7; `free` is the same of any number of rows;
    `plain` answers once."""
    for name, size, more in (("rows", 65536, "answers rows"), ("free", 0, "answers rows"), ("plain", 65536, "")):
        shape = "[-1,1]" if size else "[-1]"
        (root / name / "1").mkdir(parents=True, exist_ok=True)
        policy = "model_transaction_policy { decoupled: true }" if more else ""
        (root / name / "config.pbtxt").write_text(f'backend: "echo" max_batch_size: {size} {policy}')
        (root / name / "1/model.echo").write_text(f"input x INT32 {shape}\nfail_on 9\nhold_on 7\n{more}\n")
    with headrace.Server(
        root, **{"grpc_port": 0, "http_port": 0, "cors_allow_origin": (ORIGIN,), **options}
    ) as running:
        yield running
        if running._instance is None:
            return  # stopped already
        until(lambda: snapshot(running)["tickets"] == 0)
        until(lambda: snapshot(running)["pool"]["bytes_in_use"] == 0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[headrace.Server]:
    with serving(tmp_path) as running:
        yield running


class Client:
    """One connection: this test's own reading of HTTP and of events."""

    def __init__(self, running: headrace.Server, *, receive_buffer: int = 0) -> None:
        self.plug = socket.socket()
        self.plug.settimeout(20)
        if receive_buffer:
            self.plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.plug.connect(("127.0.0.1", running.http_port))
        self.file = self.plug.makefile("rb")
        self._text = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.plug.close()

    def ask(
        self, values: list[int], model: str = "rows", verb: str = "generate_stream", *, headers: str = "", **also: Any
    ) -> None:
        body = json.dumps({"x": values if model == "free" else [[value] for value in values], **also})
        self.send("POST", f"/v2/models/{model}/{verb}", f"Content-Length: {len(body)}\r\n{headers}", body)

    def send(self, method: str, path: str, headers: str = "", body: str = "", version: str = "1.1") -> None:
        self.plug.sendall(f"{method} {path} HTTP/{version}\r\nHost: x\r\n{headers}\r\n{body}".encode())

    def head(self) -> tuple[int, dict[str, str]]:
        status = int(self.file.readline().split(b" ")[1])
        headers = {}
        while line := self.file.readline().strip().decode():
            name, _, value = line.partition(": ")
            headers[name] = value
        return status, headers

    def answer(self) -> tuple[int, Any]:
        """One that is not in pieces."""
        status, headers = self.head()
        return status, json.loads(self.file.read(int(headers["Content-Length"])))

    def event(self) -> Any:
        """The next one; None is the end."""
        while b"\n\n" not in self._text:
            size = int(self.file.readline(), 16)
            self._text += self.file.read(size)
            assert self.file.read(2) == b"\r\n"
            if size == 0:
                assert self._text == b""
                return None
        event, _, self._text = self._text.partition(b"\n\n")
        assert event.startswith(b"data: ")
        return json.loads(event.removeprefix(b"data: "))

    def events(self) -> list[Any]:
        return list(iter(self.event, None))


def told(value: int, model: str = "rows") -> dict[str, Any]:
    return {"model_name": model, "model_version": "1", "x": value}


def test_each_answer_is_an_event(server: headrace.Server) -> None:
    with Client(server) as client:
        for values in ([5, 6, 8], list(range(10, 2000)), [3]):
            client.ask(values, headers=f"Origin: {ORIGIN}\r\nAccept-Encoding: gzip\r\n", id="q")
            status, headers = client.head()
            assert (status, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
            assert (headers["Transfer-Encoding"], headers["Cache-Control"]) == ("chunked", "no-cache")
            assert headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "Content-Encoding" not in headers
            assert client.events() == [{**told(value), "id": "q"} for value in values]
        client.ask([], "free")
        assert client.head()[0] == 200
        assert client.events() == []
        client.ask([5, 6], "plain")
        _, headers = client.head()
        whole = client.file.read(int(headers["Content-Length"]))
        assert json.loads(whole.removeprefix(b"data: ")) == {**told(5, "plain"), "x": [5, 6]}


def test_an_event_comes_before_the_next_is_made(server: headrace.Server) -> None:
    with Client(server) as client:
        client.ask([5, 7])
        client.head()
        assert client.event() == told(5)
        assert snapshot(server)["tickets"] == 1
    until(lambda: snapshot(server)["tickets"] == 0)  # its reader has gone


def test_generate_has_exactly_one_answer(server: headrace.Server) -> None:
    with Client(server) as client:
        client.ask([5], verb="generate")
        assert client.answer() == (200, told(5))
        for values, model in (([5, 6], "rows"), ([5, 7], "rows"), ([1] * 60000, "rows"), ([], "free")):
            client.ask(values, model, verb="generate")
            if 7 in values:
                break
            status, said = client.answer()
            assert (status, "exactly 1 response" in said["error"]) == (400, True)


def test_calls_of_one_answer_are_refused(server: headrace.Server) -> None:
    with Client(server) as client:
        given = {"name": "x", "datatype": "INT32", "shape": [1, 1], "data": [1]}
        for path, body in (
            ("/v2/models/rows/infer", {"inputs": [given]}),
            ("/v1/models/rows:predict", {"inputs": [[1]]}),
        ):
            text = json.dumps(body)
            client.send("POST", path, f"Content-Length: {len(text)}\r\n", text)
            status, said = client.answer()
            assert (status, "any number of times" in said["error"]) == (501, True)
            assert "generate_stream" in said["error"]


def test_errors_before_and_behind_the_first_event(server: headrace.Server) -> None:
    with Client(server) as client:
        client.ask([9, 5])
        assert client.answer()[0] == 500
        client.ask([5, 9, 6])
        assert client.head()[0] == 200
        first, second = client.events()
        assert first == told(5)
        assert list(second) == ["error"]
        client.ask([5], "nobody")
        assert client.answer()[0] == 404
        client.ask([5], y=1)
        assert client.answer()[0] == 400
        client.ask([5, 7], headers="grpc-timeout: 200m\r\n")
        assert client.head()[0] == 200
        first, second = client.events()
        assert (first, "deadline" in second["error"]) == (told(5), True)


def test_what_is_asked_behind_is_answered_behind(server: headrace.Server) -> None:
    with Client(server) as client:
        client.ask(list(range(10, 500)))
        client.send("GET", "/v2/health/live")
        client.ask([5, 6])
        client.send("HEAD", "/v2/models/rows/generate_stream")
        client.ask([9])
        client.ask([4], verb="generate")
        assert client.head()[0] == 200
        assert client.events() == [told(value) for value in range(10, 500)]
        assert client.answer() == (200, {"live": True})
        client.head()
        assert client.events() == [told(5), told(6)]
        assert client.head()[0] == 405, "and no body"
        assert client.answer()[0] == 500
        assert client.answer() == (200, told(4))


def test_http_1_0_ends_with_the_connection(server: headrace.Server) -> None:
    for keep in ("", "Connection: keep-alive\r\n"):
        with Client(server) as client:
            body = json.dumps({"x": [[5], [6]]})
            path = "/v2/models/rows/generate_stream"
            client.send("POST", path, f"Content-Length: {len(body)}\r\n{keep}", body, version="1.0")
            status, headers = client.head()
            assert (status, headers["Connection"], "Transfer-Encoding" in headers) == (200, "close", False)
            found = client.file.read().decode().split("\n\n")
            assert [json.loads(event.removeprefix("data: ")) for event in found[:-1]] == [told(5), told(6)]


def test_a_reader_that_does_not_read_costs_a_bounded_amount(tmp_path: Path) -> None:
    with serving(tmp_path, max_output_bytes=1 << 19, lanes=1) as running, Client(running, receive_buffer=4096) as slow:
        values = [value for value in range(1 << 17) if value not in (7, 9)][: 1 << 15]
        slow.ask(values)
        slow.head()

        def rests() -> bool:
            now = snapshot(running)
            return bool(now["lanes_busy"] == 0 and now["tickets"] == 1)

        until(rests)
        with Client(running) as quick:
            quick.ask([5])
            quick.head()
            assert quick.events() == [told(5)]
        assert snapshot(running)["tickets"] == 1, "the other is not through"
        assert slow.events() == [told(value) for value in values]


def test_a_reader_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    options = {"max_output_bytes": 1 << 19, "write_stall_seconds": 0.5}
    with serving(tmp_path, **options) as running, Client(running, receive_buffer=4096) as idle:
        idle.ask([5] * (1 << 16))
        idle.head()
        until(lambda: snapshot(running)["tickets"] == 0)
        (rows,) = (row for row in snapshot(running)["models"] if row["name"] == "rows")
        assert (rows["success"]["count"], rows["cancel"]["count"]) == (0, 1)


def test_each_loop_answers_its_own(tmp_path: Path) -> None:
    with serving(tmp_path, io_threads=2) as running, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(running)) for _ in range(6)]
        for number, client in enumerate(clients):
            client.ask([number] * 300)
        for number, client in enumerate(clients):
            client.head()
            assert client.events() == [told(number)] * 300


def test_a_drain_ends_it_with_an_error(tmp_path: Path) -> None:
    with serving(tmp_path, drain_seconds=0.2) as running, Client(running) as client:
        client.ask([5, 7])
        client.head()
        assert client.event() == told(5)
        running.stop()
        assert list(client.event()) == ["error"]
        assert client.event() is None
        assert client.file.read() == b"", "and the connection with it"


def test_curl_shows_events_as_they_come(server: headrace.Server) -> None:
    url = f"http://127.0.0.1:{server.http_port}/v2/models/rows/generate_stream"
    command = ["curl", "-sN", "-d", json.dumps({"x": [[5], [7]]}), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        assert curl.stdout is not None
        assert json.loads(curl.stdout.readline().removeprefix(b"data: ")) == told(5)
        curl.kill()
