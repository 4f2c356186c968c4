"""Each way to be refused: its status, and a sentence that names thing and limit. After each the server serves on."""

import itertools
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc import StatusCode
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from e2e.checks import when_running
from e2e.clients import SECONDS, answer_of, given, request, sample, stub
from server_process import ServerProcess

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
FOREVER = 1 << 40  # iterations of `slow`: it runs until it is cancelled
FILES = (
    "add_sub",
    "shared_symbol",
    "dynamic_inner",
    "twice_int8",
    "twice_uint16",
    "twice_bytes",
    "gather_rows",
    "slow",
)
ALONE = "max_batch_size: 1\ndynamic_batching { default_queue_policy { max_queue_size: 2 } }\n"
MIB = 1 << 20
CURL_STREAM_ERROR = 92


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One lane, small limits; at its end the pool is empty."""
    repository = tmp_path_factory.mktemp("errors")
    for name in FILES:
        version = repository / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(models / f"{name}.onnx", version / "model.onnx")
    (repository / "slow/config.pbtxt").write_text(ALONE)
    flags = ["--lanes", "1", "--compute-threads", "1", "--max-request-bytes", "1MiB", "--access-log"]
    with ServerProcess(repository, *flags) as running:
        yield running
        assert running.stop() == 0
        assert "0 bytes in 0 blocks in use" in running.output()


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    """One connection for all of these tests, so that each refusal also shows that it leaves the connection whole."""
    with grpc.insecure_channel(server.grpc) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _still_serving(channel: grpc.Channel) -> Iterator[None]:
    yield
    a = sample("INT32", (2, 16))
    told = answer_of(stub(channel).ModelInfer(request("add_sub", {"a": a, "b": a}), timeout=SECONDS))
    np.testing.assert_array_equal(told["difference"], a - a)


def refusal(call: Callable[[], object]) -> tuple[StatusCode, str]:
    """The status and the sentence with which a call is refused."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    return error.code(), error.details()


def assert_refused(call: Callable[[], object], code: StatusCode, *words: str) -> None:
    told, sentence = refusal(call)
    assert told is code, sentence
    for word in words:
        assert word in sentence, f"{word!r} is not in {sentence!r}"


# --- One message: what is wrong with it ------------------------------------------------------------------------------

A = sample("INT32", (2, 16), 5)
GOOD = {"a": A, "b": A}


def edited(edit: Callable[[Any], object], message: Any = None) -> Any:
    """A good request, spoiled."""
    message = message or request("add_sub", GOOD)
    edit(message)
    return message


def _param(message: Any, key: str, value: object) -> None:
    field = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
    setattr(message.parameters[key], field, value)


def _many(count: int) -> Any:
    message = request("add_sub", GOOD)
    for number in range(count):
        message.parameters[f"p{number}"].bool_param = True
    return message


def _shape(*dims: int, tensor: int = 0) -> Callable[[Any], None]:
    def edit(message: Any) -> None:
        message.inputs[tensor].shape[:] = dims

    return edit


def _bytes_tensor(raw: bytes) -> Any:
    message = request("twice_bytes", {"x": np.array([[b"", b"", b""]], np.object_)})
    message.raw_input_contents[0] = raw
    return message


def _typed(model: str, datatype: str, field: str, values: list[Any]) -> Any:
    message = service_pb2.ModelInferRequest(model_name=model)
    tensor = message.inputs.add(name="x", datatype=datatype, shape=[1, 3])
    getattr(tensor.contents, field).extend(values)
    return message


INVALID = StatusCode.INVALID_ARGUMENT
REFUSED: dict[str, tuple[Any, StatusCode, tuple[str, ...]]] = {
    "unknown model": (request("nothing", GOOD), StatusCode.NOT_FOUND, ("'nothing'", "model repository")),
    "no model name": (request("", GOOD), StatusCode.NOT_FOUND, ("model ''",)),
    "unknown version": (
        request("add_sub", GOOD, model_version="7"),
        StatusCode.NOT_FOUND,
        ("'add_sub'", "'7'", "serves: 1"),
    ),
    "version that is no number": (request("add_sub", GOOD, model_version="x"), StatusCode.NOT_FOUND, ("'x'",)),
    "a name of any characters": (request("né\n%☃", GOOD), StatusCode.NOT_FOUND, ("'né\n%☃'",)),
    "wrong input name": (request("add_sub", {"a": A, "c": A}), INVALID, ("'add_sub'", "'c'", "a", "b")),
    "missing input": (request("add_sub", {"a": A}), INVALID, ("'b'", "missing")),
    "no input at all": (request("add_sub", {}), INVALID, ("'a'", "missing")),
    "duplicate input": (edited(lambda m: setattr(m.inputs[1], "name", "a")), INVALID, ("'a'", "twice")),
    "wrong datatype": (request("add_sub", {"a": A, "b": A.astype(np.int64)}), INVALID, ("'b'", "INT32", "INT64")),
    "no such datatype": (
        edited(lambda m: setattr(m.inputs[0], "datatype", "FLOAT")),
        INVALID,
        ("'a'", "INT32", "FLOAT"),
    ),
    "wrong dimension": (request("add_sub", {"a": A[:, :15], "b": A}), INVALID, ("'a'", "[-1,16]", "[2,15]")),
    "wrong rank": (edited(_shape(32)), INVALID, ("'a'", "[-1,16]", "[32]")),
    "negative dimension": (edited(_shape(-1, 16)), INVALID, ("'a'", "-1")),
    "dimension that overflows": (
        edited(_shape(1, 1 << 62, 4), request("dynamic_inner", {"x": sample("FP32", (1, 1, 4))})),
        INVALID,
        ("'x'", str(1 << 62)),
    ),
    "rows that disagree": (request("add_sub", {"a": A, "b": A[:1]}), INVALID, ("'b'", "1", "2", "dimension 0")),
    "dimensions of one symbol that disagree": (
        request("shared_symbol", {"a": sample("FP32", (2, 3)), "b": sample("FP32", (2, 4))}),
        INVALID,
        ("'b'", "width", "3", "4"),
    ),
    "too few bytes": (
        edited(lambda m: m.raw_input_contents.__setitem__(0, b"\0" * 127)),
        INVALID,
        ("'a'", "127", "128", "INT32"),
    ),
    "too many bytes": (
        edited(lambda m: m.raw_input_contents.__setitem__(1, b"\0" * 129)),
        INVALID,
        ("'b'", "129", "128"),
    ),
    "batch too large": (
        request("add_sub", dict.fromkeys("ab", sample("INT32", (33, 16)))),
        INVALID,
        ("33", "32", "max_batch_size"),
    ),
    "batch of nothing": (request("add_sub", dict.fromkeys("ab", A[:0])), INVALID, ("0", "1 to 32", "max_batch_size")),
    "raw contents for one input of two": (
        edited(lambda m: m.raw_input_contents.pop()),
        INVALID,
        ("1 raw_input_contents", "2 inputs"),
    ),
    "raw and typed contents": (
        edited(lambda m: m.inputs[0].contents.int_contents.append(1)),
        INVALID,
        ("'a'", "raw_input_contents", "contents"),
    ),
    "neither raw nor typed contents": (
        edited(lambda m: m.raw_input_contents.__delitem__(slice(None))),
        INVALID,
        ("'a'", "int_contents", "0 elements", "32"),
    ),
    "typed contents of the wrong field": (
        _typed("twice_int8", "INT8", "fp32_contents", [1.0, 2.0, 3.0]),
        INVALID,
        ("'x'", "INT8", "int_contents", "fp32_contents"),
    ),
    "too few typed elements": (
        _typed("twice_int8", "INT8", "int_contents", [1, 2]),
        INVALID,
        ("'x'", "int_contents", "2 elements", "[1,3]", "3"),
    ),
    "typed element out of range": (
        _typed("twice_int8", "INT8", "int_contents", [1, 128, 3]),
        INVALID,
        ("'x'", "element 1", "128", "INT8", "-128 to 127"),
    ),
    "typed unsigned element out of range": (
        _typed("twice_uint16", "UINT16", "uint_contents", [1, 2, 65536]),
        INVALID,
        ("element 2", "65536", "UINT16", "0 to 65535"),
    ),
    "string that goes over the end": (_bytes_tensor(b"\x09\0\0\0abc"), INVALID, ("'x'", "BYTES", "[1,3]")),
    "too few strings": (_bytes_tensor(b"\0\0\0\0" * 2), INVALID, ("'x'", "BYTES", "[1,3]")),
    "too many strings": (_bytes_tensor(b"\0\0\0\0" * 4), INVALID, ("'x'", "BYTES", "[1,3]")),
    "unknown output": (
        request("add_sub", GOOD, ["sum", "product"]),
        INVALID,
        ("'product'", "'add_sub'", "sum", "difference"),
    ),
    "too many dimensions": (edited(_shape(*[1] * 33)), INVALID, ("'a'", "32", "--max-dims")),
    "too long a name": (request("n" * 1025, GOOD), INVALID, ("1025", "1024", "--max-name-bytes")),
    "too long an id": (request("add_sub", GOOD, id="i" * 1025), INVALID, ("id", "1024", "--max-name-bytes")),
    "too many tensors": (request("add_sub", GOOD, ["sum"] * 255), INVALID, ("256", "--max-tensors")),
    "too many parameters": (_many(257), INVALID, ("256", "--max-parameters")),
    "timing that is no bool": (
        edited(lambda m: _param(m, "headrace_timing", 1)),
        INVALID,
        ("headrace_timing", "bool_param"),
    ),
    "shared memory for an input": (
        edited(lambda m: _param(m.inputs[0], "shared_memory_region", "r")),
        INVALID,
        ("shared_memory_byte_size", "'a'"),
    ),
    "shared memory for an output": (
        edited(lambda m: _param(m.outputs[0], "shared_memory_byte_size", 64), request("add_sub", GOOD, ["sum"])),
        INVALID,
        ("shared_memory_region", "'sum'"),
    ),
    "classification": (
        edited(lambda m: _param(m.outputs[0], "classification", 0), request("add_sub", GOOD, ["sum"])),
        INVALID,
        ("classification", "'sum'"),
    ),
    "a value that the runtime refuses": (
        request("gather_rows", {"index": np.array([[0, 9]], np.int64)}),
        INVALID,
        ("ONNX Runtime", "idx=9"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_is_refused(name: str, channel: grpc.Channel) -> None:
    message, code, words = REFUSED[name]
    assert_refused(lambda: stub(channel).ModelInfer(message, timeout=SECONDS), code, *words)


def test_tritonclient_reads_status_and_sentence(server: ServerProcess) -> None:
    with triton.InferenceServerClient(server.grpc) as client:
        with pytest.raises(InferenceServerException, match="'nothing'") as raised:
            client.infer("nothing", [given("a", A), given("b", A)])
        assert raised.value.status() == "StatusCode.NOT_FOUND"
        questions: list[tuple[Callable[[], object], str]] = [
            (lambda: client.get_model_metadata("nothing"), "'nothing'"),
            (lambda: client.get_model_config("add_sub", "9"), "'9'"),
            (lambda: client.get_inference_statistics("nothing"), "'nothing'"),
        ]
        for call, words in questions:
            with pytest.raises(InferenceServerException, match=words) as raised:
                call()
            assert raised.value.status() == "StatusCode.NOT_FOUND"


# --- Calls that are no calls -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [INFER, "/inference.GRPCInferenceService/ModelMetadata", LIVE])
@pytest.mark.parametrize("message", [b"\x0a\xff", b"\xff" * 11, b"\x0b", b"\x0a\x02\xc3\x28"])
def test_malformed_protobuf(path: str, message: bytes, channel: grpc.Channel) -> None:
    if path == LIVE and message == b"\x0a\x02\xc3\x28":
        message = b"\x0f"  # a field that it does not know may hold any bytes
    call: Any = channel.unary_unary(path)
    assert_refused(lambda: call(message, timeout=SECONDS), INVALID, "not", "valid")


def test_unknown_methods(channel: grpc.Channel) -> None:
    for path in ("/inference.GRPCInferenceService/Nothing", "/no.Such/Method", "/grpc.health.v1.Health/List"):
        call: Any = channel.unary_unary(path)
        assert_refused(lambda call=call: call(b"", timeout=SECONDS), StatusCode.UNIMPLEMENTED, path)  # type: ignore[misc]


@pytest.mark.parametrize("path", [INFER, LIVE])
def test_a_call_without_a_message(path: str, channel: grpc.Channel) -> None:
    call: Any = channel.stream_unary(path)
    assert_refused(lambda: call(iter([]), timeout=SECONDS), StatusCode.UNIMPLEMENTED, path, "one message", "none")


def test_a_second_message_on_a_unary_call(channel: grpc.Channel) -> None:
    running = request("slow", {"iterations": np.array([[FOREVER]], np.int64)}).SerializeToString()
    call: Any = channel.stream_unary(INFER)
    sent = iter([running] * 2)
    assert_refused(lambda: call(sent, timeout=SECONDS), StatusCode.UNIMPLEMENTED, INFER, "one message", "second")


class Answer(NamedTuple):
    """What curl saw: HTTP's status, and headers and trailers together."""

    status: int
    fields: dict[str, str]


def curl(server: ServerProcess, path: str, body: bytes, *headers: str, method: str = "POST") -> Answer:
    """A gRPC call by curl: what no gRPC library lets one send."""
    fields = {"content-type": "application/grpc", "te": "trailers", **dict(h.split(": ") for h in headers)}
    command = ["curl", "-sS", "--http2-prior-knowledge", "-m", "60", "-i", "-X", method, "--data-binary", "@-"]
    command += [word for name, value in fields.items() for word in ("-H", f"{name}: {value}")]
    deadline = time.monotonic() + SECONDS
    while True:
        done = subprocess.run([*command, f"http://{server.grpc}{path}"], input=body, capture_output=True, check=False)
        # Older ones take a RST_STREAM(NO_ERROR) behind a whole answer, which is the protocol's way to say that the rest
        # of the request is not wanted, for a failure if it comes before they have sent all.
        if done.returncode != CURL_STREAM_ERROR or time.monotonic() > deadline:
            break
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines[1:] if ": " in line]
    return Answer(int(lines[0].split()[1]), {name.lower(): value for name, value in pairs})


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    """A message with gRPC's prefix."""
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


def test_unsupported_compression(server: ServerProcess) -> None:
    told = curl(server, INFER, framed(b"x", compressed=True), "grpc-encoding: snappy")
    assert (told.status, told.fields["grpc-status"]) == (200, "12")
    assert "snappy" in told.fields["grpc-message"]
    assert set(told.fields["grpc-accept-encoding"].split(",")) == {"identity", "deflate", "gzip"}


def test_broken_compression(server: ServerProcess) -> None:
    for body, words in ((b"not gzip at all", "inflate"), (b"", "short")):
        told = curl(server, INFER, framed(body, compressed=True), "grpc-encoding: gzip")
        assert told.fields["grpc-status"] == "13"
        assert words in told.fields["grpc-message"]
    told = curl(server, INFER, framed(b"x", compressed=True))
    assert told.fields["grpc-status"] == "13"
    assert "grpc-encoding" in told.fields["grpc-message"]


def test_requests_that_are_not_grpc(server: ServerProcess) -> None:
    assert curl(server, INFER, b"{}", "content-type: application/json").status == 415
    assert curl(server, INFER, b"", method="PUT").status == 405
    half = curl(server, INFER, framed(b"x" * 100)[:50])
    assert half.fields["grpc-status"] == "13"
    assert "middle" in half.fields["grpc-message"]
    plain = subprocess.run(
        ["curl", "-sS", "-m", "60", "--http1.1", "-w", "%{http_code}", "-d", "{}", f"http://{server.grpc}{INFER}"],
        capture_output=True,
        check=False,
    )
    assert plain.stdout.endswith(b"415"), "HTTP/1.1 is spoken on gRPC's port too, and gRPC over it is gRPC-Web"


# --- Limits ----------------------------------------------------------------------------------------------------------


def test_a_message_over_the_limit(channel: grpc.Channel, server: ServerProcess) -> None:
    infer = stub(channel).ModelInfer
    fits = sample("FP32", (1, 65_000, 4))
    np.testing.assert_array_equal(answer_of(infer(request("dynamic_inner", {"x": fits})))["double"], fits * 2)
    over = request("dynamic_inner", {"x": sample("FP32", (1, 66_000, 4))})
    size = len(over.SerializeToString())
    words = (f"{size} bytes", f"limit of {MIB}", "--max-request-bytes")
    assert_refused(lambda: infer(over, timeout=SECONDS), StatusCode.RESOURCE_EXHAUSTED, *words)
    claimed = curl(server, INFER, b"\0\xff\xff\xff\xff")
    assert claimed.fields["grpc-status"] == "8"
    assert "4294967295 bytes" in claimed.fields["grpc-message"]
    live: Any = channel.unary_unary(LIVE)
    long = b"\x0a" * (MIB + 1)
    assert_refused(lambda: live(long, timeout=SECONDS), StatusCode.RESOURCE_EXHAUSTED, "--max-request-bytes")


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_message_over_the_limit_after_inflating(algorithm: grpc.Compression, channel: grpc.Channel) -> None:
    bomb = request("dynamic_inner", {"x": np.zeros((1, 4 * MIB, 4), np.float32)})
    assert_refused(
        lambda: stub(channel).ModelInfer(bomb, timeout=SECONDS, compression=algorithm),
        StatusCode.RESOURCE_EXHAUSTED,
        str(MIB),
        "after inflating",
        "--max-request-bytes",
    )


@pytest.fixture
def busy(server: ServerProcess, channel: grpc.Channel) -> Iterator[None]:
    """The only lane runs `slow`, until the test is over."""
    held = stub(channel).ModelInfer.future(request("slow", {"iterations": np.array([[FOREVER]], np.int64)}))
    try:
        when_running(server.http, "slow", 1)
        assert not held.done()
        yield
        assert not held.done()
    finally:
        held.cancel()


@pytest.mark.usefixtures("busy")
def test_a_full_queue(channel: grpc.Channel) -> None:
    infer = stub(channel).ModelInfer
    calls = [infer.future(request("slow", {"iterations": np.array([[1]], np.int64)})) for _ in range(10)]
    try:
        deadline = time.monotonic() + SECONDS
        while sum(call.done() for call in calls) < 8:
            assert time.monotonic() < deadline, "a full queue refuses at once"
            time.sleep(0.01)
        refused = [call for call in calls if call.done()]
        assert len(refused) == 8, "two wait: max_queue_size"
        for call in refused:
            assert call.code() is StatusCode.RESOURCE_EXHAUSTED
            for word in ("'slow'", "full", "2 requests", "max_queue_size"):
                assert word in call.details()
    finally:
        for call in calls:
            call.cancel()


@pytest.mark.usefixtures("busy")
def test_a_deadline_behind_a_long_run_fires_on_time(server: ServerProcess) -> None:
    message = framed(request("slow", {"iterations": np.array([[1]], np.int64)}, id="waits").SerializeToString())
    late_us = []
    for _ in range(10):  # the machine's own delays are not the server's, so the best of some counts
        seen = len(server.output())
        told = curl(server, INFER, message, "grpc-timeout: 100m")
        assert told.fields["grpc-status"] == "4"
        assert "deadline" in told.fields["grpc-message"]
        server.wait_for_output(r"id=waits .*code=4 .*\n", SECONDS)
        deadline = time.monotonic() + SECONDS
        while not (line := re.search(r"id=waits .*code=4 .*total_us=(\d+)\n", server.output()[seen:])):
            assert time.monotonic() < deadline, "the access log does not tell of the call"
            time.sleep(0.01)
        late_us.append(int(line.group(1)) - 100_000)
        if late_us[-1] < 20_000:
            break
    assert min(late_us) >= 0
    assert min(late_us) < 20_000, f"microseconds after the deadline: {late_us}"


def test_a_deadline_that_is_over_on_arrival(server: ServerProcess) -> None:
    message = framed(request("add_sub", GOOD).SerializeToString())
    for timeout in ("0m", "1n"):
        told = curl(server, INFER, message, f"grpc-timeout: {timeout}")
        assert told.fields["grpc-status"] == "4"
        assert "deadline" in told.fields["grpc-message"]
    told = curl(server, INFER, message, "grpc-timeout: soon")
    assert told.fields["grpc-status"] == "13"
    assert "soon" in told.fields["grpc-message"]


@pytest.mark.usefixtures("busy")
def test_other_calls_are_answered_while_the_lane_is_busy(channel: grpc.Channel) -> None:
    for _ in range(20):
        assert stub(channel).ServerLive(service_pb2.ServerLiveRequest(), timeout=SECONDS).live
    assert_refused(lambda: stub(channel).ModelInfer(request("nothing", GOOD)), StatusCode.NOT_FOUND, "nothing")
    waiting = stub(channel).ModelInfer.future(request("add_sub", GOOD))
    assert waiting.cancel()
    for _ in itertools.repeat(None, 5):
        call = stub(channel).ModelInfer
        assert_refused(lambda: call(request("add_sub", GOOD), timeout=0.05), StatusCode.DEADLINE_EXCEEDED)  # noqa: B023
