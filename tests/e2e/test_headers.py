"""Headers as parameters of requests (--grpc-header-forward-pattern, --http-header-forward-pattern): what they do, when
they do not count, and what the access log says of them; through unmodified clients at every door.
"""

import http.client
import json
import queue
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

import headrace
from e2e.clients import SECONDS, given
from e2e.h2_peer import INFER, STREAM_INFER, Peer, add_sub, message
from e2e.test_doors import FORMS, call
from headrace.config import ConfigError
from server_process import ServerFailed, ServerProcess

Headers = Mapping[str, str]
Repository = Callable[..., Path]
ROW = np.arange(16, dtype=np.int32).reshape(1, 16)
ENDLESS = 1 << 40  # iterations of `slow`
# Of another in each pattern, so that a door which takes the other's is found out.
KNOWN = "headrace_timing|priority|timeout|sequence_.*|binary_data_output|triton_.*|x-tenant"
FLAGS = (
    *("--grpc-header-forward-pattern", f"{KNOWN}|x-grpc|.*-bin"),
    *("--http-header-forward-pattern", f"{KNOWN}|X-Http"),
    "--access-log",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """add_sub, and slow, whose callers may set a timeout."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("add_sub", "slow"):
        (folder / name / "1").mkdir(parents=True)
        shutil.copyfile(models / f"{name}.onnx", folder / name / "1/model.onnx")
    (folder / "slow/config.pbtxt").write_text(
        "dynamic_batching { default_queue_policy { allow_timeout_override: true } }\n"
    )
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with ServerProcess(folder, *FLAGS) as server:
        yield server


def line_of(server: ServerProcess, request_id: str) -> str:
    """What the access log says of a request."""
    return server.wait_for_output(rf"^.*\bid={request_id} .*\n", SECONDS).group(0)


Ask = Callable[..., Any]


def by_grpc(server: ServerProcess, headers: Headers, model: str = "add_sub", **more: Any) -> Any:
    """The response, as a message."""
    headers = {name.lower(): value for name, value in headers.items()}  # gRPC has no others
    with triton.InferenceServerClient(server.grpc) as client:
        return client.infer(model, inputs_of(triton, model), headers=headers, **more).get_response()


def by_http(server: ServerProcess, headers: Headers, model: str = "add_sub", **more: Any) -> Any:
    """The response, as JSON."""
    with triton_http.InferenceServerClient(server.http) as client:
        return client.infer(model, inputs_of(triton_http, model), headers=dict(headers), **more).get_response()


def by_http_reader(server: ServerProcess, headers: Headers, model: str = "add_sub", **more: Any) -> Any:
    """The same, with a header that makes it no plain request: the core leaves those to the reader."""
    return by_http(server, {**headers, "grpc-timeout": "60S"}, model, **more)


def inputs_of(kind: Any, model: str) -> list[Any]:
    tensors = {"a": ROW, "b": ROW} if model == "add_sub" else {"iterations": np.array([[ENDLESS]], np.int64)}
    inputs = []
    for name, array in tensors.items():
        one = kind.InferInput(name, list(array.shape), "INT32" if model == "add_sub" else "INT64")
        one.set_data_from_numpy(array)
        inputs.append(one)
    return inputs


CLIENTS = [by_grpc, by_http, by_http_reader]
each_client = pytest.mark.parametrize("ask", CLIENTS)


def timed(response: Any) -> bool:
    parameters = response.get("parameters", {}) if isinstance(response, dict) else response.parameters
    return "headrace_batch_size" in parameters


def refusal(work: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as raised:
        work()
    return str(raised.value.status()).removeprefix("StatusCode."), str(raised.value.message())


INVALID = ("INVALID_ARGUMENT", "400")


@each_client
def test_a_known_one_acts_and_the_requests_own_counts_first(server: ServerProcess, ask: Ask) -> None:
    assert timed(ask(server, {"headrace_timing": "true"}))
    assert timed(ask(server, {"Headrace_Timing": "true"})), "names have no case"
    assert not timed(ask(server, {"headrace_timing": "false"}))
    assert not timed(ask(server, {}))
    assert not timed(ask(server, {"headrace_timing": "true"}, parameters={"headrace_timing": False}))
    assert timed(ask(server, {"headrace_timing": "nonsense"}, parameters={"headrace_timing": True}))
    ask(server, {"priority": "7", "sequence_id": "a", "sequence_start": "true", "sequence_end": "false"})
    ask(server, {"triton_enable_empty_final_response": "true"})


@each_client
def test_a_timeout_ends_the_request(server: ServerProcess, ask: Ask) -> None:
    code, text = refusal(lambda: ask(server, {"timeout": "50000"}, "slow"))
    assert code in ("DEADLINE_EXCEEDED", "504")
    assert "deadline" in text


@each_client
@pytest.mark.parametrize(
    ("header", "value", "words"),
    [
        ("priority", "high", "whole number from 0 to 18446744073709551615 then, not 'high'"),
        ("timeout", "-1", "not '-1'"),
        ("timeout", "1.5", "not '1.5'"),
        ("headrace_timing", "yes", "true or false then, not 'yes'"),
        ("sequence_start", "1", "true or false then, not '1'"),
        ("triton_final_response", "true", "begin with 'triton_' are reserved"),
    ],
)
def test_a_wrong_one_is_refused_by_name(server: ServerProcess, ask: Ask, header: str, value: str, words: str) -> None:
    code, text = refusal(lambda: ask(server, {header: value}))
    assert code in INVALID
    assert f"header '{header}'" in text
    assert words in text
    ask(server, {})


@each_client
def test_the_access_log_tells_of_them(server: ServerProcess, ask: Ask) -> None:
    name = ask.__name__
    ask(server, {"X-Tenant": "acme", "x-grpc": "1", "X-Http": "2", "x-other": "3"}, request_id=f"{name}-1")
    line = line_of(server, f"{name}-1")
    mine = "header.x-grpc=1" if ask is by_grpc else "header.x-http=2"
    assert re.findall(r"header\.\S+", line) == ["header.x-tenant=acme", mine]
    ask(server, {"x-tenant": 'a "b" = c\\'}, request_id=f"{name}-2")
    assert line_of(server, f"{name}-2").endswith(' header.x-tenant="a \\"b\\" = c\\\\"\n'), (
        "quoted: one line, one value"
    )
    ask(server, {"x-tenant": "v" * 1000}, request_id=f"{name}-3")
    assert line_of(server, f"{name}-3").endswith(f" header.x-tenant={'v' * 128}...\n"), "bounded"
    ask(server, {}, request_id=f"{name}-4")
    assert "header." not in line_of(server, f"{name}-4")
    refusal(lambda: ask(server, {"x-tenant": f"{name}-who", "priority": "x"}))
    found = server.wait_for_output(rf"^.*header\.x-tenant={name}-who.*\n", SECONDS).group(0)
    assert "code=3 " in found
    assert "header.priority=x" in found


def test_a_value_that_is_no_text_stays_on_its_line(server: ServerProcess) -> None:
    with Peer(server.grpc) as peer:
        told = peer.ask(INFER, add_sub(), [("x-tenant", "\u00ff"), ("x-grpc", "odd"), ("x-raw-bin", "AP8=")])
        assert told.code == 0
    line = server.wait_for_output(r"^.*header\.x-grpc=odd.*\n", SECONDS).group(0)
    assert re.search(r'header\.x-tenant="[ -~]+" header\.x-grpc=odd\n', line), "and bytes are not forwarded"
    for more in ({}, {"grpc-timeout": "60S"}):  # the core's way, and the reader's
        status, told = post(server, "/v2/models/add_sub/infer", json_body(), {"priority": "\u00ff", **more})
        assert (status, "not '?'" in told["error"]) == (400, True)


def test_a_streams_headers_are_of_each_message(server: ServerProcess) -> None:
    told: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(
            lambda result, error: told.put((result, error)),
            headers={"headrace_timing": "true", "x-tenant": "streamer"},
        )
        for number in range(3):
            client.async_stream_infer("add_sub", inputs_of(triton, "add_sub"), request_id=f"stream-{number}")
        for _ in range(3):
            result, error = told.get(timeout=SECONDS)
            assert error is None
            assert timed(result.get_response())
        client.stop_stream()
    for number in range(3):
        assert "header.x-tenant=streamer" in line_of(server, f"stream-{number}")
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: told.put((result, error)), headers={"priority": "first"})
        for _ in range(2):
            client.async_stream_infer("add_sub", inputs_of(triton, "add_sub"))
            assert "header 'priority'" in told.get(timeout=SECONDS)[1].message(), "and the stream goes on"
        client.stop_stream()


@pytest.mark.parametrize("form", FORMS)
def test_grpc_web_brings_metadata(server: ServerProcess, form: str) -> None:
    said = call(server.http, "ModelInfer", add_sub(), form, priority="x")
    assert said.trailers["grpc-status"] == "3"
    assert "header 'priority'" in said.trailers["grpc-message"]
    tenant = f"web-{FORMS.index(form)}"
    said = call(server.http, "ModelInfer", add_sub(), form, x_tenant=tenant, x_grpc="1", x_http="2")
    assert said.trailers["grpc-status"] == "0"
    line = server.wait_for_output(rf"^.*header\.x-tenant={tenant}.*\n", SECONDS).group(0)
    assert line.endswith(f" header.x-tenant={tenant} header.x-grpc=1\n")


def test_a_page_may_send_them(folder: Path) -> None:
    origin = "http://app.example"
    with ServerProcess(folder, *FLAGS, "--cors-allow-origin", origin) as server:
        web = http.client.HTTPConnection(server.http, timeout=SECONDS)
        for path, mine in (
            ("/v2/models/add_sub/infer", "x-http"),
            ("/inference.GRPCInferenceService/ModelInfer", "x-grpc"),
        ):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            asked["Access-Control-Request-Headers"] = "content-type,X-Tenant, x-http,x-grpc,x-other"
            web.request("OPTIONS", path, headers=asked)
            answer = web.getresponse()
            answer.read()
            allowed = (answer.getheader("Access-Control-Allow-Headers") or "").split(", ")
            assert [name for name in allowed if name in ("x-tenant", "x-http", "x-grpc", "x-other")] == [
                "x-tenant",
                mine,
            ]
            assert "Content-Type" in allowed
        web.close()


def json_body(**more: str) -> bytes:
    """A request of add_sub."""
    tensors = [{"name": n, "datatype": "INT32", "shape": [1, 16], "data": ROW[0].tolist()} for n in "ab"]
    return json.dumps({"inputs": tensors, **more}).encode()


def post(server: ServerProcess, path: str, body: bytes, headers: Headers) -> tuple[int, Any]:
    web = http.client.HTTPConnection(server.http, timeout=SECONDS)
    try:
        web.request("POST", path, body, dict(headers))
        answer = web.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        web.close()


@pytest.mark.parametrize("path", ["/v2/models/add_sub/generate", "/v1/models/add_sub:predict"])
def test_the_other_forms_of_inference(server: ServerProcess, path: str) -> None:
    row = list(range(16))
    flat = {"a": row, "b": row} if path.endswith("generate") else {"instances": [{"a": row, "b": row}]}
    body = json.dumps(flat).encode()
    tenant = path.rsplit("/", 1)[-1].replace(":", "-")
    assert post(server, path, body, {"X-Tenant": tenant})[0] == 200
    assert f"header.x-tenant={tenant}" in server.wait_for_output(rf"^.*x-tenant={tenant}.*\n", SECONDS).group(0)
    status, told = post(server, path, body, {"priority": "x"})
    assert (status, "header 'priority'" in told["error"]) == (400, True)


def test_binary_output_by_header_and_compressed_and_large_bodies(server: ServerProcess) -> None:
    with triton_http.InferenceServerClient(server.http) as client:
        for how in ("gzip", None):
            inputs = inputs_of(triton_http, "add_sub")
            asked = {"headers": {"headrace_timing": "true"}, "request_compression_algorithm": how}
            answer = client.infer("add_sub", inputs, **asked)
            assert timed(answer.get_response())
            assert (answer.as_numpy("sum") == 2 * ROW).all()
    body = json_body(padding="x" * 300_000)
    web = http.client.HTTPConnection(server.http, timeout=SECONDS)
    for _ in range(2):
        web.request("POST", "/v2/models/add_sub/infer", body, {"binary_data_output": "true"})
        answer = web.getresponse()
        assert answer.status == 200
        assert answer.getheader("Inference-Header-Content-Length")
        answer.read()
    web.close()


def test_they_count_as_parameters(server: ServerProcess) -> None:
    many = [("x-tenant", str(number)) for number in range(257)]
    with Peer(server.grpc) as peer:
        told = peer.ask(INFER, add_sub(), many)
        assert told.code == 3
        assert "--max-parameters" in told.text
        assert peer.ask(INFER, add_sub(), many[:256]).code == 0
        stream = peer.begin(STREAM_INFER, many)
        peer.send(stream, message(add_sub()), end=True)
        told = peer.wait(stream)
        assert told.code == 0, "the error is the message's"
        assert b"--max-parameters" in told.messages[0]


def test_nothing_is_forwarded_by_default(folder: Path) -> None:
    with ServerProcess(folder, "--access-log") as server:
        for ask in CLIENTS:
            assert not timed(ask(server, {"headrace_timing": "true", "priority": "x", "triton_x": "1"}))
            ask(server, {"x-tenant": "acme"}, request_id=ask.__name__)
            assert line_of(server, ask.__name__).endswith("\n")
            assert "header." not in line_of(server, ask.__name__)


def test_one_door_forwards_without_the_other(folder: Path) -> None:
    with ServerProcess(folder, "--http-header-forward-pattern", "HEADRACE_.*", "--io-threads", "2") as server:
        assert not timed(by_grpc(server, {"headrace_timing": "true"}))
        for _ in range(4):
            assert timed(by_http(server, {"headrace_timing": "true"}))
            assert timed(by_http_reader(server, {"headrace_timing": "true"}))


def test_a_wrong_pattern_ends_the_start(folder: Path) -> None:
    for flag in ("--grpc-header-forward-pattern", "--http-header-forward-pattern"):
        with pytest.raises(ServerFailed, match="ended with code 2") as raised, ServerProcess(folder, flag, "x-("):
            pass
        (line,) = [line for line in str(raised.value).splitlines() if line.startswith("headrace: ")]
        assert all(word in line for word in (flag, "'x-('", "no regular expression", "unterminated subpattern"))


def test_in_process(repository: Repository, models: Path) -> None:
    ports = {"grpc_port": 0, "http_port": 0}
    folder = repository(add_sub=models / "add_sub.onnx")
    with pytest.raises(ConfigError, match="http_header_forward_pattern"):
        headrace.Server(folder, http_header_forward_pattern="(", **ports)
    with (
        headrace.Server(folder, grpc_header_forward_pattern="headrace_.*", **ports) as server,
        triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client,
    ):
        inputs = [given("a", ROW), given("b", ROW)]
        assert timed(client.infer("add_sub", inputs, headers={"headrace_timing": "true"}).get_response())
