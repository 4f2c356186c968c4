"""The HTTP gateway, a real process: unmodified tritonclient, curl on every path, and what schemathesis thinks of."""

import asyncio
import gzip
import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from tritonclient.utils import InferenceServerException

from e2e.clients import NUMPY, Array, assert_equal, sample
from server_process import ServerProcess

FILES = (
    "add_sub",
    *(f"twice_{name.lower()}" for name in NUMPY if name not in ("BYTES", "BOOL")),
    "twice_bytes",
    "twice_bool",
)


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """All of these models; at its end the pool is empty."""
    repository = tmp_path_factory.mktemp("http")
    for name in FILES:
        version = repository / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(models / f"{name}.onnx", version / "model.onnx")
    flags = ["--lanes", "1", "--compute-threads", "1", "--model-control-mode", "explicit", "--load-model", "*"]
    flags += ["--allow-client-shm"]
    with ServerProcess(repository, *flags) as running:
        yield running
        assert running.stop() == 0
        assert "0 bytes in 0 blocks in use" in running.output()


def given_input(name: str, datatype: str, array: Array, *, binary: bool) -> Any:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def as_bytes(array: Array) -> Array:
    """Strings as their UTF-8: as text they come back as str."""
    if array.dtype != np.object_:
        return array
    words = [word.encode() if isinstance(word, str) else word for word in array.reshape(-1)]
    return np.array(words, np.object_).reshape(array.shape)


# tritonclient writes FP16 and BF16 as binary only.
JSON_TYPES = [name for name in NUMPY if name not in ("FP16", "BF16")]


@pytest.mark.parametrize("datatype", list(NUMPY))
def test_every_datatype_as_binary_and_as_json(server: ServerProcess, datatype: str) -> None:
    name = f"twice_{datatype.lower()}"
    array = sample(datatype, (2, 3))
    arrays = [array]
    if datatype == "BYTES":  # JSON can hold these
        arrays.append(np.array(["Grüße", "", "x" * 300] * 2, np.object_).reshape(2, 3))
    with triton.InferenceServerClient(server.http) as client:
        about = client.get_model_metadata(name)
        source, target = about["inputs"][0]["name"], about["outputs"][0]["name"]

        def ask(given_array: Array, binary_in: bool, binary_out: bool) -> Array:
            tensor = given_input(source, datatype, given_array, binary=binary_in)
            wanted = triton.InferRequestedOutput(target, binary_data=binary_out)
            result = client.infer(name, [tensor], outputs=[wanted], request_id="q")
            assert result.get_response()["id"] == "q"
            answer: Array = result.as_numpy(target)
            return answer

        for one in arrays:
            reference = ask(one, True, True)
            twice = np.concatenate([as_bytes(one), as_bytes(one)], axis=1)
            assert_equal({target: reference}, {target: twice.astype(reference.dtype)})
        if datatype in JSON_TYPES:
            for binary_in, binary_out in ((True, False), (False, True), (False, False)):
                assert_equal({target: as_bytes(ask(arrays[-1], binary_in, binary_out))}, {target: reference})


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_both_ways(server: ServerProcess, algorithm: str) -> None:
    a = np.arange(16 * 32, dtype=np.int32).reshape(32, 16)
    with triton.InferenceServerClient(server.http) as client:
        for binary in (True, False):
            inputs = [given_input(name, "INT32", a, binary=binary) for name in ("a", "b")]
            result = client.infer(
                "add_sub",
                inputs,
                request_compression_algorithm=algorithm,
                response_compression_algorithm=algorithm,
            )
            np.testing.assert_array_equal(result.as_numpy("sum"), a + a)


def test_the_asynchronous_clients(server: ServerProcess) -> None:
    a = np.arange(16, dtype=np.int32).reshape(1, 16)

    async def main() -> None:
        async with triton_aio.InferenceServerClient(server.http) as client:
            assert await client.is_server_live()
            inputs = [given_input(name, "INT32", a, binary=True) for name in ("a", "b")]
            results = await asyncio.gather(*(client.infer("add_sub", inputs) for _ in range(50)))
            for result in results:
                np.testing.assert_array_equal(result.as_numpy("sum"), a + a)

    asyncio.run(main())
    with triton.InferenceServerClient(server.http, concurrency=8) as client:
        inputs = [given_input(name, "INT32", a, binary=True) for name in ("a", "b")]
        pending = [client.async_infer("add_sub", inputs) for _ in range(50)]
        for one in pending:
            np.testing.assert_array_equal(one.get_result().as_numpy("difference"), a - a)


def test_control_with_tritonclient(server: ServerProcess) -> None:
    with triton.InferenceServerClient(server.http) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.get_server_metadata()["name"] == "headrace"
        assert client.is_model_ready("add_sub")
        assert not client.is_model_ready("nope")
        assert client.get_model_config("add_sub")["max_batch_size"] == 32
        stats = client.get_inference_statistics("add_sub")["model_stats"]
        assert stats[0]["inference_stats"]["success"]["count"] >= 0
        assert {row["name"] for row in client.get_model_repository_index()} == set(FILES)
        client.unload_model("add_sub")
        assert not client.is_model_ready("add_sub")
        client.load_model("add_sub")
        assert client.is_model_ready("add_sub")
        assert client.get_trace_settings()["trace_level"] == ["OFF"]
        assert client.get_log_settings()["log_info"] is True
        with pytest.raises(InferenceServerException, match="not in the model repository"):
            client.get_model_metadata("nope")


def test_system_shared_memory_and_classification(server: ServerProcess) -> None:
    a = np.arange(16, dtype=np.int32).reshape(1, 16)
    key = f"/headrace-test-{os.getpid()}"
    region = shm.create_shared_memory_region("both", key, 256)
    try:
        shm.set_shared_memory_region(region, [a, a])
        with triton.InferenceServerClient(server.http) as client:
            client.register_system_shared_memory("both", key, 256)
            assert [row["name"] for row in client.get_system_shared_memory_status()] == ["both"]
            inputs = []
            for place, name in enumerate(("a", "b")):
                tensor = triton.InferInput(name, [1, 16], "INT32")
                tensor.set_shared_memory("both", 64, 64 * place)
                inputs.append(tensor)
            written = triton.InferRequestedOutput("sum")
            written.set_shared_memory("both", 64, 128)
            best = triton.InferRequestedOutput("difference", class_count=2)
            result = client.infer("add_sub", inputs, outputs=[written, best])
            np.testing.assert_array_equal(shm.get_contents_as_numpy(region, np.int32, [1, 16], offset=128), a + a)
            assert result.as_numpy("difference").shape == (1, 2)
            client.unregister_system_shared_memory("both")
            assert client.get_system_shared_memory_status() == []
            assert client.get_cuda_shared_memory_status() == []
    finally:
        shm.destroy_shared_memory_region(region)


A = list(range(16))
BODY = json.dumps({"inputs": [{"name": n, "datatype": "INT32", "shape": [1, 16], "data": A} for n in ("a", "b")]})


@pytest.mark.parametrize(
    ("arguments", "path", "status"),
    [
        ([], "/v2", 200),
        ([], "/v2/health/live", 200),
        ([], "/v2/health/ready", 200),
        (["-I"], "/v2/health/ready", 200),
        (["-X", "OPTIONS"], "/v2/health/ready", 204),
        ([], "/v2/models/stats", 200),
        ([], "/v2/models/add_sub", 200),
        ([], "/v2/models/add_sub/versions/1", 200),
        ([], "/v2/models/add_sub/ready", 200),
        ([], "/v2/models/add_sub/versions/1/ready", 200),
        ([], "/v2/models/add_sub/config", 200),
        ([], "/v2/models/add_sub/versions/1/config", 200),
        ([], "/v2/models/add_sub/stats", 200),
        ([], "/v2/models/add_sub/versions/1/stats", 200),
        (["-d", BODY], "/v2/models/add_sub/infer", 200),
        (["-d", BODY], "/v2/models/add_sub/versions/1/infer", 200),
        (["-d", BODY, "-H", "Transfer-Encoding: chunked"], "/v2/models/add_sub/infer", 200),
        (["-d", BODY, "--compressed"], "/v2/models/add_sub/infer", 200),
        (["-d", BODY, "-H", "Expect: 100-continue"], "/v2/models/add_sub/infer", 200),
        (["-d", BODY, "--http1.0"], "/v2/models/add_sub/infer", 200),
        (["-d", json.dumps({"a": [A], "b": [A]})], "/v2/models/add_sub/generate", 200),
        (["-d", json.dumps({"a": [A], "b": [A]})], "/v2/models/add_sub/generate_stream", 200),
        (["-d", json.dumps({"instances": [{"a": A, "b": A}]})], "/v1/models/add_sub:predict", 200),
        (["-d", json.dumps({"inputs": {"a": [A], "b": [A]}})], "/v1/models/add_sub/versions/1:predict", 200),
        ([], "/v1/models/add_sub", 200),
        ([], "/v2/trace/setting", 200),
        ([], "/v2/models/add_sub/trace/setting", 200),
        (["-d", "{}"], "/v2/trace/setting", 200),
        ([], "/v2/logging", 200),
        (["-d", "{}"], "/v2/logging", 200),
        (["-d", "{}"], "/v2/repository/index", 200),
        (["-X", "POST"], "/v2/repository/index", 200),
        (["-X", "POST"], "/v2/repository/models/add_sub/load", 200),
        (["-X", "POST"], "/v2/repository/models/nope/load", 404),
        ([], "/docs", 200),
        ([], "/openapi.json", 200),
        ([], "/", 307),
        ([], "/v2/models/nope/infer", 405),
        (["-d", BODY], "/v2/models/nope/infer", 404),
        (["-d", BODY], "/v2/models/add_sub/versions/7/infer", 404),
        (["-d", BODY, "-H", "Content-Encoding: br"], "/v2/models/add_sub/infer", 415),
        (["-d", "{"], "/v2/models/add_sub/infer", 400),
        ([], "/v2/nothing", 404),
    ],
)
def test_curl(server: ServerProcess, arguments: list[str], path: str, status: int) -> None:
    done = subprocess.run(
        ["curl", "-sS", "--max-time", "20", "-w", "\n%{http_code}", *arguments, f"http://{server.http}{path}"],
        capture_output=True,
        text=True,
        check=True,
    )
    body, _, code = done.stdout.rpartition("\n")
    assert int(code) == status, body
    if status >= 400:
        assert set(json.loads(body)) == {"error"}


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [{"name": "a", "datatype": "INT32", "shape": [1 << 40, 16], "data": [1]}]},
        {"inputs": []},
        {},
        {"inputs": [{"name": "a", "datatype": "INT32", "shape": [1, 16], "data": [1]}]},
        {"inputs": [{"name": "a", "datatype": "INT32", "shape": [1, 16], "data": ["one"] * 16}]},
        {"inputs": [{"name": "a", "datatype": "INT32", "shape": [1, 16], "data": [1 << 40] * 16}]},
        {"inputs": [{"name": "a", "datatype": "INT32", "shape": [-1, 16], "data": A}]},
    ],
)
def test_what_made_triton_stumble_is_a_400(server: ServerProcess, body: Any) -> None:
    done = subprocess.run(
        ["curl", "-s", "-w", "\n%{http_code}", "-d", json.dumps(body), f"http://{server.http}/v2/models/add_sub/infer"],
        capture_output=True,
        text=True,
        check=True,
    )
    text, _, code = done.stdout.rpartition("\n")
    assert code == "400", text
    assert json.loads(text)["error"]


def test_a_compressed_answer_of_curl(server: ServerProcess) -> None:
    url = f"http://{server.http}/openapi.json"
    done = subprocess.run(["curl", "-s", "-H", "Accept-Encoding: gzip", url], capture_output=True, check=True)
    assert json.loads(gzip.decompress(done.stdout))["openapi"] == "3.1.0"


def statuses_of(operation: Any, mode: GenerationMode) -> Counter[int]:
    """The statuses of what schemathesis thinks of for an operation; none of them is a 500."""
    statuses = Counter[int]()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    def check(case: Any) -> None:
        answer = case.call(timeout=20)
        statuses[answer.status_code] += 1
        # 503: there is no CUDA here, or the model is not loaded.
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        if answer.status_code >= 400:
            assert answer.json()["error"]

    check()
    return statuses


def test_schemathesis_finds_no_500(server: ServerProcess) -> None:
    """Each operation of the document, with requests that fit it and with requests that do not."""
    schema = schemathesis.openapi.from_url(f"http://{server.http}/openapi.json")
    found = list(schema.get_all_operations())
    operations = [one.ok() for one in found if isinstance(one, Ok)]
    assert len(operations) == len(found)
    # One model stands for all of them.
    wanted = [operation for operation in operations if "/models/twice" not in operation.path]
    paths = {operation.path for operation in wanted}
    assert {f"/v2/models/add_sub{rest}" for rest in ("", "/infer", "/versions/1/infer", "/generate_stream")} <= paths
    assert {"/v2/repository/models/{model}/load", "/v1/models/add_sub:predict"} <= paths
    seen: Counter[int] = Counter()
    for operation in wanted:
        statuses = statuses_of(operation, GenerationMode.POSITIVE)
        if operation.body:  # of any other, nothing could be wrong
            statuses += statuses_of(operation, GenerationMode.NEGATIVE)
        print(operation.method, operation.path, dict(statuses))
        assert statuses.total() > 0
        seen += statuses
    assert {200, 400, 404} <= set(seen)
