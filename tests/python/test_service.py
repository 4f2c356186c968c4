"""What the server says of itself and its models, whatever the protocol."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace import config, model_config
from headrace.errors import NotFound, Unavailable
from headrace.router import ModelVersion, Router, State
from headrace.service import Service

HOST = config.Host(cores=4, memory_bytes=8 * config.GIB)
X = {"name": "x", "datatype": "FP32", "shape": [-1, 3], "optional": False}


def ready(name: str, version: int) -> ModelVersion:
    settings = model_config.read(name, None, config.resolve({}, host=HOST))
    model = SimpleNamespace(
        backend="onnxruntime", inputs=[X], outputs=[X], max_batch_size=32, dynamic_batching=True, max_lanes=0
    )
    return ModelVersion(name, version, State.READY, "", cast(Any, model), settings)


BROKEN = ModelVersion("broken", 1, State.UNAVAILABLE, "it is cut short")
LOADING = ModelVersion("loading", 1, State.LOADING, "it is still loading")


def service(*versions: ModelVersion, started: bool = True, statistics: Any = (), **flags: object) -> Service:
    router = Router(lambda rows: None)
    router.set(versions)
    engine = cast(Any, SimpleNamespace(snapshot=lambda: {"models": list(statistics)}))
    made = Service(engine, router, config.resolve(flags, host=HOST), "1.2.3")
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


def test_configuration_is_whole() -> None:
    whole = service(ready("m", 2)).model_config("m", "2")
    assert (whole.name, whole.max_batch_size, list(whole.input[0].dims)) == ("m", 32, [3])
    assert whole.instance_group[0].count == 4


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
    rows = [{"name": name, "version": version} for name, version in (("b", 1), ("a", 10), ("a", 2), ("unloading", 1))]
    one = service(ready("a", 2), ready("a", 10), ready("b", 1), BROKEN, statistics=rows)

    def shown(name: str, version: str) -> list[tuple[str, int]]:
        return [(s["name"], s["version"]) for s in one.model_statistics(name, version)]

    assert shown("a", "10") == [("a", 10)]
    assert shown("a", "") == [("a", 2), ("a", 10)]
    assert shown("", "") == [("a", 2), ("a", 10), ("b", 1)]
    assert shown("broken", "") == []
    with pytest.raises(NotFound, match="'c'"):
        shown("c", "")
    with pytest.raises(Unavailable, match="cut short"):
        shown("broken", "1")
