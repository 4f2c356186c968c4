"""Any tensors through every door and back, bit for bit: JSON, binary and both at once over HTTP, raw and typed contents
over gRPC, a stream, TensorFlow Serving's columns. What docs/json.md says of NaN is the one exception: as text, and in
FP32 that stands for FP16 and BF16, a NaN comes back as some NaN.
"""

import base64
import http.client
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2

from e2e.clients import FIELDS, NUMPY, SECONDS, stub
from server_process import ServerProcess

ONNX = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
FLOATS = ("FP16", "BF16", "FP32", "FP64")
WORDS = [b"", b"\0", b"a\0b", b"\xff", b"\xc3\x28", "Gr\u00fc\u00dfe \U0001f600".encode(), b'"\\/\n\x1f\x7f', b"x" * 70]


def input_name(datatype: str) -> str:
    return f"x_{datatype.lower()}"


def output_name(datatype: str) -> str:
    return f"y_{datatype.lower()}"


def identity(dims: Callable[[str], list[str] | None]) -> onnx.ModelProto:
    """A model that gives an input of each datatype back."""
    nodes = [helper.make_node("Identity", [input_name(name)], [output_name(name)]) for name in ONNX]

    def side(name_of: Callable[[str], str]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name_of(name), kind, dims(name)) for name, kind in ONNX.items()]

    graph = helper.make_graph(nodes, "identity", side(input_name), side(output_name))
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@dataclass(frozen=True)
class Doors:
    """A running server's, each open."""

    web: http.client.HTTPConnection
    calls: Any

    def post(self, path: str, body: bytes, json_bytes: int = -1) -> tuple[dict[str, Any], bytes]:
        """The JSON of an answer and the bytes behind it."""
        headers = {} if json_bytes < 0 else {"Inference-Header-Content-Length": str(json_bytes)}
        self.web.request("POST", path, body, headers)
        answer = self.web.getresponse()
        told = answer.read()
        assert answer.status == 200, told
        size = int(answer.headers.get("Inference-Header-Content-Length", len(told)))
        return json.loads(told[:size]), told[size:]


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """Of a server with `any`, whose inputs may have any shape, and `rows`, which is batched. At its end the pool is
    empty."""
    repository = tmp_path_factory.mktemp("roundtrip")
    for name, built in {"any": identity(lambda _: None), "rows": identity(lambda each: ["n", f"m_{each}"])}.items():
        folder: Path = repository / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(built.SerializeToString())
    flags = ["--lanes", "2", "--compute-threads", "1"]
    with ServerProcess(repository, *flags) as running, grpc.insecure_channel(running.grpc) as channel:
        web = http.client.HTTPConnection(running.http, timeout=SECONDS)
        yield Doors(web, stub(channel))
        web.close()
        assert running.stop() == 0
        assert "0 bytes in 0 blocks in use" in running.output()


# --- Tensors.


@dataclass(frozen=True)
class Tensor:
    """A tensor as the protocol has it: BYTES with a length before each."""

    datatype: str
    shape: tuple[int, ...]
    raw: bytes

    @property
    def array(self) -> "np.ndarray[Any, Any]":
        """Flat; not of BYTES."""
        return np.frombuffer(self.raw, NUMPY[self.datatype])

    @property
    def words(self) -> list[bytes]:
        """Of BYTES."""
        found, at = [], 0
        while at < len(self.raw):
            size = int.from_bytes(self.raw[at : at + 4], "little")
            found.append(self.raw[at + 4 : at + 4 + size])
            at += 4 + size
        return found

    @property
    def same_nan(self) -> "Tensor":
        """With one NaN for all."""
        if self.datatype not in FLOATS:
            return self
        array = self.array.copy()
        array[np.isnan(array)] = math.nan
        return Tensor(self.datatype, self.shape, array.tobytes())


def packed(words: Sequence[bytes]) -> bytes:
    return b"".join(len(word).to_bytes(4, "little") + word for word in words)


def extremes(datatype: str) -> list[bytes]:
    """Elements at the edges of a type: signs of zero, the smallest, the largest, infinities, several NaN."""
    kind = np.dtype(NUMPY[datatype])
    numbers: Any = ml_dtypes  # its finfo and iinfo know all of these types
    if datatype == "BOOL":
        return [b"\0", b"\1"]
    if datatype in FLOATS:
        about = numbers.finfo(kind)
        values = [0.0, -0.0, 1, about.smallest_subnormal, -about.smallest_subnormal, about.tiny, about.max, about.min]
        values += [math.inf, -math.inf, 1 / 3]
        quiet = np.array([math.nan], kind).tobytes()
        payload = bytes([quiet[0] | 5, *quiet[1:]])
        negative = bytes([*payload[:-1], payload[-1] | 0x80])
        return [np.array([value], kind).tobytes() for value in values] + [quiet, payload, negative]
    bounds = numbers.iinfo(kind)
    middle = [0, 1, bounds.max // 2 + 1, bounds.max - 1, bounds.min + 1]
    return [np.array([value], kind).tobytes() for value in (bounds.min, bounds.max, *middle)]


EDGES = {name: extremes(name) for name in ONNX if name != "BYTES"}


@st.composite
def tensors_of(draw: st.DrawFn, datatype: str, shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    if datatype == "BYTES":
        words = st.sampled_from(WORDS) | st.binary(max_size=6) | st.text(max_size=4).map(str.encode)
        return Tensor(datatype, shape, packed(draw(st.lists(words, min_size=count, max_size=count))))
    size = np.dtype(NUMPY[datatype]).itemsize
    if datatype == "BOOL" or draw(st.booleans()):
        edges = draw(st.lists(st.sampled_from(EDGES[datatype]), min_size=count, max_size=count))
        return Tensor(datatype, shape, b"".join(edges))
    return Tensor(datatype, shape, draw(st.binary(min_size=count * size, max_size=count * size)))


@dataclass(frozen=True)
class Asked:
    """One tensor of each datatype, and of what is left open how it is written."""

    model: str
    tensors: tuple[Tensor, ...]
    nested: bool
    bare: bool  # NaN and infinities without quotes
    binary_in: frozenset[str]  # where some inputs are binary and some are not
    binary_out: frozenset[str]


@st.composite
def asked(draw: st.DrawFn) -> Asked:
    names = st.frozensets(st.sampled_from(list(ONNX)))
    model = draw(st.sampled_from(["any", "rows"]))
    if model == "any":
        shapes = [tuple(draw(st.lists(st.integers(0, 3), max_size=3))) for _ in ONNX]
    else:
        rows = draw(st.integers(1, 3))
        shapes = [(rows, draw(st.integers(0, 4))) for _ in ONNX]
    tensors = tuple(draw(tensors_of(name, shape)) for name, shape in zip(ONNX, shapes, strict=True))
    return Asked(model, tensors, draw(st.booleans()), draw(st.booleans()), draw(names), draw(names))


# --- JSON.


def element_to_json(value: Any, bare: bool) -> Any:
    """A value as it is written by hand: text for bytes where that can be."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not bare and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def nest(flat: list[Any], shape: Sequence[int]) -> Any:
    if not shape:
        return flat[0]
    step = math.prod(shape[1:])
    return [nest(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def flatten(data: Any) -> Iterator[Any]:
    if not isinstance(data, list):
        yield data
        return
    for each in data:
        yield from flatten(each)


def to_json(tensor: Tensor, *, nested: bool, bare: bool) -> Any:
    if tensor.datatype == "BYTES":
        values: list[Any] = list(tensor.words)
    elif tensor.datatype in FLOATS:
        values = tensor.array.astype(np.float64).tolist()
    else:
        values = tensor.array.tolist()
    flat = [element_to_json(value, bare) for value in values]
    return nest(flat, tensor.shape) if nested else flat


def from_json(datatype: str, shape: Sequence[int], data: Any) -> Tensor:
    flat = list(flatten(data))
    if datatype == "BYTES":
        raw = packed([base64.b64decode(each["b64"]) if isinstance(each, dict) else each.encode() for each in flat])
    elif datatype in FLOATS:
        assert all(isinstance(each, float) or each in ("NaN", "Infinity", "-Infinity") for each in flat), flat
        raw = np.array([float(each) for each in flat], np.float64).astype(NUMPY[datatype]).tobytes()
    else:
        assert {type(each) for each in flat} <= {bool if datatype == "BOOL" else int}, flat
        raw = np.array(flat, NUMPY[datatype]).tobytes()
    return Tensor(datatype, tuple(shape), raw)


def strict(text: str) -> Any:
    raise AssertionError(f"{text} is not JSON")


# --- The doors.


def through_http(doors: Doors, one: Asked, binary_in: frozenset[str], binary_out: frozenset[str]) -> list[Tensor]:
    inputs: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    behind = b""
    for tensor in one.tensors:
        name = tensor.datatype
        given_input: dict[str, Any] = {"name": input_name(name), "datatype": name, "shape": tensor.shape}
        if name in binary_in:
            given_input["parameters"] = {"binary_data_size": len(tensor.raw)}
            behind += tensor.raw
        else:
            given_input["data"] = to_json(tensor, nested=one.nested and tensor.shape != (), bare=one.bare)
        inputs.append(given_input)
        outputs.append({"name": output_name(name), "parameters": {"binary_data": name in binary_out}})
        if name == "BYTES" and name not in binary_out:
            outputs[-1]["parameters"]["b64"] = any(not is_text(word) for word in tensor.words)
    head = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    told, rest = doors.post(f"/v2/models/{one.model}/infer", head + behind, len(head) if binary_in else -1)
    found = {}
    for output in told["outputs"]:
        datatype, shape = output["datatype"], tuple(output["shape"])
        if "data" in output:
            found[output["name"]] = from_json(datatype, shape, output["data"])
        else:
            size = output["parameters"]["binary_data_size"]
            found[output["name"]] = Tensor(datatype, shape, rest[:size])
            rest = rest[size:]
    assert rest == b""
    assert len(found) == len(told["outputs"])
    return [found[output_name(tensor.datatype)] for tensor in one.tensors]


def is_text(word: bytes) -> bool:
    try:
        word.decode()
    except UnicodeDecodeError:
        return False
    return True


def through_predict(doors: Doors, one: Asked) -> list[Tensor]:
    columns = {input_name(each.datatype): to_json(each, nested=True, bare=one.bare) for each in one.tensors}
    told, _ = doors.post(f"/v1/models/{one.model}:predict", json.dumps({"inputs": columns}).encode())
    return [from_json(each.datatype, each.shape, told["outputs"][output_name(each.datatype)]) for each in one.tensors]


def message_of(one: Asked, *, typed: bool) -> Any:
    message = service_pb2.ModelInferRequest(model_name=one.model)
    for tensor in one.tensors:
        added = message.inputs.add(name=input_name(tensor.datatype), datatype=tensor.datatype, shape=tensor.shape)
        if not typed:
            message.raw_input_contents.append(tensor.raw)
            continue
        kind = np.float32 if FIELDS[tensor.datatype] == "fp32_contents" else None
        values = (
            tensor.words if tensor.datatype == "BYTES" else tensor.array.astype(kind or tensor.array.dtype).tolist()
        )
        getattr(added.contents, FIELDS[tensor.datatype]).extend(values)
    return message


def tensors_in(response: Any, one: Asked) -> list[Tensor]:
    found = {
        output.name: Tensor(output.datatype, tuple(output.shape), raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    return [found[output_name(tensor.datatype)] for tensor in one.tensors]


def through_a_stream(doors: Doors, one: Asked) -> list[list[Tensor]]:
    messages = [message_of(one, typed=typed) for typed in (False, True, False)]
    answers = list(doors.calls.ModelStreamInfer(iter(messages), timeout=SECONDS))
    assert [answer.error_message for answer in answers] == ["", "", ""]
    return [tensors_in(answer.infer_response, one) for answer in answers]


def assert_same(told: Sequence[Tensor], wanted: Sequence[Tensor], door: str, *, any_nan: bool) -> None:
    for mine, theirs in zip(told, wanted, strict=True):
        assert (mine.same_nan == theirs.same_nan) if any_nan else (mine == theirs), door


SEEN: Counter[str] = Counter()


def note(one: Asked) -> None:
    """What has been through, so that the test cannot pass by trying nothing much."""
    SEEN[one.model] += 1
    for tensor in one.tensors:
        SEEN["scalars"] += tensor.shape == ()
        SEEN["empty"] += 0 in tensor.shape
        if tensor.datatype in FLOATS:
            SEEN["NaN"] += int(np.isnan(tensor.array).sum())
            SEEN["payloads"] += tensor.same_nan != tensor
            SEEN["infinities"] += int(np.isinf(tensor.array).sum())
        if tensor.datatype == "BYTES":
            SEEN["not UTF-8"] += sum(not is_text(word) for word in tensor.words)


@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(one=asked())
def check_every_door(doors: Doors, one: Asked) -> None:
    """Six ways in and out; columns too where a shape can be seen in them."""
    note(one)
    wanted, none, every = one.tensors, frozenset[str](), frozenset(ONNX)
    assert_same(through_http(doors, one, every, every), wanted, "binary", any_nan=False)
    assert_same(through_http(doors, one, none, none), wanted, "JSON", any_nan=True)
    assert_same(through_http(doors, one, one.binary_in, one.binary_out), wanted, "mixed", any_nan=True)
    for typed in (False, True):
        response = doors.calls.ModelInfer(message_of(one, typed=typed), timeout=SECONDS)
        assert_same(tensors_in(response, one), wanted, f"gRPC, typed={typed}", any_nan=typed)
    for place, told in enumerate(through_a_stream(doors, one)):
        assert_same(told, wanted, f"message {place} of a stream", any_nan=place == 1)
    if not any(0 in tensor.shape for tensor in wanted):
        SEEN["columns"] += 1
        assert_same(through_predict(doors, one), wanted, "columns", any_nan=True)


def test_any_tensors_through_every_door(doors: Doors) -> None:
    SEEN.clear()
    check_every_door(doors)
    print(dict(SEEN))
    for name, least in {"any": 10, "rows": 10, "scalars": 20, "empty": 50, "NaN": 20, "payloads": 10}.items():
        assert SEEN[name] > least, SEEN
    assert SEEN["infinities"] > 20
    assert SEEN["not UTF-8"] > 10
    assert SEEN["columns"] > 0
