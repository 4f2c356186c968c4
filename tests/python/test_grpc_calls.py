"""The gRPC calls that Python answers: each request to the service, each answer back into its message."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace import _proto
from headrace.errors import InvalidArgument, NotFound
from headrace.grpc_calls import Answerer, Stream
from headrace.service import IndexRow, ServerDescription

INFERENCE = "/inference.GRPCInferenceService/"
X = {"name": "x", "datatype": "FP32", "shape": [-1, 3], "optional": False}


def duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


KINDS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
STAGES = {stage: duration(2, ns) for stage, ns in (("compute_input", 7), ("compute_infer", 8), ("compute_output", 9))}
STATISTICS = {
    "name": "m",
    "version": "3",
    "last_inference": 1,
    "inference_count": 8,
    "execution_count": 2,
    "inference_stats": {kind: duration(number, 10 * number) for number, kind in enumerate(KINDS)},
    "batch_stats": [{"batch_size": 4, **STAGES}],
    "memory_usage": [{"type": "CPU", "id": 0, "byte_size": 4096}],
    "response_stats": {
        "0": {"success": duration(4, 44), "empty_response": duration(1, 2)},
        "1": {"fail": duration(1, 3)},
    },
}


class FakeService:
    """Fixed answers, and what it was asked for."""

    live, ready = True, False

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.serving = True
        self.notes: list[Callable[[], None]] = []

    def server_metadata(self) -> ServerDescription:
        return ServerDescription("headrace", "1.2.3", ("statistics", "trace"))

    def health(self, service: str) -> bool:
        if service == "other":
            raise NotFound("service 'other' is not known")
        return self.serving

    @contextmanager
    def watching(self, note: Callable[[], None]) -> Iterator[None]:
        self.notes.append(note)
        try:
            yield
        finally:
            self.notes.remove(note)

    def model_ready(self, name: str, version: str) -> bool:
        return (name, version) == ("m", "3")

    def model_metadata(self, name: str, version: str) -> Any:
        about = {"versions": ["2", "3"], "platform": "onnxruntime_onnx", "inputs": [X], "outputs": [X]}
        return SimpleNamespace(name=name, properties={"backend": "onnxruntime"}, **about)

    def model_config(self, name: str, version: str) -> Any:
        return _proto.ModelConfig(name=name, max_batch_size=4)

    def model_statistics(self, name: str, version: str) -> Any:
        return [STATISTICS]

    async def repository_index(self, *, ready: bool, repository: str) -> list[IndexRow]:
        self.said.append((ready, repository))
        return [IndexRow("m", "3", "READY", ""), IndexRow("n", "", "UNAVAILABLE", "why")]

    async def load_model(self, name: str, parameters: Any, *, repository: str) -> None:
        self.said.append(("load", name, parameters, repository))

    async def unload_model(self, name: str, parameters: Any, *, repository: str) -> None:
        self.said.append(("unload", name, parameters, repository))

    def update_trace_settings(self, model: str, changes: Any) -> Any:
        self.said.append((model, changes))
        return {"trace_level": ["OFF"], "trace_rate": ["1000"]}

    def update_log_settings(self, changes: Any) -> Any:
        self.said.append(changes)
        return {"log_info": True, "log_verbose_level": 2, "log_format": "default"}


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


def ask(path: str, request: Any, service: FakeService | None = None) -> Any:
    async def work() -> bytes:
        answerer = Answerer(cast(Any, service or FakeService()), asyncio.get_running_loop())
        return await answerer.answer(path, request.SerializeToString())

    return _proto.METHODS[path].response.FromString(run(work()))


def test_server_calls() -> None:
    assert ask(INFERENCE + "ServerLive", _proto.ServerLiveRequest()).live is True
    assert ask(INFERENCE + "ServerReady", _proto.ServerReadyRequest()).ready is False
    about = ask(INFERENCE + "ServerMetadata", _proto.ServerMetadataRequest())
    assert (about.name, about.version) == ("headrace", "1.2.3")
    assert list(about.extensions) == ["statistics", "trace"]


def test_model_calls() -> None:
    assert ask(INFERENCE + "ModelReady", _proto.ModelReadyRequest(name="m", version="3")).ready is True
    assert ask(INFERENCE + "ModelReady", _proto.ModelReadyRequest(name="m")).ready is False
    about = ask(INFERENCE + "ModelMetadata", _proto.ModelMetadataRequest(name="m"))
    assert (about.name, list(about.versions), about.platform) == ("m", ["2", "3"], "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in about.inputs] == [("x", "FP32", [-1, 3])]
    assert dict(about.properties) == {"backend": "onnxruntime"}
    assert ask(INFERENCE + "ModelConfig", _proto.ModelConfigRequest(name="m")).config.max_batch_size == 4


def test_statistics() -> None:
    (stats,) = ask(INFERENCE + "ModelStatistics", _proto.ModelStatisticsRequest()).model_stats
    assert (stats.name, stats.version, stats.inference_count, stats.execution_count) == ("m", "3", 8, 2)
    assert [getattr(stats.inference_stats, kind).ns for kind in KINDS] == [10 * n for n in range(8)]
    assert (stats.batch_stats[0].batch_size, stats.batch_stats[0].compute_output.ns) == (4, 9)


def test_health() -> None:
    path = "/grpc.health.v1.Health/Check"
    status = _proto.HealthCheckResponse
    service = FakeService()
    assert ask(path, _proto.HealthCheckRequest(), service).status == status.SERVING
    service.serving = False
    assert ask(path, _proto.HealthCheckRequest(service="x"), service).status == status.NOT_SERVING
    with pytest.raises(NotFound):
        ask(path, _proto.HealthCheckRequest(service="other"))


def test_the_repository() -> None:
    service = FakeService()
    index = ask(INFERENCE + "RepositoryIndex", _proto.RepositoryIndexRequest(ready=True), service)
    assert [(m.name, m.version, m.state, m.reason) for m in index.models] == [
        ("m", "3", "READY", ""),
        ("n", "", "UNAVAILABLE", "why"),
    ]
    load = _proto.RepositoryModelLoadRequest(repository_name="r", model_name="m")
    load.parameters["config"].string_param = "{}"
    load.parameters["file:1/x"].bytes_param = b"x"
    ask(INFERENCE + "RepositoryModelLoad", load, service)
    unload = _proto.RepositoryModelUnloadRequest(model_name="m")
    unload.parameters["unload_dependents"].bool_param = False
    ask(INFERENCE + "RepositoryModelUnload", unload, service)
    assert service.said == [
        (True, ""),
        ("load", "m", {"config": "{}", "file:1/x": b"x"}, "r"),
        ("unload", "m", {"unload_dependents": False}, ""),
    ]


def test_settings() -> None:
    service = FakeService()
    request = _proto.TraceSettingRequest(model_name="m", settings={"trace_rate": {"value": ["7"]}, "trace_level": {}})
    answer = ask(INFERENCE + "TraceSetting", request, service)
    assert {key: list(value.value) for key, value in answer.settings.items()} == {
        "trace_level": ["OFF"],
        "trace_rate": ["1000"],
    }
    request = _proto.LogSettingsRequest()
    request.settings["log_info"].bool_param = False
    request.settings["log_verbose_level"].uint32_param = 1
    request.settings["log_format"].SetInParent()
    settings = ask(INFERENCE + "LogSettings", request, service).settings
    assert settings["log_info"].bool_param is True
    assert settings["log_verbose_level"].uint32_param == 2
    assert settings["log_format"].string_param == "default"
    assert service.said == [
        ("m", {"trace_rate": ["7"], "trace_level": []}),
        {"log_info": False, "log_verbose_level": 1, "log_format": None},
    ]


def test_a_request_that_is_none() -> None:
    async def work() -> None:
        answerer = Answerer(cast(Any, FakeService()), asyncio.get_running_loop())
        with pytest.raises(InvalidArgument, match="ModelReady"):
            await answerer.answer(INFERENCE + "ModelReady", b"\xff\xff\xff")

    run(work())


# --- Calls of many messages


class Talk:
    """A stream whose answers are gathered."""

    def __init__(self, service: FakeService, path: str) -> None:
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.released = 0
        self.stream = Stream(path, self._release, self._send)
        answerer = Answerer(cast(Any, service), asyncio.get_running_loop())
        self.task = asyncio.create_task(answerer.converse(self.stream))

    def _release(self) -> None:
        self.released += 1

    async def _send(self, message: bytes) -> None:
        self.answers.put_nowait(_proto.METHODS[self.stream.path].response.FromString(message))

    def put(self, message: Any) -> None:
        self.stream.put(message.SerializeToString())


WATCH = "/grpc.health.v1.Health/Watch"


def test_watch_tells_the_status_now_and_each_change_once() -> None:
    async def work() -> None:
        service = FakeService()
        talk = Talk(service, WATCH)
        talk.put(_proto.HealthCheckRequest())
        talk.stream.end()  # as a client does that has one message to send
        status = _proto.HealthCheckResponse
        assert (await talk.answers.get()).status == status.SERVING
        (note,) = service.notes
        note()  # nothing has changed
        service.serving = False
        note()
        assert (await talk.answers.get()).status == status.NOT_SERVING
        service.serving = True
        await asyncio.to_thread(note)  # from any thread
        assert (await talk.answers.get()).status == status.SERVING
        assert talk.answers.empty()
        assert talk.released == 1
        talk.task.cancel()
        await asyncio.gather(talk.task, return_exceptions=True)
        assert service.notes == []

    run(work())


def test_watch_of_a_service_that_is_not_known_stays_open() -> None:
    async def work() -> None:
        talk = Talk(FakeService(), WATCH)
        talk.put(_proto.HealthCheckRequest(service="other"))
        assert (await talk.answers.get()).status == _proto.HealthCheckResponse.SERVICE_UNKNOWN
        assert not talk.task.done()
        talk.task.cancel()

    run(work())


def test_watch_without_a_request() -> None:
    async def work() -> None:
        talk = Talk(FakeService(), WATCH)
        talk.stream.end()
        with pytest.raises(InvalidArgument, match="without a request"):
            await talk.task

    run(work())


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_answers_until_the_client_ends(version: str) -> None:
    async def work() -> None:
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        talk = Talk(FakeService(), path)
        for _ in range(2):
            talk.put(_proto.METHODS[path].request(list_services="*"))
        talk.stream.put(b"\xff\xff")
        assert len((await talk.answers.get()).list_services_response.service) == 4
        assert len((await talk.answers.get()).list_services_response.service) == 4
        with pytest.raises(InvalidArgument, match="is not a valid grpc"):
            await talk.task
        ended = Talk(FakeService(), path)
        ended.stream.end()
        await ended.task

    run(work())
