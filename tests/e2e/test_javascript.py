"""@grpc/grpc-js, the client of Node, gets numpy's numbers: unary calls and a stream, codes and sentences, deadlines."""

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from e2e.clients import FIELDS, NUMPY, SECONDS, Array, Tensors, array_of, assert_equal, raw_of, sample, stub
from e2e.h2_peer import ENDLESS
from server_process import ServerProcess

Said = dict[str, Any]
Node = Callable[..., list[Said]]
OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 0, 3, 4, 5


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """add_sub, slow on the only lane, a model of each datatype, and one for any number of rows; at the end the pool is
    empty."""
    repository = tmp_path_factory.mktemp("javascript")
    for name in ("add_sub", "slow", *(f"twice_{name.lower()}" for name in NUMPY)):
        (repository / name / "1").mkdir(parents=True)
        shutil.copyfile(models / f"{name}.onnx", repository / name / "1/model.onnx")
    shutil.copytree(repository / "twice_fp32", repository / "wide")
    (repository / "wide/config.pbtxt").write_text("max_batch_size: 0\n")
    with ServerProcess(repository, "--lanes", "1") as running:
        yield running
        assert running.stop() == 0
        assert "0 bytes in 0 blocks in use" in running.output()
        assert " ERROR " not in running.output()


@pytest.fixture
def node(server: ServerProcess, root: Path, node_modules: Path) -> Node:
    """node(call, ...): what grpc-js got for calls made at once on one channel; see tests/js/grpc_calls.mjs."""

    def run(
        *calls: Said, file: str = "grpc_service.proto", service: str = "inference.GRPCInferenceService"
    ) -> list[Said]:
        done = subprocess.run(
            ["node", root / "tests/js/grpc_calls.mjs", server.grpc, root / "protos" / file, service],
            input=json.dumps(calls),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(said) == len(calls)
        return said

    return run


def request(model: str, tensors: dict[str, tuple[str, Array]], **fields: Any) -> Said:
    """A ModelInferRequest with raw contents, as proto-loader takes it."""
    return {
        "model_name": model,
        "inputs": [
            {"name": name, "datatype": datatype, "shape": array.shape} for name, (datatype, array) in tensors.items()
        ],
        "raw_input_contents": [packed(raw_of(array)) for _, array in tensors.values()],
        **fields,
    }


def packed(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def add_sub(seed: int, **fields: Any) -> tuple[Said, Tensors]:
    """A request of add_sub, and what numpy says to it."""
    a, b = sample("INT32", (2, 16), seed), sample("INT32", (2, 16), seed + 1000)
    return request("add_sub", {"a": ("INT32", a), "b": ("INT32", b)}, **fields), {"sum": a + b, "difference": a - b}


def infer(message: Said, **options: Any) -> Said:
    return {"method": "ModelInfer", "request": message, **options}


def outputs(response: Said) -> dict[str, Array]:
    """The arrays of a ModelInferResponse."""
    return {
        tensor["name"]: array_of(base64.b64decode(raw), tensor["datatype"], [int(dim) for dim in tensor["shape"]])
        for tensor, raw in zip(response["outputs"], response["raw_output_contents"], strict=True)
    }


def test_every_datatype_in_raw_contents(node: Node) -> None:
    given = {datatype: sample(datatype, (2, 3), seed) for seed, datatype in enumerate(NUMPY)}
    calls = [infer(request(f"twice_{kind.lower()}", {"x": (kind, array)}, id=kind)) for kind, array in given.items()]
    for (kind, array), said in zip(given.items(), node(*calls), strict=True):
        assert said["code"] == OK, said
        (response,) = said["responses"]
        assert (response["model_name"], response["id"]) == (f"twice_{kind.lower()}", kind)
        assert_equal(outputs(response), {"y": np.concatenate([array, array], axis=-1)})


def test_typed_contents(node: Node) -> None:
    given = {kind: sample(kind, (2, 3), 3) for kind in ("INT64", "UINT64", "FP32", "BOOL", "BYTES")}
    calls = []
    for kind, array in given.items():
        flat = array.ravel().tolist()
        values = (
            [packed(word) for word in flat] if kind == "BYTES" else [str(v) for v in flat] if "64" in kind else flat
        )
        tensor = {"name": "x", "datatype": kind, "shape": array.shape, "contents": {FIELDS[kind]: values}}
        calls.append(infer({"model_name": f"twice_{kind.lower()}", "inputs": [tensor]}))
    for array, said in zip(given.values(), node(*calls), strict=True):
        assert said["code"] == OK, said
        assert_equal(outputs(said["responses"][0]), {"y": np.concatenate([array, array], axis=-1)})


def test_many_calls_at_once(node: Node) -> None:
    asked = [add_sub(seed, id=str(seed)) for seed in range(64)]
    for (message, expected), said in zip(asked, node(*(infer(message) for message, _ in asked)), strict=True):
        assert said["code"] == OK, said
        assert said["responses"][0]["id"] == message["id"]
        assert_equal(outputs(said["responses"][0]), expected)


def test_a_large_tensor(node: Node) -> None:
    """Larger than the windows of HTTP/2, both ways; grpc-js takes 4 MiB at most."""
    array = sample("FP32", (100_000, 3), 9)
    (said,) = node(infer(request("wide", {"x": ("FP32", array)})))
    assert said["code"] == OK, said
    assert_equal(outputs(said["responses"][0]), {"y": np.concatenate([array, array], axis=-1)})


def test_metadata_of_the_server_and_of_a_model(node: Node) -> None:
    live, about, model, config = node(
        {"method": "ServerLive", "request": {}},
        {"method": "ServerMetadata", "request": {}},
        {"method": "ModelMetadata", "request": {"name": "add_sub"}},
        {"method": "ModelConfig", "request": {"name": "add_sub"}},
    )
    assert live["responses"] == [{"live": True}]
    assert about["responses"][0]["name"] == "headrace"
    assert model["responses"][0]["inputs"] == [
        {"name": name, "datatype": "INT32", "shape": ["-1", "16"]} for name in ("a", "b")
    ]
    assert config["responses"][0]["config"]["input"][0]["data_type"] == "TYPE_INT32"


def test_metadata_of_a_call(node: Node) -> None:
    """Plain, binary and long metadata disturb nothing, and what comes back is gRPC's."""
    message, expected = add_sub(1)
    metadata = {"x-plain": "some words", "x-long": "y" * 4000, "x-bytes-bin": packed(bytes(range(256)))}
    (said,) = node(infer(message, metadata=metadata))
    assert said["code"] == OK, said
    assert_equal(outputs(said["responses"][0]), expected)
    assert said["headers"]["content-type"].startswith("application/grpc")


def test_health(node: Node) -> None:
    said = node(
        *({"method": "Check", "request": {"service": name}} for name in ("", "nobody")),
        file="health.proto",
        service="grpc.health.v1.Health",
    )
    assert said[0]["responses"] == [{"status": "SERVING"}]
    assert said[1]["code"] == NOT_FOUND


def test_failures_have_the_code_and_the_sentence_that_grpcio_gets(node: Node, server: ServerProcess) -> None:
    good, _ = add_sub(1)
    short = good | {"raw_input_contents": [good["raw_input_contents"][0], packed(b"short")]}
    said = node(infer(good | {"model_name": "größe 100%"}), infer(short))
    assert [outcome["code"] for outcome in said] == [NOT_FOUND, INVALID_ARGUMENT]
    assert "'größe 100%'" in said[0]["details"]
    assert "'b'" in said[1]["details"]
    assert [outcome["responses"] for outcome in said] == [[], []]
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as refused:
        stub(channel).ModelInfer(service_pb2.ModelInferRequest(model_name="größe 100%"), timeout=SECONDS)
    assert refused.value.details() == said[0]["details"]


def test_a_deadline_ends_a_run(node: Node) -> None:
    """The only lane is free for the next call, and that has a deadline which it keeps."""
    endless = request("slow", {"iterations": ("INT64", np.array([[ENDLESS]]))})
    one = request("slow", {"iterations": ("INT64", np.array([[1]]))})
    (said,) = node(infer(endless, deadline_ms=300))
    assert (said["code"], said["responses"]) == (DEADLINE_EXCEEDED, [])
    assert said["elapsed_ms"] < SECONDS * 1000 / 2, "it ended some other way"
    (said,) = node(infer(one, deadline_ms=SECONDS * 1000))
    assert said["code"] == OK, said
    assert outputs(said["responses"][0])["y"].tolist() == [[1.0]]


@pytest.mark.parametrize("turns", [False, True], ids=["all at once", "in turns"])
def test_a_stream_of_twenty_requests(node: Node, turns: bool) -> None:
    """The one of them that is wrong gets its sentence, and the others their numbers."""
    asked = {str(seed): add_sub(seed, id=str(seed)) for seed in range(20)}
    wrong = "7"
    messages = [message for message, _ in asked.values()]
    messages[int(wrong)] = messages[int(wrong)] | {"model_name": "nobody"}
    (said,) = node({"method": "ModelStreamInfer", "requests": messages, "turns": turns})
    assert said["code"] == OK, said
    assert len(said["responses"]) == 20
    answers = {answer["infer_response"]["id"]: answer for answer in said["responses"]}
    assert set(answers) == set(asked)
    if turns:
        assert list(answers) == list(asked)
    for name, (_, expected) in asked.items():
        response, text = answers[name]["infer_response"], answers[name].get("error_message", "")
        if name == wrong:
            assert "'nobody'" in text
            assert not response.get("outputs")
        else:
            assert text == ""
            assert_equal(outputs(response), expected)
