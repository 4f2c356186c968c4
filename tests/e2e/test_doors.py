"""Which door a connection belongs to, told by its first bytes on either port; and gRPC-Web at HTTP's."""

import base64
import http.client
import json
import shutil
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.grpc import service_pb2

from e2e.h2_peer import INFER, Peer, add_sub, hello
from server_process import ServerProcess

Serve = Callable[..., ServerProcess]
ORIGIN = "http://app.example"
READY = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"
STALL, IDLE = 1, 120  # seconds, so far apart that a busy machine does not take one for the other
FORMS = ("application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[ServerProcess]:
    """add_sub, and the same with any number of rows, behind both ports, with little patience for half a message."""
    repository = tmp_path_factory.mktemp("repository")
    (repository / "add_sub/1").mkdir(parents=True)
    shutil.copyfile(models / "add_sub.onnx", repository / "add_sub/1/model.onnx")
    shutil.copytree(repository / "add_sub", repository / "wide")
    (repository / "wide/config.pbtxt").write_text("max_batch_size: 0\n")
    patience = ("--message-stall-seconds", str(STALL), "--idle-seconds", str(IDLE))
    with ServerProcess(repository, *patience, "--cors-allow-origin", ORIGIN) as server:
        yield server


def both(server: ServerProcess) -> list[str]:
    """host:port of each."""
    return [server.grpc, server.http]


def address(target: str) -> tuple[str, int]:
    """For a socket."""
    host, port = target.rsplit(":", 1)
    return host, int(port)


def until_closed(plug: socket.socket) -> bytes:
    """What came before the end."""
    heard = b""
    while part := plug.recv(1 << 16):
        heard += part
    return heard


# --- Doors


def test_each_port_speaks_both(server: ServerProcess) -> None:
    for port in both(server):
        with tritonclient.grpc.InferenceServerClient(port) as client:
            assert client.is_server_ready()
            assert client.is_model_ready("add_sub")
        with Peer(port) as peer:
            assert peer.ask(INFER, add_sub()).code == 0
        web = http.client.HTTPConnection(port, timeout=30)
        for _ in range(2):
            web.request("GET", "/v2/models/add_sub")
            answer = web.getresponse()
            assert json.load(answer)["name"] == "add_sub"
        web.close()


@pytest.mark.parametrize("beginning", [hello(), READY], ids=["HTTP/2", "HTTP/1.1"])
def test_a_beginning_that_comes_byte_by_byte_is_understood(server: ServerProcess, beginning: bytes) -> None:
    for port in both(server):
        with socket.create_connection(address(port), timeout=30) as plug:
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in beginning:
                plug.sendall(bytes([byte]))
            first = plug.recv(9)
            if beginning == READY:
                assert first == b"HTTP/1.1 "
            else:
                assert (first[:2], first[3:]) == (bytes(2), b"\x04" + bytes(5)), "a frame of SETTINGS"


@pytest.mark.parametrize("beginning", [b"P", b"PR", b"G"])
def test_half_a_beginning_has_as_long_as_half_a_message(server: ServerProcess, beginning: bytes) -> None:
    for port in both(server):
        # Within the patience of a stall, and not of an idle connection.
        with socket.create_connection(address(port), timeout=IDLE / 2) as plug:
            plug.sendall(beginning)
            heard = until_closed(plug)
            assert not heard or heard.startswith(b"HTTP/1.1 408 ")


def test_who_says_nothing_has_as_long(server: ServerProcess) -> None:
    for port in both(server):
        began = time.monotonic()
        with socket.create_connection(address(port), timeout=IDLE / 2) as plug:
            assert until_closed(plug) == b""
        assert time.monotonic() - began > 0.9 * STALL


@pytest.mark.parametrize("beginning", [b"", b"P", b"PR"])
def test_a_peer_that_leaves_before_it_can_be_told_costs_nothing(server: ServerProcess, beginning: bytes) -> None:
    for port in both(server):
        began = time.monotonic()
        for _ in range(100):
            with socket.create_connection(address(port), timeout=30) as plug:
                plug.sendall(beginning)
                plug.shutdown(socket.SHUT_WR)
                assert until_closed(plug) == b""
        assert time.monotonic() - began < 100 * STALL / 2, "the server waits for more of those that have left"


def test_a_drain_does_not_wait_for_those_that_say_nothing(
    serve: Serve, repository: Callable[..., Path], models: Path
) -> None:
    server = serve(repository(add_sub=models / "add_sub.onnx"))
    plugs = [socket.create_connection(address(port), timeout=30) for port in both(server) for _ in range(20)]
    for plug in plugs[::2]:
        plug.sendall(b"PR")
    with Peer(server.http) as peer:  # taken after all of these
        assert peer.ask(INFER, add_sub()).code == 0
    assert server.stop() == 0
    for plug in plugs:
        assert plug.recv(1) == b""
        plug.close()


def test_one_port_may_do_for_all(serve: Serve, repository: Callable[..., Path], models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    made = repository(add_sub=models / "add_sub.onnx")
    server = serve(made, "--grpc-port", port, "--http-port", port)
    assert [address(door)[1] for door in both(server)] == [int(port)] * 2
    with tritonclient.grpc.InferenceServerClient(server.http) as client:
        assert client.is_model_ready("add_sub")
    web = http.client.HTTPConnection(server.grpc, timeout=30)
    web.request("GET", "/v2/health/ready")
    assert web.getresponse().status == 200


# --- gRPC-Web


class Said(NamedTuple):
    """An answer of gRPC-Web."""

    message: bytes | None
    trailers: dict[str, str]
    content_type: str
    headers: dict[str, str]


def frame(message: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(message)) + message


def call(port: str, method: str, message: bytes, form: str, **headers: str) -> Said:
    """One call, its frames taken apart by this test's own reading of the protocol."""
    text = "text" in form
    body = frame(message)
    web = http.client.HTTPConnection(port, timeout=60)
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    path = f"/inference.GRPCInferenceService/{method}"
    web.request("POST", path, base64.b64encode(body) if text else body, {"Content-Type": form, **named})
    answer = web.getresponse()
    data = answer.read()
    assert answer.status == 200, data
    if text:
        data = base64.b64decode(data, validate=True)
    found: list[tuple[int, bytes]] = []
    while data:
        flag, size = struct.unpack_from(">BI", data)
        assert len(data) >= 5 + size
        found.append((flag, data[5 : 5 + size]))
        data = data[5 + size :]
    assert found[-1][0] == 0x80, "trailers come last"
    assert [flag for flag, _ in found[:-1]] in ([], [0])
    lines = (line.split(":", 1) for line in found[-1][1].decode().removesuffix("\r\n").split("\r\n"))
    trailers = {key: unquote(value) for key, value in lines}
    head = {key.lower(): value for key, value in answer.getheaders()}
    return Said(found[0][1] if len(found) == 2 else None, trailers, head["content-type"], head)


def sums(reply: bytes | None) -> list[int]:
    assert reply is not None
    response = service_pb2.ModelInferResponse.FromString(reply)
    assert [output.name for output in response.outputs] == ["sum", "difference"]
    return [int(value) for value in np.frombuffer(response.raw_output_contents[0], np.int32)]


@pytest.mark.parametrize("form", FORMS)
def test_inference(server: ServerProcess, form: str) -> None:
    request = service_pb2.ModelInferRequest.FromString(add_sub())
    a, b = (np.frombuffer(raw, np.int32) for raw in request.raw_input_contents)
    for port in both(server):
        said = call(port, "ModelInfer", add_sub(), form)
        assert said.trailers == {"grpc-status": "0"}
        assert sums(said.message) == (a + b).tolist()
        assert said.content_type == ("application/grpc-web-text+proto" if "text" in form else FORMS[1])


@pytest.mark.parametrize("form", FORMS)
def test_a_large_tensor_comes_and_goes(server: ServerProcess, form: str) -> None:
    rows = 20_000
    request = service_pb2.ModelInferRequest(model_name="wide")
    values = np.arange(rows * 16, dtype=np.int32).reshape(rows, 16)
    for name in ("a", "b"):
        request.inputs.add(name=name, datatype="INT32", shape=[rows, 16])
        request.raw_input_contents.append(values.tobytes())
    said = call(server.http, "ModelInfer", request.SerializeToString(), form)
    assert said.trailers == {"grpc-status": "0"}
    assert sums(said.message) == (2 * values).ravel().tolist()


@pytest.mark.parametrize("form", FORMS)
def test_the_other_calls(server: ServerProcess, form: str) -> None:
    said = call(server.http, "ServerReady", b"", form)
    assert service_pb2.ServerReadyResponse.FromString(said.message or b"").ready
    asked = service_pb2.ModelMetadataRequest(name="add_sub").SerializeToString()
    reply = call(server.http, "ModelMetadata", asked, form).message
    metadata = service_pb2.ModelMetadataResponse.FromString(reply or b"")
    assert [tensor.name for tensor in metadata.inputs] == ["a", "b"]


@pytest.mark.parametrize("form", FORMS)
def test_failures_are_trailers_with_a_sentence(server: ServerProcess, form: str) -> None:
    unknown = service_pb2.ModelInferRequest(model_name="größe").SerializeToString()
    said = call(server.http, "ModelInfer", unknown, form)
    assert (said.message, said.trailers["grpc-status"]) == (None, "5")
    assert "'größe'" in said.trailers["grpc-message"]
    said = call(server.http, "ModelInfer", b"\xff\xff\xff", form)
    assert said.trailers["grpc-status"] == "3"
    said = call(server.http, "ModelMetadata", b"\xff\xff\xff", form)
    assert said.trailers["grpc-status"] == "3"
    asked = service_pb2.ModelMetadataRequest(name="nobody").SerializeToString()
    assert call(server.http, "ModelMetadata", asked, form).trailers["grpc-status"] == "5"
    said = call(server.http, "ModelInfer", add_sub(), form, grpc_timeout="1n")
    assert said.trailers["grpc-status"] == "4"


def test_what_is_not_a_call_is_refused_before_it_is_read(server: ServerProcess) -> None:
    path = "/inference.GRPCInferenceService/ModelInfer"
    cases = [
        ("POST", path, {"Content-Type": "application/json"}, b"{}", 415, "takes gRPC-Web"),
        ("POST", path, {"Content-Type": "application/grpc"}, b"", 415, "takes gRPC-Web"),
        ("POST", path, {}, b"", 415, "takes gRPC-Web"),
        ("POST", path, {"Content-Type": FORMS[2], "Content-Encoding": "gzip"}, b"x", 415, "not compressed besides"),
        ("GET", path, {"Content-Type": FORMS[0]}, b"", 405, "takes POST"),
        ("POST", path + "s", {"Content-Type": FORMS[0]}, b"", 404, "nothing"),
        ("POST", "/a.Service/Method", {"Content-Type": FORMS[0]}, b"", 404, "nothing"),
    ]
    for method, target, headers, body, status, text in cases:
        web = http.client.HTTPConnection(server.http, timeout=30)
        web.request(method, target, body, headers)
        answer = web.getresponse()
        said = json.loads(answer.read())["error"]
        assert (answer.status, text in said) == (status, True), said


@pytest.mark.parametrize("form", FORMS)
def test_deadlines_of_many_digits_are_read_and_broken_ones_told_in_trailers(server: ServerProcess, form: str) -> None:
    for timeout in ("100800000m", "99999999H", "9" * 30 + "m"):
        for method, message in (("ModelInfer", add_sub()), ("ServerReady", b"")):
            said = call(server.http, method, message, form, grpc_timeout=timeout)
            assert said.trailers["grpc-status"] == "0", timeout
    for timeout in ("soon", "1", "-1S", "1.5S"):
        for method, message in (("ModelInfer", add_sub()), ("ServerReady", b"")):
            said = call(server.http, method, message, form, grpc_timeout=timeout)
            assert said.trailers["grpc-status"] == "13"
            assert f"grpc-timeout must be a number and a unit of H M S m u n, not '{timeout}'" in str(said.trailers)
            assert said.content_type == ("application/grpc-web-text+proto" if "text" in form else FORMS[1])


def test_broken_frames_are_invalid_arguments(server: ServerProcess) -> None:
    for body, form in ((b"", FORMS[0]), (b"\0\0\0\0\5abc", FORMS[0]), (b"!!!!", FORMS[2]), (b"AAAA", FORMS[2])):
        for method in ("ModelInfer", "ModelMetadata"):
            web = http.client.HTTPConnection(server.http, timeout=30)
            web.request("POST", f"/inference.GRPCInferenceService/{method}", body, {"Content-Type": form})
            answer = web.getresponse()
            data = answer.read()
            if "text" in form:
                data = base64.b64decode(data)
            assert (answer.status, data[0], b"grpc-status:3\r\n" in data) == (200, 0x80, True), (body, form, data)


def test_a_page_of_a_known_origin_may_call(server: ServerProcess) -> None:
    web = http.client.HTTPConnection(server.http, timeout=30)
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "content-type,x-grpc-web,x-user-agent"
    web.request("OPTIONS", "/inference.GRPCInferenceService/ModelInfer", headers=asked)
    answer = web.getresponse()
    answer.read()
    assert answer.status == 204
    assert answer.getheader("Access-Control-Allow-Origin") == ORIGIN
    allowed = (answer.getheader("Access-Control-Allow-Headers") or "").lower()
    assert {"content-type", "x-grpc-web", "x-user-agent"} <= set(allowed.replace(" ", "").split(","))
    for form in FORMS:
        said = call(server.http, "ModelInfer", add_sub(), form, Origin=ORIGIN)
        assert said.headers["access-control-allow-origin"] == ORIGIN
        said = call(server.http, "ModelInfer", b"\xff", form, Origin=ORIGIN)
        assert said.headers["access-control-allow-origin"] == ORIGIN
        said = call(server.http, "ServerReady", b"", form, Origin="http://elsewhere.example")
        assert "access-control-allow-origin" not in said.headers
