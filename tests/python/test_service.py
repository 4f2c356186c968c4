"""What the server says of itself and its models, whatever the protocol."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace import config, model_config
from headrace.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable, Unimplemented
from headrace.log_settings import LogSettings
from headrace.router import ModelVersion, Router, State
from headrace.service import Service
from headrace.tracing import Tracer

HOST = config.Host(cores=4, memory_bytes=8 * config.GIB)
X = {"name": "x", "datatype": "FP32", "shape": [-1, 3], "optional": False}


def ready(name: str, version: int) -> ModelVersion:
    settings = model_config.read(name, None, config.resolve({}, host=HOST))
    model = SimpleNamespace(
        backend="onnxruntime",
        inputs=[X],
        outputs=[X],
        max_batch_size=32,
        dynamic_batching=True,
        max_lanes=0,
        lanes=4,
        intra_op_threads=1,
        threads_reason="measured",
        thread_trials=[],
        provider="cpu",
        provider_note="CUDA: no",
        providers=["cpu"],
        batching_reason="because",
        metadata={"producer": "somebody"},
    )
    return ModelVersion(name, version, State.READY, "", cast(Any, model), settings)


def counters(name: str, version: int, **more: Any) -> dict[str, Any]:
    kinds = ("success", "fail", "cancel", "reject", "queue", "compute_input", "compute_infer", "compute_output")
    durations = {kind: {"count": number, "ns": 10 * number} for number, kind in enumerate(kinds, 1)}
    counts = {"last_inference_ms": 7, "inference_count": 8, "execution_count": 9}
    memory = {"asleep": False, "footprint_bytes": 4096}
    return {
        "name": name,
        "version": version,
        "batch_stats": [],
        "response_stats": [],
        **memory,
        **counts,
        **durations,
        **more,
    }


BROKEN = ModelVersion("broken", 1, State.UNAVAILABLE, "it is cut short")
LOADING = ModelVersion("loading", 1, State.LOADING, "it is still loading")


class FakeRepository:
    """Remembers what it was asked for."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.said: list[Any] = []

    async def load(self, *arguments: Any) -> None:
        self.said.append(("load", *arguments))

    async def unload(self, *arguments: Any) -> None:
        self.said.append(("unload", *arguments))

    async def index(self) -> list[ModelVersion]:
        never = ModelVersion("never", None, State.UNAVAILABLE, "it is not loaded", wanted=False)
        return [*self.router.versions, never]


def service(*versions: ModelVersion, started: bool = True, statistics: Any = (), **flags: object) -> Service:
    router = Router(lambda rows: None)
    router.set(versions)
    schedule = {"learning": True, "refused_by_prediction": 3}
    engine = cast(
        Any, SimpleNamespace(snapshot=lambda: {"models": list(statistics)}, schedule=lambda model: dict(schedule))
    )
    options = config.resolve(flags, host=HOST)
    made = Service(
        engine,
        router,
        options,
        "1.2.3",
        repository=cast(Any, FakeRepository(router)),
        tracer=Tracer(options, lambda _number, _rate, count, *_: SimpleNamespace(remaining=count), lambda _: None, str),  # type: ignore[arg-type]  # no tensor comes
        log_settings=LogSettings(options),
    )
    made.started = started
    return made


def test_readiness() -> None:
    assert service(ready("m", 1)).ready
    assert not service(ready("m", 1), started=False).ready
    assert service(ready("m", 1), BROKEN).ready
    assert not service(ready("m", 1), BROKEN, strict_readiness=True).ready
    assert service(ready("m", 1), strict_readiness=True).ready
    draining = service(ready("m", 1))
    draining.draining = True
    assert (draining.live, draining.ready, draining.health(""), draining.model_ready("m", "")) == (
        True,
        False,
        False,
        False,
    )


def test_health_knows_the_server_and_its_service() -> None:
    one = service(ready("m", 1))
    assert one.health("")
    assert one.health("inference.GRPCInferenceService")
    with pytest.raises(NotFound, match="'other'"):
        one.health("other")


def test_model_ready() -> None:
    one = service(ready("m", 1), BROKEN, LOADING)
    assert one.model_ready("m", "")
    assert one.model_ready("m", "1")
    assert not one.model_ready("m", "2")
    assert not one.model_ready("unknown", "")
    assert not one.model_ready("loading", "")
    with pytest.raises(Unavailable, match="model 'broken' is not available: it is cut short"):
        one.model_ready("broken", "")


def test_metadata_has_the_models_own_shapes_and_the_versions_that_are_ready() -> None:
    one = service(ready("m", 2), ready("m", 10), ModelVersion("m", 11, State.UNAVAILABLE, "no"))
    about = one.model_metadata("m", "")
    assert (about.name, about.versions, about.platform) == ("m", ["2", "10"], "onnxruntime_onnx")
    assert about.inputs == [X]
    assert about.outputs == [X]
    assert about.properties == {
        "backend": "onnxruntime",
        "max_batch_size": "32",
        "batching": "because",
        "threads": "1 thread(s) a run on up to 4 lane(s): measured",
        "device": "CPU (CUDA: no)",
        "model.producer": "somebody",
    }


def test_configuration_is_whole() -> None:
    whole = service(ready("m", 2)).model_config("m", "2")
    assert (whole.name, whole.max_batch_size, list(whole.input[0].dims)) == ("m", 32, [3])
    assert whole.instance_group[0].count == 4
    shown = json.loads(whole.parameters["headrace"].string_value)
    threads = {"reason": "measured", "trials": []}
    assert shown == {"name": "m", "version": "2", "learning": True, "refused_by_prediction": 3, "threads": threads}
    assert service(ready("m", 2)).model_schedule("m", "") == shown


@pytest.mark.parametrize("call", ["model_metadata", "model_config"])
def test_what_is_not_there_has_no_metadata(call: str) -> None:
    ask = getattr(service(BROKEN, LOADING), call)
    with pytest.raises(NotFound, match="'unknown'"):
        ask("unknown", "")
    with pytest.raises(NotFound, match="no version '7'"):
        ask("broken", "7")
    with pytest.raises(Unavailable, match="cut short"):
        ask("broken", "")
    with pytest.raises(Unavailable, match="still loading"):
        ask("loading", "1")


def test_statistics_of_one_of_a_model_and_of_all() -> None:
    rows = [counters(name, version) for name, version in (("b", 1), ("a", 10), ("a", 2), ("unloading", 1))]
    one = service(ready("a", 2), ready("a", 10), ready("b", 1), BROKEN, statistics=rows)

    def shown(name: str, version: str) -> list[tuple[str, str]]:
        return [(s["name"], s["version"]) for s in one.model_statistics(name, version)]

    assert shown("a", "10") == [("a", "10")]
    assert shown("a", "") == [("a", "2"), ("a", "10")]
    assert shown("", "") == [("a", "2"), ("a", "10"), ("b", "1")]
    assert shown("broken", "") == []
    with pytest.raises(NotFound, match="'c'"):
        shown("c", "")
    with pytest.raises(Unavailable, match="cut short"):
        shown("broken", "1")


def test_statistics_have_the_protocols_names_and_every_kind_of_failure() -> None:
    batch = {"batch_size": 4, **{stage: {"count": 1, "ns": 2} for stage in ("compute_input", "compute_infer")}}
    parts = [{"success": {"count": number, "ns": 2}} for number in range(3)]
    given = counters("a", 2, batch_stats=[batch], response_stats=parts)
    (row,) = service(ready("a", 2), statistics=[given]).model_statistics("a", "2")
    assert (row["last_inference"], row["inference_count"], row["execution_count"]) == (7, 8, 9)
    stats = row["inference_stats"]
    assert stats["success"] == {"count": 1, "ns": 10}
    assert stats["fail"] == {"count": 2 + 3 + 4, "ns": 90}  # failed, cancelled, refused
    stages = ("queue", "compute_input", "compute_infer", "compute_output")
    assert [stats[key]["count"] for key in stages] == [5, 6, 7, 8]
    assert stats["cache_hit"] == stats["cache_miss"] == {"count": 0, "ns": 0}
    assert row["batch_stats"] == [batch]
    assert row["response_stats"] == dict(zip("012", parts, strict=True))


def test_of_a_model_that_is_there_twice_the_newest_counts() -> None:
    twice = [counters("a", 1, inference_count=99), counters("a", 1, inference_count=1)]
    (row,) = service(ready("a", 1), statistics=twice).model_statistics("a", "")
    assert row["inference_count"] == 1


def test_an_unloaded_model_is_not_ready_and_no_fault() -> None:
    unloaded = ModelVersion("u", 1, State.UNAVAILABLE, "unloaded", wanted=False)
    one = service(ready("m", 1), unloaded, strict_readiness=True)
    assert one.ready
    assert not one.model_ready("u", "")


def test_watchers_hear_of_every_change() -> None:
    one, heard = service(ready("m", 1), started=False), list[bool]()
    with one.watching(lambda: heard.append(one.ready)):
        one.started = True
        one.draining = True
    one.draining = False
    assert heard == [True, False]


def test_index_rows() -> None:
    one = service(ready("m", 1), BROKEN)
    rows = asyncio.run(one.repository_index())
    assert [(r.name, r.version, r.state, r.reason) for r in rows] == [
        ("broken", "1", "UNAVAILABLE", "it is cut short"),
        ("m", "1", "READY", ""),
        ("never", "", "UNAVAILABLE", "it is not loaded"),
    ]
    assert [r.name for r in asyncio.run(one.repository_index(ready=True))] == ["m"]
    with pytest.raises(Unimplemented, match="repository_name must be empty"):
        asyncio.run(one.repository_index(repository="other"))


EXPLICIT: dict[str, Any] = {"model_control_mode": "explicit"}
UPLOAD: dict[str, Any] = {**EXPLICIT, "allow_model_upload": True}


def test_load_and_unload_hand_on_what_they_were_given() -> None:
    one = service(**EXPLICIT, allow_model_upload=True)
    asyncio.run(one.load_model("m"))
    asyncio.run(one.load_model("m", {"config": "{}", "file:1/model.onnx": b"x"}))
    asyncio.run(one.unload_model("m", {"unload_dependents": True}))
    said = cast(Any, one)._repository.said
    assert said == [("load", "m", None, {}), ("load", "m", "{}", {"1/model.onnx": b"x"}), ("unload", "m")]


@pytest.mark.parametrize(
    ("flags", "call", "arguments", "kind", "words"),
    [
        ({}, "load_model", ("m", {}), Unavailable, "'m' cannot be loaded on request.*--model-control-mode explicit"),
        ({}, "unload_model", ("m", {}), Unavailable, "'m' cannot be unloaded on request"),
        (EXPLICIT, "load_model", ("", {}), InvalidArgument, "names no model to be loaded"),
        (EXPLICIT, "load_model", ("m", {"config": 1}), InvalidArgument, "'config' must be a string of JSON"),
        (EXPLICIT, "load_model", ("m", {"other": "x"}), InvalidArgument, "no load parameter 'other'"),
        (EXPLICIT, "load_model", ("m", {"file:1/x": b"", "config": "{}"}), PermissionDenied, "--allow-model-upload"),
        (EXPLICIT, "unload_model", ("m", {"force": True}), InvalidArgument, "no unload parameter 'force'"),
        (EXPLICIT, "unload_model", ("m", {"unload_dependents": "x"}), InvalidArgument, "must be a bool"),
        (UPLOAD, "load_model", ("m", {"file:1/x": "x"}), InvalidArgument, "be bytes"),
        (
            {**EXPLICIT, "allow_model_upload": True},
            "load_model",
            ("m", {"file:1/x": b""}),
            InvalidArgument,
            "'config' must",
        ),
    ],
)
def test_what_load_and_unload_refuse(
    flags: dict[str, Any], call: str, arguments: tuple[str, dict[str, Any]], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        asyncio.run(getattr(service(**flags), call)(*arguments))


def test_settings_of_a_model_that_is_not_there() -> None:
    one = service(ready("m", 1))
    assert one.trace_settings("m")["trace_level"] == ["OFF"]
    with pytest.raises(NotFound):
        one.trace_settings("unknown")
    with pytest.raises(NotFound):
        one.update_trace_settings("unknown", {"trace_rate": ["1"]})
    assert one.update_log_settings({})["log_info"] is True


class Regions:
    """The engine's half of shared memory."""

    def __init__(self) -> None:
        self.regions = [("a", "/k", 0, 10), ("b", "/k", 10, 20)]
        self.gone: list[str] = []

    def register_shared_memory(self, name: str, key: str, offset: int, byte_size: int) -> None:
        self.regions.append((name, key, offset, byte_size))

    def unregister_shared_memory(self, name: str) -> None:
        self.gone.append(name)

    def shared_memory(self) -> list[tuple[str, str, int, int]]:
        return self.regions


def test_shared_memory_is_listed_and_forgotten() -> None:
    made, engine = service(allow_client_shm=True), Regions()
    made._engine = cast(Any, engine)
    assert "system_shared_memory" in made.server_metadata().extensions
    made.register_shared_memory("c", "/l", 1, 2)
    assert made.shared_memory("c") == [("c", "/l", 1, 2)]
    assert [row[0] for row in made.shared_memory("")] == ["a", "b", "c"]
    with pytest.raises(NotFound, match="'d'"):
        made.shared_memory("d")
    made.unregister_shared_memory("a")
    made.unregister_shared_memory("")
    assert engine.gone == ["a", ""]


def test_shared_memory_is_off_until_a_flag_allows_it() -> None:
    made = service()
    assert "system_shared_memory" not in made.server_metadata().extensions
    assert "classification" in made.server_metadata().extensions
    for call in (made.shared_memory, made.unregister_shared_memory):
        with pytest.raises(PermissionDenied, match="--allow-client-shm"):
            call("")


def test_there_is_no_cuda_shared_memory() -> None:
    made = service()
    with pytest.raises(Unavailable, match=r"CUDA shared memory region 'c' cannot be registered.*--allow-client-shm"):
        made.register_cuda_shared_memory("c")
    made.cuda_shared_memory("")
    with pytest.raises(NotFound, match="'c'"):
        made.cuda_shared_memory("c")
