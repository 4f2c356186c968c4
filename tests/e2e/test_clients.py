"""Unmodified tritonclient and plain grpcio get ONNX Runtime's numbers: each dtype, each encoding, 1 to 64 in flight."""

import asyncio
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2

from e2e.clients import (
    CLIENTS,
    FIELDS,
    NUMPY,
    SECONDS,
    Array,
    Ask,
    Call,
    Reference,
    answer_of,
    assert_close,
    assert_equal,
    given,
    request,
    rows_of,
    sample,
    stub,
    typed_request,
)
from server_process import ServerProcess

SINGLE = (
    "add_sub",
    "mlp",
    "scalar",
    "zero_size",
    "optional_input",
    "dynamic_inner",
    "handed_on",
    "described",
    "magika",
)
FILES = [*(f"twice_{name.lower()}{kind}" for name in NUMPY for kind in ("", "_fixed")), *SINGLE]


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """All of these models in one process, each run on one thread; at its end the pool is empty."""
    repository = tmp_path_factory.mktemp("clients")
    for name in FILES:
        version = repository / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(models / f"{name}.onnx", version / "model.onnx")
    with ServerProcess(repository, "--compute-threads", "1") as running:
        yield running
        assert running.stop() == 0
        assert "0 bytes in 0 blocks in use" in running.output()


@pytest.fixture(params=list(CLIENTS))
def ask(request: pytest.FixtureRequest) -> Ask:
    """Each client in turn."""
    return CLIENTS[request.param]


@pytest.fixture
def infer(server: ServerProcess) -> Iterator[Any]:
    """ModelInfer by plain grpcio: request message in, response message out."""
    with grpc.insecure_channel(server.grpc) as channel:
        method = stub(channel).ModelInfer
        yield lambda message, **options: method(message, timeout=SECONDS, **options)


def file_rows(root: Path) -> Array:
    """What Magika looks at: the first and the last 1,024 bytes of real files, with 256 where there are none."""
    rows = []
    for file in sorted((root / "python/headrace").glob("*.py")) + sorted((root / "docs").glob("*.md")):
        content = file.read_bytes().strip()
        row = np.full(2048, 256, np.int32)
        head, tail = content[:1024], content[-1024:]
        row[: len(head)] = list(head)
        row[2048 - len(tail) :] = list(tail)
        rows.append(row)
    return np.stack(rows)


# --- Numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", NUMPY)
def test_each_datatype_comes_back_as_the_runtime_gives_it(
    ask: Ask, datatype: str, server: ServerProcess, models: Path
) -> None:
    for kind, shapes in (("", [(1, 3), (5, 3)]), ("_fixed", [(2, 3)])):
        model = f"twice_{datatype.lower()}{kind}"
        reference = Reference(models / f"{model}.onnx")
        calls = [Call(model, {"x": sample(datatype, shape, seed)}) for seed, shape in enumerate(shapes)]
        for told, call in zip(ask(server.grpc, calls, 1), calls, strict=True):
            assert_equal(told, reference(call.tensors))
        many = [Call(model, {"x": sample(datatype, shapes[0], seed)}) for seed in range(16)]
        for told, call in zip(ask(server.grpc, many, 8), many, strict=True):  # copies: no rounding, however batched
            assert_equal(told, reference(call.tensors))


@pytest.mark.parametrize("in_flight", [1, 8, 64])
def test_numbers_of_a_network(ask: Ask, in_flight: int, server: ServerProcess, models: Path) -> None:
    reference = Reference(models / "mlp.onnx")
    random = np.random.default_rng(in_flight)
    shapes = [(int(rows), 64) for rows in random.integers(1, 5, 2 * in_flight + 6)]
    calls = [Call("mlp", {"x": random.normal(0, 1, shape).astype(np.float32)}) for shape in shapes]
    same = assert_equal if in_flight == 1 else assert_close
    for told, call in zip(ask(server.grpc, calls, in_flight), calls, strict=True):
        same(told, reference(call.tensors))


@pytest.mark.parametrize("in_flight", [1, 16])
def test_numbers_of_magika(ask: Ask, in_flight: int, server: ServerProcess, magika_model: Path, root: Path) -> None:
    reference = Reference(magika_model)
    rows = file_rows(root)[: 6 if in_flight == 1 else 16]
    assert len(rows) >= 6
    same = assert_equal if in_flight == 1 else assert_close
    calls = [Call("magika", {"bytes": row}) for row in rows_of(rows)]
    for told, call in zip(ask(server.grpc, calls, in_flight), calls, strict=True):
        same(told, reference(call.tensors))


def test_a_batch_of_one_caller(ask: Ask, server: ServerProcess, magika_model: Path, root: Path) -> None:
    call = Call("magika", {"bytes": file_rows(root)[:8]})
    assert_equal(ask(server.grpc, [call], 1)[0], Reference(magika_model)(call.tensors))


def test_scalar_zero_size_and_outputs_that_are_inputs(ask: Ask, server: ServerProcess, models: Path) -> None:
    calls = [
        Call("scalar", {"x": np.array(41.5, np.float32)}),
        Call("zero_size", {"x": np.zeros((2, 0), np.float32)}),
        Call("handed_on", {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}),
        Call("dynamic_inner", {"x": np.zeros((1, 0, 4), np.float32)}),
    ]
    for told, call in zip(ask(server.grpc, calls, 1), calls, strict=True):
        assert_equal(told, Reference(models / f"{call.model}.onnx")(call.tensors))


def test_an_optional_input_is_given_or_left_to_its_default(ask: Ask, server: ServerProcess, models: Path) -> None:
    x = sample("FP32", (2, 4))
    calls = [Call("optional_input", {"x": x}), Call("optional_input", {"x": x, "scale": np.array([3], np.float32)})]
    told = ask(server.grpc, calls, 1)
    reference = Reference(models / "optional_input.onnx")
    for answer, call in zip(told, calls, strict=True):
        assert_equal(answer, reference(call.tensors))
    np.testing.assert_array_equal(told[0]["y"], x * 2)
    np.testing.assert_array_equal(told[1]["y"], x * 3)


def test_large_tensors_both_ways(ask: Ask, server: ServerProcess, models: Path) -> None:
    reference = Reference(models / "dynamic_inner.onnx")
    calls = [Call("dynamic_inner", {"x": sample("FP32", (1, length, 4), length)}) for length in (40_000, 150_000, 7)]
    for told, call in zip(ask(server.grpc, calls, 1), calls, strict=True):
        assert_equal(told, reference(call.tensors))
    for told, call in zip(ask(server.grpc, calls * 2, 6), calls * 2, strict=True):
        np.testing.assert_array_equal(told["double"], call.tensors["x"] * 2)


# --- Encodings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", NUMPY)
def test_typed_contents_of_each_datatype(infer: Any, datatype: str) -> None:
    values = sample(datatype, (4, 3), 9)
    model = f"twice_{datatype.lower()}"
    told = answer_of(infer(typed_request(model, {"x": (datatype, values)})))
    assert_equal(told, {"y": np.concatenate([values, values], axis=-1)})


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_in_fp32_contents_is_rounded_to_even(infer: Any, datatype: str) -> None:
    kind = NUMPY[datatype]
    step = 2.0**-10 if datatype == "FP16" else 2.0**-7
    ties = [1 + step / 2, 1 + 3 * step / 2, 1 + step / 2 + 2.0**-20, -1 - step / 2, 1e-7, np.inf, -0.0, 65519.0, 3e38]
    values = np.array(ties, np.float32).reshape(3, 3)
    with np.errstate(over="ignore"):
        wanted: Array = values.astype(kind)  # to even, as numpy and ml_dtypes do it
    told = answer_of(infer(typed_request(f"twice_{datatype.lower()}", {"x": (datatype, values)})))
    assert_equal(told, {"y": np.concatenate([wanted, wanted], axis=-1)})


def test_large_typed_contents(infer: Any) -> None:
    """Over the size that a loop's step decodes by itself."""
    x = sample("FP32", (1, 100_000, 4))
    told = answer_of(infer(typed_request("dynamic_inner", {"x": ("FP32", x)})))
    np.testing.assert_array_equal(told["double"], x * 2)


def test_bytes_of_any_value_and_length(infer: Any) -> None:
    words = np.array([[bytes(range(256)), b"", b"a" * 100_000]], np.object_)
    assert_equal(answer_of(infer(request("twice_bytes", {"x": words}))), {"y": np.concatenate([words, words], axis=-1)})


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate, grpc.Compression.NoCompression])
@pytest.mark.parametrize("where", ["channel", "call"])
def test_compressed_requests(server: ServerProcess, algorithm: grpc.Compression, where: str) -> None:
    x = np.zeros((1, 50_000, 4), np.float32)
    x[0, ::7] = 3
    with grpc.insecure_channel(server.grpc, compression=algorithm if where == "channel" else None) as channel:
        options = {"compression": algorithm} if where == "call" else {}
        for tensor in (x, x[:, :3], x[:, :0]):
            told = answer_of(stub(channel).ModelInfer(request("dynamic_inner", {"x": tensor}), timeout=60, **options))
            np.testing.assert_array_equal(told["double"], tensor * 2)
        assert stub(channel).ServerLive(service_pb2.ServerLiveRequest(), timeout=SECONDS, **options).live


def test_compressed_requests_of_the_aio_clients(server: ServerProcess) -> None:
    async def main() -> None:
        x = sample("INT32", (3, 16))
        async with triton_aio.InferenceServerClient(server.grpc) as client:
            for algorithm in ("gzip", "deflate"):
                inputs = [given("a", x), given("b", x)]
                told = await client.infer("add_sub", inputs, compression_algorithm=algorithm, client_timeout=SECONDS)
                np.testing.assert_array_equal(told.as_numpy("difference"), x - x)
        compression = grpc.Compression.Gzip
        async with grpc.aio.insecure_channel(server.grpc, compression=compression) as channel:
            told = answer_of(await stub(channel).ModelInfer(request("add_sub", {"a": x, "b": x}), timeout=SECONDS))
            np.testing.assert_array_equal(told["sum"], x + x)

    asyncio.run(main())


# --- What a response holds -------------------------------------------------------------------------------------------


def test_requested_outputs_come_and_no_others(infer: Any) -> None:
    a, b = sample("INT32", (1, 16), 1), sample("INT32", (1, 16), 2)
    for names in (["sum"], ["difference"], ["sum", "difference"], ["difference", "sum"], []):
        response = infer(request("add_sub", {"a": a, "b": b}, names))
        assert {tensor.name for tensor in response.outputs} == set(names or ["sum", "difference"])
        for name, array in answer_of(response).items():
            np.testing.assert_array_equal(array, a + b if name == "sum" else a - b)


def test_inputs_may_come_in_any_order(infer: Any) -> None:
    a, b = sample("INT32", (1, 16), 1), sample("INT32", (1, 16), 2)
    np.testing.assert_array_equal(answer_of(infer(request("add_sub", {"b": b, "a": a})))["difference"], a - b)


def test_id_model_and_version_come_back_and_parameters_do_not(infer: Any) -> None:
    a = sample("INT32", (1, 16))
    message = request("add_sub", {"a": a, "b": a}, ["sum"], id="Anfrage-1 é", model_version="1")
    message.parameters["mine"].string_param = "?"
    message.parameters["priority"].uint64_param = 1
    message.inputs[0].parameters["mine"].int64_param = 2
    message.outputs[0].parameters["mine"].double_param = 0.5
    response = infer(message)
    assert (response.id, response.model_name, response.model_version) == ("Anfrage-1 é", "add_sub", "1")
    assert not response.parameters
    assert not response.outputs[0].parameters
    assert infer(request("add_sub", {"a": a, "b": a})).id == ""


def test_timing_comes_when_it_is_asked_for(infer: Any) -> None:
    a = sample("INT32", (3, 16))
    message = request("add_sub", {"a": a, "b": a})
    message.parameters["headrace_timing"].bool_param = True
    timing = {key: value.int64_param for key, value in infer(message).parameters.items()}
    assert set(timing) == {"headrace_batch_size", "headrace_queue_ns", "headrace_compute_ns"}
    assert timing["headrace_batch_size"] == 3
    assert timing["headrace_queue_ns"] >= 0
    assert 0 < timing["headrace_compute_ns"] < SECONDS * 1e9
    message.parameters["headrace_timing"].bool_param = False
    assert not infer(message).parameters


def test_a_good_call_ends_with_ok_and_no_text(server: ServerProcess) -> None:
    """As the public client reads it: one message, and trailers that say OK."""
    a = sample("INT32", (1, 16))
    with grpc.insecure_channel(server.grpc) as channel:
        response, call = stub(channel).ModelInfer.with_call(request("add_sub", {"a": a, "b": a}), timeout=SECONDS)
        assert call.code() is grpc.StatusCode.OK
        assert call.details() == ""
        assert len(response.raw_output_contents) == 2


# --- The other calls -------------------------------------------------------------------------------------------------


def test_health(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService"):
            told = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
            assert told.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as raised:
            health.Check(health_pb2.HealthCheckRequest(service="no.such"), timeout=SECONDS)
        error: Any = raised.value
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert "no.such" in error.details()


def test_live_ready_and_metadata(server: ServerProcess) -> None:
    with triton.InferenceServerClient(server.grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("mlp")
        assert client.is_model_ready("mlp", "1")
        assert not client.is_model_ready("mlp", "2")
        assert not client.is_model_ready("nothing")
        about = client.get_server_metadata()
        assert about.name == "headrace"
        assert re.fullmatch(r"\d+\.\d+\.\d+\S*", about.version)
        assert list(about.extensions) == [
            "classification",
            "model_repository",
            "model_repository(unload_dependents)",
            "schedule_policy",
            "model_configuration",
            "binary_tensor_data",
            "parameters",
            "statistics",
            "trace",
            "logging",
        ]


def test_model_metadata(server: ServerProcess) -> None:
    with triton.InferenceServerClient(server.grpc) as client:
        add_sub = client.get_model_metadata("add_sub")
        assert (add_sub.name, list(add_sub.versions), add_sub.platform) == ("add_sub", ["1"], "onnxruntime_onnx")
        for tensors, names in ((add_sub.inputs, ["a", "b"]), (add_sub.outputs, ["sum", "difference"])):
            assert [(t.name, t.datatype, list(t.shape)) for t in tensors] == [(n, "INT32", [-1, 16]) for n in names]
        for datatype in NUMPY:
            told = client.get_model_metadata(f"twice_{datatype.lower()}_fixed")
            assert [(t.datatype, list(t.shape)) for t in told.inputs] == [(datatype, [2, 3])]
        scalar = client.get_model_metadata("scalar", as_json=True)
        assert "shape" not in scalar["inputs"][0]
        assert [list(t.shape) for t in client.get_model_metadata("magika").inputs] == [[-1, 2048]]


def test_model_configuration(server: ServerProcess) -> None:
    with triton.InferenceServerClient(server.grpc) as client:
        batched = client.get_model_config("add_sub").config
        assert (batched.name, batched.backend, batched.platform) == ("add_sub", "onnxruntime", "onnxruntime_onnx")
        assert batched.max_batch_size == 32
        assert batched.HasField("dynamic_batching")
        assert [(t.name, list(t.dims)) for t in batched.input] == [("a", [16]), ("b", [16])]
        assert [(t.name, list(t.dims)) for t in batched.output] == [("sum", [16]), ("difference", [16])]
        alone = client.get_model_config("twice_fp32_fixed").config
        assert alone.max_batch_size == 0
        assert not alone.HasField("dynamic_batching")
        assert [list(t.dims) for t in alone.input] == [[2, 3]]
        optional = client.get_model_config("optional_input", as_json=True)["config"]["input"]
        assert [(t["name"], t.get("optional", False)) for t in optional] == [("x", False), ("scale", True)]


def test_statistics(server: ServerProcess) -> None:
    with triton.InferenceServerClient(server.grpc) as client:

        def now() -> Any:
            return client.get_inference_statistics("described").model_stats[0]

        before = now()
        assert (before.name, before.version, before.inference_count) == ("described", "1", 0)
        x = sample("FP32", (5, 4))
        for _ in range(3):
            client.infer("described", [given("x", x)])
        with pytest.raises(triton.InferenceServerException):
            client.infer("described", [given("x", sample("FP32", (5, 3)))])
        after = now()
        assert (after.inference_count, after.execution_count) == (15, 3)
        assert after.last_inference > 0
        stages = after.inference_stats
        assert (stages.success.count, stages.fail.count, stages.queue.count) == (3, 1, 3)
        assert stages.success.ns >= stages.queue.ns + stages.compute_infer.ns > 0
        assert [(batch.batch_size, batch.compute_infer.count) for batch in after.batch_stats] == [(5, 3)]
        names = [stats.name for stats in client.get_inference_statistics().model_stats]
        assert names == sorted(FILES)


def test_each_field_of_contents_has_its_datatypes() -> None:
    """The table that the tests above go by names every field of the public client's message."""
    assert set(FIELDS.values()) == {field.name for field in service_pb2.InferTensorContents.DESCRIPTOR.fields}
    assert np.dtype(ml_dtypes.bfloat16).itemsize == 2
