"""Server reflection and health's Watch, by the clients that gRPC brings for them, and what streams cost a server."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from e2e.clients import SECONDS
from server_process import ServerProcess

Status = health_pb2.HealthCheckResponse
SERVICES = {
    "inference.GRPCInferenceService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}
V1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
Serve = Callable[..., ServerProcess]


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("repository")
    (folder / "mlp/1").mkdir(parents=True)
    (folder / "mlp/1/model.onnx").write_bytes((models / "mlp.onnx").read_bytes())
    with ServerProcess(folder, "--io-threads", "2") as running:
        yield running


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc) as made:
        yield made


def info(channel: Any, path: str = V1) -> Any:
    """ServerReflectionInfo under either of its names: the messages are the same."""
    return channel.stream_stream(
        path,
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )


LIST = reflection_pb2.ServerReflectionRequest(list_services="*")


def test_a_client_without_protos_finds_and_calls_everything(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == SERVICES
    pool = descriptor_pool.DescriptorPool(database)
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    assert len(service.methods) == 20
    method = service.FindMethodByName("ModelMetadata")
    call = channel.unary_unary(
        f"/{service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    answer = call(message_factory.GetMessageClass(method.input_type)(name="mlp"), timeout=SECONDS)
    assert [tensor.name for tensor in answer.inputs] == ["x"]
    assert answer.properties["backend"] == "onnxruntime"


@pytest.mark.parametrize("path", [V1, V1.replace(".v1.", ".v1alpha.")])
@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_many_questions_in_one_stream(channel: grpc.Channel, path: str, compression: grpc.Compression) -> None:
    names = [f"inference.{name}" for name in ("ModelConfig", "Nothing", "GRPCInferenceService", "ModelInput")]
    requests = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
    answers = list(info(channel, path)(iter(requests), timeout=SECONDS, compression=compression))
    assert [answer.original_request.file_containing_symbol for answer in answers] == names
    assert [answer.WhichOneof("message_response") for answer in answers] == [
        "file_descriptor_response",
        "error_response",
        "file_descriptor_response",
        "file_descriptor_response",
    ]


def test_questions_one_after_the_other_and_a_cancel(channel: grpc.Channel) -> None:
    over = threading.Event()

    def ask() -> Iterator[Any]:
        for _ in range(200):  # more than may wait at one time: each has its answer before the next
            turn.acquire()
            yield LIST
        over.wait(SECONDS)

    turn = threading.Semaphore(1)
    call = info(channel)(ask(), timeout=SECONDS)
    for _ in range(200):
        assert len(next(call).list_services_response.service) == 4
        turn.release()
    call.cancel()
    over.set()
    with pytest.raises(grpc.RpcError) as raised:
        next(call)
    assert raised.value.code() is grpc.StatusCode.CANCELLED


def test_a_deadline_ends_an_open_stream(channel: grpc.Channel) -> None:
    over = threading.Event()

    def ask() -> Iterator[Any]:
        yield LIST
        over.wait(SECONDS)

    call = info(channel)(ask(), timeout=3)
    next(call)
    with pytest.raises(grpc.RpcError) as raised:
        next(call)
    over.set()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_reflection_of_aio(server: ServerProcess) -> None:
    async def main() -> None:
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            calls = [stub.ServerReflectionInfo(iter([LIST] * 3), timeout=SECONDS) for _ in range(20)]
            for call in calls:
                answers = [answer async for answer in call]
                assert [len(answer.list_services_response.service) for answer in answers] == [4, 4, 4]

    asyncio.run(main())


def test_bytes_that_are_no_request(channel: grpc.Channel) -> None:
    call = channel.stream_stream(V1, request_serializer=bytes, response_deserializer=bytes)
    with pytest.raises(grpc.RpcError) as raised:
        list(call(iter([b"\xff\xff\xff"]), timeout=SECONDS))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# --- Watch


def test_watch_tells_of_a_drain_and_ends_with_it(models: Path, repository: Callable[..., Path], serve: Serve) -> None:
    server = serve(repository(mlp=models / "mlp.onnx"), "--drain-delay", "0.3", "--io-threads", "2")
    with grpc.insecure_channel(server.grpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch
        calls = [watch(health_pb2.HealthCheckRequest(service=name), timeout=SECONDS) for name in ("", "nothing")]
        assert [next(call).status for call in calls] == [Status.SERVING, Status.SERVICE_UNKNOWN]
        reflecting = info(channel)(iter([LIST]), timeout=SECONDS)
        next(reflecting)
        server.process.terminate()
        assert next(calls[0]).status == Status.NOT_SERVING
        for call in calls:
            with pytest.raises(grpc.RpcError) as raised:
                next(call)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.wait() == 0, "an open Watch is no call that a drain waits for"


def test_watch_of_aio_and_its_cancel(server: ServerProcess) -> None:
    async def main() -> None:
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch
            calls = [watch(health_pb2.HealthCheckRequest()) for _ in range(50)]
            for call in calls:
                assert (await call.read()).status == Status.SERVING
                call.cancel()
            check = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
            assert check.status == Status.SERVING

    asyncio.run(main())


def test_strict_readiness_is_watched(models: Path, repository: Callable[..., Path], serve: Serve) -> None:
    """A model that cannot be loaded makes a strict server unready, and that is told."""
    import tritonclient.grpc as triton

    folder = repository(mlp=models / "mlp.onnx", late=models / "mlp.onnx")
    (folder / "late/1/model.onnx").write_bytes(b"no model")
    flags = ("--model-control-mode", "explicit", "--load-model", "mlp", "--strict-readiness")
    server = serve(folder, *flags)
    with grpc.insecure_channel(server.grpc) as channel, triton.InferenceServerClient(server.grpc) as client:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        assert next(call).status == Status.SERVING
        with pytest.raises(triton.InferenceServerException):
            client.load_model("late")
        assert next(call).status == Status.NOT_SERVING
        client.unload_model("late")
        assert next(call).status == Status.SERVING
        call.cancel()
