"""What a folder of models becomes: config.pbtxt obeyed, versions chosen, broken models named while the others serve."""

import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import service_pb2

from e2e.checks import when_running
from e2e.clients import SECONDS, Array, answer_of, request, stub
from server_process import ServerFailed, ServerProcess

FOREVER = 1 << 40  # iterations of `slow`: it runs until it is cancelled
DYNAMIC = "dynamic_batching { }"
QUEUE_SECONDS = 30  # of the models that wait for a preferred size: nobody should have to wait that long

# name -> (model, config.pbtxt)
SERVED = {
    "plain": ("mlp", None),
    "empty_config": ("mlp", ""),
    "own_shapes": ("mlp", "max_batch_size: 0"),
    "alone": ("mlp", 'name: "alone"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 8'),
    "together": ("slow", f"backend: 'onnxruntime' max_batch_size: 8 {DYNAMIC} instance_group [{{ count: 1 }}]"),
    "preferred": (
        "mlp",
        "max_batch_size: 16 dynamic_batching { preferred_batch_size: [ 4, 8 ] "
        f"max_queue_delay_microseconds: {QUEUE_SECONDS * 1_000_000} }}",
    ),
    "delayed": ("mlp", "max_batch_size: 16 dynamic_batching { max_queue_delay_microseconds: 300000 }"),
    "one_lane": ("slow", "max_batch_size: 1 instance_group [ { count: 1 kind: KIND_CPU } ]"),
    "stated": (
        "mlp",
        "max_batch_size: 4 input [{ name: 'x' data_type: TYPE_FP32 dims: [ 64 ] }] "
        "output { name: 'logits' data_type: TYPE_FP32 dims: 10 }",
    ),
    "threads": ("mlp", "parameters { key: 'intra_op_thread_count' value: { string_value: '1' } }"),
    "external_inside": ("external_inside/model", None),
    "mean_over_batch": ("mean_over_batch", None),
}
# name -> (model, config.pbtxt, words of the reason)
BROKEN: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "other_name": ("mlp", 'name: "wrong"', ("'wrong'", "'other_name'")),
    "no_text": ("mlp", "max_batch_size: eight", ("config.pbtxt", "line 1")),
    "unknown_field": ("mlp", "max_batch: 8", ("config.pbtxt", "max_batch")),
    "wrong_dims": ("mlp", "input { name: 'x' data_type: TYPE_FP32 dims: [ 65 ] }", ("'x'", "[65]", "64")),
    "wrong_datatype": ("mlp", "input { name: 'x' data_type: TYPE_INT8 dims: [ 64 ] }", ("'x'", "TYPE_INT8", "FP32")),
    "wrong_input": ("mlp", "input { name: 'z' data_type: TYPE_FP32 dims: [ 64 ] }", ("no input 'z'", "x")),
    "wrong_output": ("mlp", "output { name: 'z' data_type: TYPE_FP32 dims: [ 10 ] }", ("no output 'z'", "logits")),
    "not_batchable": ("twice_fp32_fixed", "max_batch_size: 8", ("max_batch_size", "'x'", "[2,3]", "fixed")),
    "preferred_too_large": (
        "mlp",
        "max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }",
        ("preferred_batch_size 8", "4"),
    ),
    "for_gpu": (
        "mlp",
        "instance_group { kind: KIND_GPU } parameters { key: 'strict_device' value { string_value: '1' } }",
        ("not to run elsewhere", "CUDA", "pip install headrace[gpu]"),
    ),
    "sequences": ("mlp", "sequence_batching { }", ("sequence_batching",)),
    "of_another_backend": ("mlp", "backend: 'pytorch'", ("'pytorch'", "onnxruntime")),
    "plan_without_signature": ("mlp", "backend: 'tensorrt'", ("TensorRT plan", "write every input of it")),
    "missing_version": ("mlp", "version_policy { specific { versions: [ 7 ] } }", ("version_policy", "7")),
    "corrupt": ("corrupt", None, ("corrupt/1/model.onnx",)),
    "no_graph": ("no_graph", None, ("no_graph/1/model.onnx",)),
    "no_kernel": ("no_kernel", None, ("Nonesuch",)),
    "sequence_output": ("sequence_output", None, ("'parts'", "a sequence", "ConcatFromSequence")),
    "zipmap": ("zipmap", None, ("'output_probability'", "a sequence of maps", "zipmap=False")),
    "optional_type": ("optional_type", None, ("'maybe'", "optional")),
    "float8": ("float8", None, ("float8e4m3fn", "Cast")),
    "int4": ("int4", None, ("int4", "Cast")),
    **{
        f"external_{way}": (f"external_{way}/model", None, words)
        for way, words in {
            "absolute": ("weights.bin",),
            "dotdot": ("../outside/weights.bin",),
            "link": ("link_out.bin",),
            "folder_link": ("folder_out/weights.bin",),
            "missing": ("missing.bin",),
            "memory": ("_ORT_MEM_ADDR_",),
            "constant": ("../outside/weights.bin",),
            "subgraph": ("../outside/weights.bin",),
        }.items()
    },
}


def put(repository: Path, name: str, file: Path, config: str | None = None, version: int = 1) -> Path:
    """Model `name` with one version; of a model in a folder of its own, all that lies there comes along."""
    folder = repository / name / str(version)
    if file.name == "model.onnx":
        shutil.copytree(file.parent, folder, symlinks=True)
    else:
        folder.mkdir(parents=True)
        shutil.copyfile(file, folder / "model.onnx")
    if config is not None:
        (repository / name / "config.pbtxt").write_text(config)
    return repository / name


def times(factor: float) -> bytes:
    """y = factor * x, to tell versions apart."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "times",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.array([factor], np.float32), "factor")],
    )
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    onnx.checker.check_model(made)
    return made


# Versions 1, 2, 3 and 10 of a model that multiplies by its version; what is served of them.
POLICIES = {
    "highest": (None, [10]),
    "latest_two": ("version_policy { latest { num_versions: 2 } }", [3, 10]),
    "all": ("version_policy { all { } }", [1, 2, 3, 10]),
    "some": ("version_policy { specific { versions: [ 3, 1 ] } }", [1, 3]),
}


def make_links(repository: Path, models: Path, outside: Path) -> None:
    """Every place of the layout as a link that leads out of the repository, and one that stays inside."""
    outside.mkdir()
    put(outside, "model", models / "mlp.onnx", "max_batch_size: 8")
    put(outside, "secret", models / "mlp.onnx", "max_batch_size: 8")
    (repository / "link_model").symlink_to(outside / "model")
    (repository / "link_version").mkdir()
    (repository / "link_version/1").symlink_to(outside / "model/1")
    (repository / "link_file/1").mkdir(parents=True)
    (repository / "link_file/1/model.onnx").symlink_to(outside / "model/1/model.onnx")
    put(repository, "link_config", models / "mlp.onnx")
    (repository / "link_config/config.pbtxt").symlink_to(outside / "model/config.pbtxt")
    (repository / "link_inside/1").mkdir(parents=True)
    (repository / "link_inside/1/model.onnx").symlink_to("../../plain/1/model.onnx")


LINKS = ("link_model", "link_version", "link_file", "link_config")


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """All of these in one repository. At the end the pool is empty."""
    base = tmp_path_factory.mktemp("repository")
    repository = base / "models"
    for name, (model, config) in SERVED.items():
        put(repository, name, models / f"{model}.onnx", config)
    for name, (model, config, _) in BROKEN.items():
        put(repository, name, models / f"{model}.onnx", config)
    shutil.copytree(models / "outside", repository / "external_dotdot/outside")
    for policy, (config, _) in POLICIES.items():
        for version in (1, 2, 3, 10):
            folder = repository / policy / str(version)
            folder.mkdir(parents=True)
            (folder / "model.onnx").write_bytes(times(version))
        (repository / policy / "04").mkdir()  # no version: it has a leading zero
        if config is not None:
            (repository / policy / "config.pbtxt").write_text(config)
    make_links(repository, models, base / "outside")
    (repository / "no_version").mkdir()
    (repository / "no_file/1").mkdir(parents=True)
    (repository / "a file.txt").write_text("Not a model.")
    with ServerProcess(repository, "--lanes", "2", "--compute-threads", "1", "--log-level", "debug") as running:
        yield running
        assert running.stop() == 0
        assert "0 bytes in 0 blocks in use" in running.output()


@pytest.fixture(scope="module")
def calls(server: ServerProcess) -> Iterator[Any]:
    """The protocol's calls by plain grpcio."""
    with grpc.insecure_channel(server.grpc) as channel:
        yield stub(channel)


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 1, (count, 64)).astype(np.float32)


def counts(calls: Any, model: str) -> tuple[int, int, dict[int, int]]:
    """Rows, runs, and runs of each batch size so far."""
    wanted = service_pb2.ModelStatisticsRequest(name=model)
    told = calls.ModelStatistics(wanted, timeout=SECONDS).model_stats[0]
    sizes = {batch.batch_size: batch.compute_infer.count for batch in told.batch_stats}
    return told.inference_count, told.execution_count, sizes


def config_of(calls: Any, model: str) -> Any:
    return calls.ModelConfig(service_pb2.ModelConfigRequest(name=model), timeout=SECONDS).config


def refusal(call: Callable[[], object]) -> tuple[StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    return error.code(), error.details()


# --- config.pbtxt ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["plain", "empty_config", "threads"])
def test_a_model_whose_config_says_nothing_is_probed(calls: Any, model: str) -> None:
    config = config_of(calls, model)
    assert config.max_batch_size == 32
    assert config.HasField("dynamic_batching")
    assert answer_of(calls.ModelInfer(request(model, {"x": rows(32)})))["logits"].shape == (32, 10)


def test_a_model_whose_rows_depend_on_each_other_is_not_batched(calls: Any, server: ServerProcess) -> None:
    config = config_of(calls, "mean_over_batch")
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
    server.wait_for_output(r"^mean_over_batch +1 +onnxruntime +CPU +not batched: .*row", 0)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    told = answer_of(calls.ModelInfer(request("mean_over_batch", {"x": x})))["y"]
    np.testing.assert_allclose(told, x - x.mean(axis=0), rtol=1e-5)


def test_max_batch_size_0_means_the_models_own_shapes(calls: Any) -> None:
    config = config_of(calls, "own_shapes")
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (0, False)
    assert [list(tensor.dims) for tensor in config.input] == [[-1, 64]]
    before = counts(calls, "own_shapes")
    sent = [calls.ModelInfer.future(request("own_shapes", {"x": rows(50, seed)})) for seed in range(12)]
    for call in sent:
        assert answer_of(call.result(SECONDS))["logits"].shape == (50, 10)
    after = counts(calls, "own_shapes")
    assert (after[0] - before[0], after[1] - before[1]) == (12, 12), "each ran alone, and counts as one"


def test_without_dynamic_batching_each_request_runs_alone(calls: Any) -> None:
    assert not config_of(calls, "alone").HasField("dynamic_batching")
    before = counts(calls, "alone")
    sent = [calls.ModelInfer.future(request("alone", {"x": rows(2, seed)})) for seed in range(16)]
    for call in sent:
        call.result(SECONDS)
    after = counts(calls, "alone")
    assert (after[0] - before[0], after[1] - before[1]) == (32, 16)
    assert set(after[2]) == {2}
    code, sentence = refusal(lambda: calls.ModelInfer(request("alone", {"x": rows(9)})))
    assert code is StatusCode.INVALID_ARGUMENT
    assert "9" in sentence
    assert "1 to 8 (max_batch_size)" in sentence


def test_a_full_batch_of_the_largest_preferred_size_does_not_wait(calls: Any) -> None:
    config = config_of(calls, "preferred").dynamic_batching
    assert list(config.preferred_batch_size) == [4, 8]
    assert config.max_queue_delay_microseconds == QUEUE_SECONDS * 1_000_000
    for count in (8, 4):  # whatever gathers, it runs when it is 4 or 8 rows
        before = counts(calls, "preferred")
        sent = [calls.ModelInfer.future(request("preferred", {"x": rows(1, seed)})) for seed in range(count)]
        for call in sent:
            call.result(QUEUE_SECONDS * 0.8)
        after = counts(calls, "preferred")
        assert after[0] - before[0] == count
        assert set(after[2]) <= {4, 8}


def test_a_queue_delay_gathers_and_then_lets_go(calls: Any) -> None:
    sent = []
    for seed in range(3):
        message = request("delayed", {"x": rows(1, seed)})
        message.parameters["headrace_timing"].bool_param = True
        sent.append(calls.ModelInfer.future(message))
    told = [call.result(SECONDS).parameters for call in sent]
    assert max(timing["headrace_queue_ns"].int64_param for timing in told) >= 300_000_000
    assert max(timing["headrace_batch_size"].int64_param for timing in told) >= 2
    started = time.monotonic()
    calls.ModelInfer(request("delayed", {"x": rows(16)}), timeout=SECONDS)  # a full batch has nothing to wait for
    assert time.monotonic() - started < SECONDS
    assert counts(calls, "delayed")[2].get(16) == 1


def hold(server: ServerProcess, calls: Any, model: str) -> Any:
    """A call that runs until it is cancelled; a lane has it when this returns."""
    held = calls.ModelInfer.future(request(model, {"iterations": np.array([[FOREVER]], np.int64)}))
    when_running(server.http, model, 1)
    return held


def test_instance_group_caps_the_lanes_of_one_model(server: ServerProcess, calls: Any) -> None:
    """With both lanes allowed the second would answer what waits, before it answers what comes after that."""
    assert [group.count for group in config_of(calls, "one_lane").instance_group] == [1]
    held = hold(server, calls, "one_lane")
    try:
        waits = calls.ModelInfer.future(request("one_lane", {"iterations": np.array([[1]], np.int64)}))
        for _ in range(5):
            answer = calls.ModelInfer(request("plain", {"x": rows(1)}), timeout=SECONDS)
            assert answer_of(answer)["logits"].shape == (1, 10)
        assert not waits.done()
        assert not held.done()
    finally:
        held.cancel()
    assert answer_of(waits.result(SECONDS))["y"].tolist() == [[1.0]]


def test_requests_gather_while_the_lane_is_busy(server: ServerProcess, calls: Any) -> None:
    held = hold(server, calls, "together")
    one = request("together", {"iterations": np.array([[1]], np.int64)})
    one.parameters["headrace_timing"].bool_param = True
    sent = [calls.ModelInfer.future(one) for _ in range(16)]
    # Calls on one connection arrive in order: when this answer is here, the others wait in the queue.
    assert calls.ServerLive(service_pb2.ServerLiveRequest(), timeout=SECONDS).live
    held.cancel()
    sizes = [call.result(SECONDS).parameters["headrace_batch_size"].int64_param for call in sent]
    assert sizes == [8] * 16


def test_what_a_config_states_is_told_again(calls: Any) -> None:
    config = config_of(calls, "stated")
    assert (config.max_batch_size, list(config.input[0].dims), list(config.output[0].dims)) == (4, [64], [10])
    assert list(config_of(calls, "alone").input[0].dims) == [64]


# --- Versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_versions(calls: Any, policy: str) -> None:
    served = POLICIES[policy][1]
    about = calls.ModelMetadata(service_pb2.ModelMetadataRequest(name=policy), timeout=SECONDS)
    assert list(about.versions) == [str(version) for version in served]
    x = np.array([[1], [2]], np.float32)
    for version in (1, 2, 3, 10):
        message = request(policy, {"x": x}, model_version=str(version))
        if version in served:
            response = calls.ModelInfer(message, timeout=SECONDS)
            assert response.model_version == str(version)
            np.testing.assert_array_equal(answer_of(response)["y"], x * version)
        else:
            code, sentence = refusal(lambda message=message: calls.ModelInfer(message, timeout=SECONDS))  # type: ignore[misc]
            assert code is StatusCode.NOT_FOUND
            assert f"'{version}'" in sentence
            assert "serves: " + ", ".join(str(number) for number in served) in sentence
    response = calls.ModelInfer(request(policy, {"x": x}), timeout=SECONDS)
    assert response.model_version == str(max(served))
    np.testing.assert_array_equal(answer_of(response)["y"], x * max(served))


# --- What cannot be served -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*BROKEN, *LINKS, "no_version", "no_file"])
def test_a_broken_model_is_named_with_its_reason(calls: Any, server: ServerProcess, name: str) -> None:
    words = BROKEN[name][2] if name in BROKEN else ("out of the repository",) if name in LINKS else (f"{name}/1",)
    told = {
        "ModelReady": refusal(lambda: calls.ModelReady(service_pb2.ModelReadyRequest(name=name), timeout=SECONDS)),
        "ModelInfer": refusal(lambda: calls.ModelInfer(request(name, {"x": rows(1)}), timeout=SECONDS)),
        "ModelMetadata": refusal(
            lambda: calls.ModelMetadata(service_pb2.ModelMetadataRequest(name=name), timeout=SECONDS)
        ),
    }
    for call, (code, sentence) in told.items():
        assert code is StatusCode.UNAVAILABLE, (call, sentence)
        for word in (f"'{name}'", *words):
            assert word in sentence, (call, word, sentence)
    line = server.wait_for_output(rf"^.* ERROR .*model '{name}'.* is not served: .*$", 0).group()
    for word in words:
        assert word in line
    assert server.wait_for_output(rf"^{name} +.*NOT SERVED: .*$", 0)


def test_the_others_serve(calls: Any, server: ServerProcess) -> None:
    for name in (*SERVED, *POLICIES, "link_inside"):
        assert calls.ModelReady(service_pb2.ModelReadyRequest(name=name), timeout=SECONDS).ready, name
    assert calls.ServerReady(service_pb2.ServerReadyRequest(), timeout=SECONDS).ready
    assert http_status(server, "ready") == 200
    x = np.eye(4, dtype=np.float32)
    told = answer_of(calls.ModelInfer(request("external_inside", {"x": x}), timeout=SECONDS))
    np.testing.assert_array_equal(told["y"], x * 3)


def http_status(server: ServerProcess, route: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{server.http}/v2/health/{route}", timeout=SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_strict_readiness(models: Path, tmp_path: Path) -> None:
    for name, ready in (("mlp", True), ("corrupt", False)):
        put(tmp_path, name, models / f"{name}.onnx")
        with ServerProcess(tmp_path, "--strict-readiness") as server, grpc.insecure_channel(server.grpc) as channel:
            calls, health = stub(channel), health_pb2_grpc.HealthStub(channel)
            assert calls.ServerReady(service_pb2.ServerReadyRequest(), timeout=SECONDS).ready is ready
            assert calls.ServerLive(service_pb2.ServerLiveRequest(), timeout=SECONDS).live
            check: Any = health.Check
            status = check(health_pb2.HealthCheckRequest(), timeout=SECONDS).status
            assert status == health_pb2.HealthCheckResponse.ServingStatus.Value("SERVING" if ready else "NOT_SERVING")
            assert http_status(server, "ready") == (200 if ready else 503)
            assert http_status(server, "live") == 200
            assert calls.ModelReady(service_pb2.ModelReadyRequest(name="mlp"), timeout=SECONDS).ready
            calls.ModelInfer(request("mlp", {"x": rows(1)}), timeout=SECONDS)
            assert server.stop() == 0


def test_exit_on_error(models: Path, tmp_path: Path) -> None:
    put(tmp_path, "mlp", models / "mlp.onnx")
    with ServerProcess(tmp_path, "--exit-on-error") as server:
        assert server.stop() == 0
    put(tmp_path, "corrupt", models / "corrupt.onnx")
    broken = ServerProcess(tmp_path, "--exit-on-error")
    with pytest.raises(ServerFailed, match="ended with code 2"), broken:
        pass
    last = broken.output().strip().splitlines()[-1]
    assert last.startswith("headrace: ")
    assert "--exit-on-error" in last
    assert "'corrupt'" in last
