"""HTTP's paths: which operation of the service a request is, and its answer. No transport, no policy.

Inference is not answered here: `route` names it, and the protocol hands its body to the core. A readiness that is false
is 503 (Triton: 400), because that is what load balancers and people look for; bodies are those of the Open Inference
Protocol, where Triton's are empty.
"""

import asyncio
import dataclasses
import enum
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from headrace import _proto, grpc_web, http_docs
from headrace.config import Config
from headrace.errors import (
    HeadraceError,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from headrace.grpc_calls import Answerer
from headrace.http_generate import Generation
from headrace.http_json import from_base64, parameters_of, plain, texts_of
from headrace.http_message import COMPRESS_BYTES, IDENTITY, Request, Response, compress, inflate
from headrace.http_origins import Origins
from headrace.service import Service

__all__ = ["MISSING", "STREAM_INFER", "Answer", "Gateway", "Kind", "Route", "WebCall"]

Handler = Callable[["Gateway", Request], Response | Awaitable[Response]]
_INFER = f"/{_proto.INFERENCE_SERVICE}/ModelInfer"
STREAM_INFER = f"/{_proto.INFERENCE_SERVICE}/ModelStreamInfer"
_FILE = "file:"  # of a load parameter's name
_HEAVY_BYTES = 256 << 10  # of JSON that Python reads: not on the loop
_LIGHT_COMPRESSION = 16 << 10  # bytes that are compressed on the loop


class Kind(enum.IntEnum):
    """Who answers."""

    MISSING = 0  # nobody: 404
    INFER = 1  # the core
    GENERATE = 2  # the core, with the body and the answer in another form
    STREAM = 3  # the same as server-sent events
    CALL = 4  # a handler, on loop 0
    INLINE = 5  # a handler that may run on any loop
    PREDICT = 6  # the core, for POST; a handler for GET
    WEB_INFER = 7  # the core, in gRPC-Web's form
    WEB_CALL = 8  # gRPC's answerer, in gRPC-Web's form
    WEB_STREAM = 9  # the same, or the core, with an answer of many messages


class Route(NamedTuple):
    """What a path is. `body`: a request without one cannot be meant. `guarded`: not for other sites' pages."""

    kind: Kind
    methods: tuple[str, ...] = ()
    model: str = ""
    version: str = ""
    handler: Handler | None = None
    parts: tuple[str, ...] = ()
    body: bool = False
    guarded: bool = False

    @property
    def allow(self) -> str:
        """For the Allow header."""
        return ", ".join((*self.methods, *(("HEAD",) if "GET" in self.methods else ()), "OPTIONS"))


class WebCall(NamedTuple):
    """A call of many messages over gRPC-Web, for its connection to answer. `body`: its frames."""

    path: str
    form: grpc_web.WebForm
    body: bytes


Answer = Response | Generation | WebCall

_READ = ("GET",)
_POST = ("POST",)
MISSING = Route(Kind.MISSING)


class Gateway:
    """The routes of one server, and the handlers behind them."""

    def __init__(self, service: Service, config: Config, grpc: Answerer) -> None:
        """`grpc` answers gRPC-Web's calls; `answer` runs on its loop."""
        self.service = service
        self.config = config
        self.home = grpc.home
        self.grpc = grpc
        self.origins = Origins(config)
        calls = (*grpc.methods, *grpc.streams, STREAM_INFER)
        self._web = {
            path: Route(
                Kind.WEB_CALL if path in grpc.methods else Kind.WEB_STREAM,
                _POST,
                parts=tuple(path.split("/")[1:]),
                body=True,
            )
            for path in calls
        }
        self._web[_INFER] = Route(Kind.WEB_INFER, _POST, body=True)

    # --- Routes

    def route(self, target: bytes) -> Route:
        """What the target of a request line means."""
        path = target.split(b"?", 1)[0]
        if path.startswith(b"http://"):  # the absolute form, as proxies send it
            path = b"/" + path[7:].partition(b"/")[2]
        try:
            parts = tuple(unquote_to_bytes(part).decode() for part in path.split(b"/")[1:])
        except UnicodeDecodeError:
            return MISSING
        if len(parts) > 1 and parts[-1] == "":
            parts = parts[:-1]  # Triton takes no notice of a slash at the end
        match parts:
            case ("v2",):
                return _call(Gateway._server_metadata, parts)
            case ("v2", "health", "live"):
                return _inline(Gateway._live, parts)
            case ("v2", "health", "ready"):
                return _inline(Gateway._ready, parts)
            case ("v2", "models", "stats"):
                return _call(partial(Gateway._statistics, model=""), parts)
            case ("v2", "models", name, *rest) if name:
                return _of_model(name, tuple(rest), parts)
            case ("v2", "trace", "setting"):
                return _call(Gateway._trace, parts, ("GET", "POST"), guarded=True)
            case ("v2", "logging"):
                return _call(Gateway._logging, parts, ("GET", "POST"), guarded=True)
            case ("v2", "repository", *rest):
                return _of_repository(tuple(rest), parts)
            case ("v2", ("systemsharedmemory" | "cudasharedmemory") as kind, *rest):
                return _of_shared_memory(kind, tuple(rest), parts)
            case ("v1", "models", *rest) if rest and rest[0]:
                return _of_version_one(tuple(rest), parts)
            case (_, _) if (method := "/" + "/".join(parts)) in self._web:
                return self._web[method]
            case ("",):
                return _inline(Gateway._root, parts)
            case ("docs",):
                return _inline(Gateway._docs, parts)
            case ("openapi.json",):
                return _call(Gateway._openapi, parts)
        return MISSING

    def answer_inline(self, route: Route, request: Request) -> Response:
        """What a route of kind INLINE answers, on any loop."""
        handler: Any = route.handler
        answer: Response = handler(self, request)
        return answer

    async def answer(self, route: Route, request: Request, encoding: int, accepts: int) -> Answer:
        """What a route of kind CALL answers, or what its connection is to do for GENERATE, STREAM and WEB_STREAM. On
        loop 0.
        `encoding`: of the request's body; `accepts`: how the answer may be compressed."""
        if route.guarded and request.method == "POST":
            self.origins.check(request)
        if encoding != IDENTITY:
            limit = self.config.max_request_bytes
            inflated = await asyncio.to_thread(inflate, request.body, encoding, limit)
            if inflated is None:
                return Response.error(413, f"the body is over the limit of {limit} bytes (--max-request-bytes)")
            request = dataclasses.replace(request, body=inflated)
        if route.kind is Kind.WEB_CALL:
            return await self._answer_web(request)
        if route.kind is Kind.WEB_STREAM:
            return WebCall("/" + "/".join(request.parts), grpc_web.WebForm(request.form or ""), request.body)
        if len(request.body) > _HEAVY_BYTES:
            await asyncio.to_thread(request.json)  # kept in the request
        if route.handler is None:
            about = self.service.model_metadata(route.model, route.version)
            return Generation(about, request.json(), IDENTITY if route.kind is Kind.STREAM else accepts)
        given = route.handler(self, request)
        answer = given if isinstance(given, Response) else await given
        if accepts == IDENTITY or len(answer.body) < COMPRESS_BYTES:
            return answer
        if len(answer.body) <= _LIGHT_COMPRESSION:
            return compress(answer, accepts)
        return await asyncio.to_thread(compress, answer, accepts)

    async def _answer_web(self, request: Request) -> Response:
        form = grpc_web.WebForm(request.form or "")
        path = "/" + "/".join(request.parts)
        try:
            reply = await self.grpc.answer(path, grpc_web.message_of(request.body))
        except HeadraceError as error:
            return grpc_web.failure(error.code, error.message, form)
        return grpc_web.answer(grpc_web.frames(reply), form)

    # --- The server

    def _live(self, _request: Request) -> Response:
        return Response.of_json({"live": self.service.live}, 200 if self.service.live else 503)

    def _ready(self, _request: Request) -> Response:
        ready = self.service.ready
        return Response.of_json({"ready": ready}, 200 if ready else 503)

    def _server_metadata(self, _request: Request) -> Response:
        about = self.service.server_metadata()
        return Response.of_json({"name": about.name, "version": about.version, "extensions": about.extensions})

    def _root(self, _request: Request) -> Response:
        return Response(307, b"", (("Location", "/docs"),))

    def _docs(self, _request: Request) -> Response:
        return http_docs.page()

    async def _openapi(self, _request: Request) -> Response:
        return Response.of_json(await http_docs.document(self.service))

    # --- Models

    def _model_metadata(self, _request: Request, *, model: str, version: str) -> Response:
        about = self.service.model_metadata(model, version)
        tensors = {
            kind: [{"name": t["name"], "datatype": t["datatype"], "shape": t["shape"]} for t in given]
            for kind, given in (("inputs", about.inputs), ("outputs", about.outputs))
        }
        named = {"name": about.name, "versions": about.versions, "platform": about.platform}
        return Response.of_json({**named, **tensors, "properties": about.properties})

    def _model_ready(self, _request: Request, *, model: str, version: str) -> Response:
        if self.service.model_ready(model, version):
            return Response.of_json({"name": model, "ready": True})
        if not self.service.draining:
            self.service.model_metadata(model, version)  # it says why not: unknown, or unavailable
        raise Unavailable(f"model '{model}' is not ready: the server is starting or shutting down")

    def _model_config(self, _request: Request, *, model: str, version: str) -> Response:
        return Response.of_json(plain(self.service.model_config(model, version)))

    def _model_schedule(self, _request: Request, *, model: str, version: str) -> Response:
        return Response.of_json(self.service.model_schedule(model, version))

    def _statistics(self, _request: Request, *, model: str, version: str = "") -> Response:
        return Response.of_json({"model_stats": self.service.model_statistics(model, version)})

    async def _model_status(self, _request: Request, *, model: str, version: str) -> Response:
        # TensorFlow Serving's.
        states = {"READY": "AVAILABLE", "LOADING": "LOADING", "UNLOADING": "UNLOADING"}
        rows = [row for row in await self.service.repository_index() if row.name == model]
        if version:
            rows = [row for row in rows if row.version == version]
        if not rows:
            raise NotFound(f"model '{model}'{f' version {version}' if version else ''} is not known")
        status = [
            {
                "version": row.version or "0",
                "state": states.get(row.state, "END"),
                "status": {"error_code": "UNKNOWN" if row.reason else "OK", "error_message": row.reason},
            }
            for row in rows
        ]
        return Response.of_json({"model_version_status": status})

    # --- The repository

    async def _index(self, request: Request, *, repository: str) -> Response:
        asked = request.json()
        ready = asked.get("ready", False)
        if not isinstance(ready, bool):
            raise InvalidArgument("'ready' must be true or false")
        rows = await self.service.repository_index(ready=ready, repository=repository)
        index = [{"name": r.name, "version": r.version, "state": r.state, "reason": r.reason} for r in rows]
        return Response.of_json([{key: value for key, value in row.items() if value} for row in index])

    async def _load(self, request: Request, *, model: str, repository: str) -> Response:
        parameters = parameters_of(request)
        for key, value in parameters.items():
            if key.startswith(_FILE):
                parameters[key] = from_base64(key, value)
        await self.service.load_model(model, parameters, repository=repository)
        return Response(200)

    async def _unload(self, request: Request, *, model: str, repository: str) -> Response:
        await self.service.unload_model(model, parameters_of(request), repository=repository)
        return Response(200)

    # --- Shared memory of clients

    def _shm_status(self, _request: Request, *, region: str) -> Response:
        rows = self.service.shared_memory(region)
        keys = ("name", "key", "offset", "byte_size")
        return Response.of_json([dict(zip(keys, row, strict=True)) for row in rows])

    def _shm_register(self, request: Request, *, region: str) -> Response:
        asked = request.json()
        key, offset, size = asked.get("key"), asked.get("offset", 0), asked.get("byte_size")
        if not isinstance(key, str):
            raise InvalidArgument("'key' must be a string: the name of the shared memory object")
        for name, value in (("offset", offset), ("byte_size", size)):
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
                raise InvalidArgument(f"'{name}' must be a number of bytes")
        self.service.register_shared_memory(region, key, offset, size)  # type: ignore[arg-type]  # looked at above
        return Response(200)

    def _shm_unregister(self, _request: Request, *, region: str) -> Response:
        self.service.unregister_shared_memory(region)
        return Response(200)

    def _cuda_status(self, _request: Request, *, region: str) -> Response:
        self.service.cuda_shared_memory(region)
        return Response.of_json([])

    def _cuda_register(self, _request: Request, *, region: str) -> Response:
        self.service.register_cuda_shared_memory(region)
        return Response(200)

    def _cuda_unregister(self, _request: Request, *, region: str) -> Response:
        return Response(200)  # there are none, so they are as gone as can be

    # --- Settings

    def _trace(self, request: Request, *, model: str = "") -> Response:
        if request.method != "POST":
            now = self.service.trace_settings(model)
        else:
            changes = {key: texts_of(key, value) for key, value in request.json().items()}
            now = self.service.update_trace_settings(model, changes)
        lists = ("trace_level",)
        return Response.of_json({key: value if key in lists else "".join(value) for key, value in now.items()})

    def _logging(self, request: Request) -> Response:
        if request.method != "POST":
            return Response.of_json(self.service.log_settings())
        changes = request.json()
        for key, value in changes.items():
            if not isinstance(value, bool | int | str | None):
                raise InvalidArgument(f"log setting '{key}' must be a boolean, a number, a string or null")
        return Response.of_json(self.service.update_log_settings(changes))


def _call(
    handler: Callable[..., Any], parts: tuple[str, ...], methods: tuple[str, ...] = _READ, *, guarded: bool = False
) -> Route:
    return Route(Kind.CALL, methods, handler=handler, parts=parts, guarded=guarded)


def _inline(handler: Handler, parts: tuple[str, ...]) -> Route:
    return Route(Kind.INLINE, _READ, handler=handler, parts=parts)


def _of_model(name: str, rest: tuple[str, ...], parts: tuple[str, ...]) -> Route:
    version = ""
    if len(rest) > 1 and rest[0] == "versions":
        version, rest = rest[1], rest[2:]
    match rest:
        case ():
            return _call(partial(Gateway._model_metadata, model=name, version=version), parts)
        case ("infer",):
            return Route(Kind.INFER, _POST, name, version, body=True)
        case ("ready",):
            return _call(partial(Gateway._model_ready, model=name, version=version), parts)
        case ("config",):
            return _call(partial(Gateway._model_config, model=name, version=version), parts)
        case ("scheduler",):
            return _call(partial(Gateway._model_schedule, model=name, version=version), parts)
        case ("stats",):
            return _call(partial(Gateway._statistics, model=name, version=version), parts)
        case ("generate",):
            return Route(Kind.GENERATE, _POST, name, version, body=True)
        case ("generate_stream",):
            return Route(Kind.STREAM, _POST, name, version, body=True)
        case ("trace", "setting") if not version:
            return _call(partial(Gateway._trace, model=name), parts, ("GET", "POST"), guarded=True)
    return MISSING


def _of_repository(rest: tuple[str, ...], parts: tuple[str, ...]) -> Route:
    # The name of the repository may stand before the rest.
    repository = ""
    if rest and rest[0] not in ("index", "models"):
        repository, rest = rest[0], rest[1:]
    match rest:
        case ("index",):
            return _call(partial(Gateway._index, repository=repository), parts, _POST, guarded=True)
        case ("models", name, "load") if name:
            return _call(partial(Gateway._load, model=name, repository=repository), parts, _POST, guarded=True)
        case ("models", name, "unload") if name:
            return _call(partial(Gateway._unload, model=name, repository=repository), parts, _POST, guarded=True)
    return MISSING


def _of_shared_memory(kind: str, rest: tuple[str, ...], parts: tuple[str, ...]) -> Route:
    region = ""
    if len(rest) == 3 and rest[0] == "region" and rest[1]:
        region, rest = rest[1], rest[2:]
    status: Callable[..., Response] = Gateway._cuda_status
    register: Callable[..., Response] = Gateway._cuda_register
    unregister: Callable[..., Response] = Gateway._cuda_unregister
    if kind == "systemsharedmemory":
        status, register, unregister = Gateway._shm_status, Gateway._shm_register, Gateway._shm_unregister
    match rest:
        case ("status",):
            return _call(partial(status, region=region), parts)
        case ("register",) if region:
            return _call(partial(register, region=region), parts, _POST, guarded=True)
        case ("unregister",):
            return _call(partial(unregister, region=region), parts, _POST, guarded=True)
    return MISSING


def _of_version_one(rest: tuple[str, ...], parts: tuple[str, ...]) -> Route:
    # TensorFlow Serving's; :predict may be left out.
    last, colon, verb = rest[-1].rpartition(":")
    if not colon:
        last = rest[-1]
    elif verb != "predict":
        return MISSING
    match (*rest[:-1], last):
        case (name,):
            version = ""
        case (name, "versions" | "labels", version):
            pass
        case _:
            return MISSING
    if colon:
        return Route(Kind.PREDICT, _POST, name, version, body=True)
    handler = partial(Gateway._model_status, model=name, version=version)
    return Route(Kind.PREDICT, ("GET", "POST"), name, version, handler, parts, body=True)
