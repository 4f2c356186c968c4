"""HTTP's paths: what each is, and what the handlers make of bodies."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace.errors import HeadraceError, InvalidArgument, PermissionDenied
from headrace.http_gateway import Gateway, Kind
from headrace.http_message import GZIP, IDENTITY, Request, Response
from headrace.service import IndexRow


class FakeService:
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.live, self.ready, self.draining = True, False, False
        self.asked: list[Any] = []

    async def repository_index(self, *, ready: bool = False, repository: str = "") -> list[IndexRow]:
        self.asked.append((ready, repository))
        return [IndexRow("m", "1", "READY", ""), IndexRow("n", "", "UNAVAILABLE", "broken")]

    async def load_model(self, name: str, parameters: Any, *, repository: str = "") -> None:
        self.asked.append(("load", name, dict(parameters), repository))

    async def unload_model(self, name: str, parameters: Any, *, repository: str = "") -> None:
        self.asked.append(("unload", name, dict(parameters), repository))

    def trace_settings(self, _model: str = "") -> dict[str, list[str]]:
        return {"trace_level": ["OFF"], "trace_rate": ["1000"]}

    def update_trace_settings(self, model: str, changes: Any) -> dict[str, list[str]]:
        self.asked.append((model, changes))
        return self.trace_settings(model)

    def update_log_settings(self, changes: Any) -> Any:
        return changes


def gateway(*origins: str) -> Gateway:
    config: Any = SimpleNamespace(cors_allow_origin=origins, max_request_bytes=1000)
    answerer: Any = SimpleNamespace(home=None, methods=["/a.Service/Method"], streams=["/a.Service/Stream"])
    return Gateway(cast(Any, FakeService()), config, answerer)


def ask(
    door: Gateway,
    method: str,
    path: str,
    body: Any = b"",
    *,
    accepts: int = IDENTITY,
    encoding: int = IDENTITY,
    origin: str = "",
    host: str = "",
) -> Response:
    """The answer of a handler."""
    route = door.route(path.encode())
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = asyncio.run(door.answer(route, Request(method, route.parts, data, origin, host), encoding, accepts))
    assert isinstance(answer, Response)
    return answer


@pytest.mark.parametrize(
    ("path", "kind", "methods"),
    [
        ("/v2", Kind.CALL, "GET"),
        ("/v2/", Kind.CALL, "GET"),
        ("/v2/health/live", Kind.INLINE, "GET"),
        ("/v2/health/ready?x=y", Kind.INLINE, "GET"),
        ("/v2/models/stats", Kind.CALL, "GET"),
        ("/v2/models/m", Kind.CALL, "GET"),
        ("/v2/models/m/versions/1", Kind.CALL, "GET"),
        ("/v2/models/m/ready", Kind.CALL, "GET"),
        ("/v2/models/m/versions/stable/config", Kind.CALL, "GET"),
        ("/v2/models/m/versions/1/stats", Kind.CALL, "GET"),
        ("/v2/models/m/infer", Kind.INFER, "POST"),
        ("/v2/models/m/versions/1/infer", Kind.INFER, "POST"),
        ("/v2/models/m/generate", Kind.GENERATE, "POST"),
        ("/v2/models/m/versions/1/generate_stream", Kind.STREAM, "POST"),
        ("/v2/models/m/trace/setting", Kind.CALL, "GET,POST"),
        ("/v2/trace/setting", Kind.CALL, "GET,POST"),
        ("/v2/logging", Kind.CALL, "GET,POST"),
        ("/v2/repository/index", Kind.CALL, "POST"),
        ("/v2/repository/other/index", Kind.CALL, "POST"),
        ("/v2/repository/models/m/load", Kind.CALL, "POST"),
        ("/v2/repository/other/models/m/unload", Kind.CALL, "POST"),
        ("/v2/systemsharedmemory/status", Kind.CALL, "GET"),
        ("/v2/systemsharedmemory/region/r/register", Kind.CALL, "POST"),
        ("/v2/systemsharedmemory/register", Kind.MISSING, ""),
        ("/v2/cudasharedmemory/region/r/unregister", Kind.CALL, "POST"),
        ("/v1/models/m", Kind.PREDICT, "GET,POST"),
        ("/v1/models/m/versions/1", Kind.PREDICT, "GET,POST"),
        ("/v1/models/m:predict", Kind.PREDICT, "POST"),
        ("/v1/models/m/labels/stable:predict", Kind.PREDICT, "POST"),
        ("/v1/models/m:classify", Kind.MISSING, ""),
        ("/v1/models/m/other/1:predict", Kind.MISSING, ""),
        ("/docs", Kind.INLINE, "GET"),
        ("/openapi.json", Kind.CALL, "GET"),
        ("/", Kind.INLINE, "GET"),
        ("http://host:8000/v2", Kind.CALL, "GET"),
        ("/v3", Kind.MISSING, ""),
        ("/v2/models", Kind.MISSING, ""),
        ("/v2/models//infer", Kind.MISSING, ""),
        ("/v2/models/m/other", Kind.MISSING, ""),
        ("/v2/models/m/versions/1/trace/setting", Kind.MISSING, ""),
        ("/v2/models/%ff/infer", Kind.MISSING, ""),
        ("*", Kind.MISSING, ""),
        ("", Kind.MISSING, ""),
    ],
)
def test_routes(path: str, kind: Kind, methods: str) -> None:
    route = gateway().route(path.encode())
    assert (route.kind, ",".join(route.methods)) == (kind, methods)


def test_names_are_percent_decoded() -> None:
    route = gateway().route(b"/v2/models/a%2Fb%20%C3%A4/versions/v%31/infer")
    assert (route.model, route.version) == ("a/b ä", "v1")


def test_health_has_the_open_protocols_bodies() -> None:
    door = gateway()
    answers = [
        door.answer_inline(door.route(path), Request("GET", ())) for path in (b"/v2/health/live", b"/v2/health/ready")
    ]
    assert [(a.status, json.loads(a.body)) for a in answers] == [(200, {"live": True}), (503, {"ready": False})]


def test_the_index_leaves_out_what_is_empty() -> None:
    door = gateway()
    rows = json.loads(ask(door, "POST", "/v2/repository/index", {"ready": True}).body)
    assert rows == [
        {"name": "m", "version": "1", "state": "READY"},
        {"name": "n", "state": "UNAVAILABLE", "reason": "broken"},
    ]
    assert cast(Any, door.service).asked == [(True, "")]


def test_load_takes_files_in_base64() -> None:
    door = gateway()
    body = {"parameters": {"config": "{}", "file:1/model.onnx": "AAEC"}}
    assert ask(door, "POST", "/v2/repository/models/m/load", body).status == 200
    assert cast(Any, door.service).asked == [("load", "m", {"config": "{}", "file:1/model.onnx": b"\0\1\2"}, "")]
    assert ask(door, "POST", "/v2/repository/models/m/unload").status == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/repository/index", {"ready": 1}),
        ("/v2/repository/index", b"[]"),
        ("/v2/repository/models/m/load", {"parameters": []}),
        ("/v2/repository/models/m/load", {"parameters": {"a": 1.5}}),
        ("/v2/repository/models/m/load", {"parameters": {"file:a": 1}}),
        ("/v2/repository/models/m/load", {"parameters": {"file:a": "not base64!"}}),
        ("/v2/trace/setting", {"trace_level": {}}),
        ("/v2/trace/setting", {"trace_level": [True]}),
        ("/v2/logging", {"log_info": []}),
    ],
)
def test_bodies_that_cannot_be_meant(path: str, body: Any) -> None:
    with pytest.raises(InvalidArgument):
        ask(gateway(), "POST", path, body)


def test_settings_in_the_protocols_forms() -> None:
    door = gateway()
    assert json.loads(ask(door, "GET", "/v2/trace/setting").body) == {"trace_level": ["OFF"], "trace_rate": "1000"}
    ask(
        door,
        "POST",
        "/v2/models/m/trace/setting",
        {"trace_rate": "5", "trace_level": ["TIMESTAMPS"], "trace_count": None},
    )
    assert cast(Any, door.service).asked == [
        ("m", {"trace_rate": ["5"], "trace_level": ["TIMESTAMPS"], "trace_count": None})
    ]
    assert json.loads(ask(door, "POST", "/v2/logging", {"log_info": False}).body) == {"log_info": False}


def test_other_sites_change_nothing() -> None:
    path = "/v2/repository/models/m/unload"
    with pytest.raises(PermissionDenied, match="--cors-allow-origin https://evil"):
        ask(gateway(), "POST", path, origin="https://evil", host="a:8000")
    assert ask(gateway(), "POST", path, origin="http://a:8000", host="a:8000").status == 200
    assert ask(gateway("https://good"), "POST", path, origin="https://good", host="a:8000").status == 200


def test_compressed_both_ways() -> None:
    import gzip

    door = gateway()
    body = gzip.compress(json.dumps({"log_format": "x" * 900}).encode())
    answer = ask(door, "POST", "/v2/logging", body, encoding=GZIP)
    assert json.loads(answer.body) == {"log_format": "x" * 900}
    too_large = gzip.compress(b" " * 1001)
    assert ask(door, "POST", "/v2/logging", too_large, encoding=GZIP).status == 413
    packed = ask(door, "POST", "/v2/logging", {"a": "x" * 2000}, accepts=GZIP)
    assert ("Content-Encoding", "gzip") in packed.headers
    assert json.loads(gzip.decompress(packed.body)) == {"a": "x" * 2000}


def test_a_status_of_tensorflow_servings() -> None:
    door = gateway()
    assert json.loads(ask(door, "GET", "/v1/models/m").body)["model_version_status"][0]["state"] == "AVAILABLE"
    with pytest.raises(HeadraceError):
        ask(door, "GET", "/v1/models/unknown")
