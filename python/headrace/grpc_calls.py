"""The gRPC calls that Python answers: protobuf in, a method of the service, protobuf out. No policy, no transport.

Unary calls run on loop 0. Calls of many messages run on the loop of their connection: they use what any thread may.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from headrace import _proto, reflection
from headrace.errors import InvalidArgument, NotFound
from headrace.service import Service

__all__ = ["Answerer", "Stream"]

_INFERENCE = f"/{_proto.INFERENCE_SERVICE}/"
_WATCH = f"/{_proto.HEALTH_SERVICE}/Watch"
_REFLECTION = tuple(f"/{name}/ServerReflectionInfo" for name in _proto.REFLECTION_SERVICES)


def _parsed(path: str, message: bytes) -> Any:
    request = _proto.METHODS[path].request()
    try:
        request.ParseFromString(message)
    except DecodeError:
        raise InvalidArgument(f"the request of {path} is not a valid {request.DESCRIPTOR.full_name}") from None
    return request


class Stream:
    """One call of many messages, on its connection's loop. `release` is called for each message that was dealt with,
    `send` puts an answer on its way and waits while too much of them waits."""

    def __init__(self, path: str, release: Callable[[], None], send: Callable[[bytes], Awaitable[None]]) -> None:
        self.path = path
        self._release = release
        self._send = send
        self._messages: deque[bytes] = deque()
        self._ended = False
        self._came = asyncio.Event()

    def put(self, message: bytes) -> None:
        """A message has come."""
        self._messages.append(message)
        self._came.set()

    def end(self) -> None:
        """The client has sent its last."""
        self._ended = True
        self._came.set()

    async def next(self) -> Any:
        """The next request, None when there is no more. InvalidArgument for bytes that are none."""
        while not self._messages:
            if self._ended:
                return None
            self._came.clear()
            await self._came.wait()
        message = self._messages.popleft()
        self._release()
        return _parsed(self.path, message)

    async def send(self, response: Any) -> None:
        """One more answer."""
        await self._send(response.SerializeToString())


class Answerer:
    """Protobuf in, protobuf out, for each call that Python answers. Unary ones run on the loop `home`."""

    def __init__(self, service: Service, home: asyncio.AbstractEventLoop) -> None:
        self.home = home
        self._service = service
        # Functions, not bound methods: those would make a ring that only the garbage collector ends, and the engine's
        # memory with it.
        self._handlers: dict[str, Callable[[Answerer, Any], Awaitable[Any]]] = {
            _INFERENCE + "ServerLive": Answerer._server_live,
            _INFERENCE + "ServerReady": Answerer._server_ready,
            _INFERENCE + "ServerMetadata": Answerer._server_metadata,
            _INFERENCE + "ModelReady": Answerer._model_ready,
            _INFERENCE + "ModelMetadata": Answerer._model_metadata,
            _INFERENCE + "ModelConfig": Answerer._model_config,
            _INFERENCE + "ModelStatistics": Answerer._model_statistics,
            _INFERENCE + "RepositoryIndex": Answerer._repository_index,
            _INFERENCE + "RepositoryModelLoad": Answerer._model_load,
            _INFERENCE + "RepositoryModelUnload": Answerer._model_unload,
            _INFERENCE + "TraceSetting": Answerer._trace_setting,
            _INFERENCE + "LogSettings": Answerer._log_settings,
            _INFERENCE + "SystemSharedMemoryStatus": Answerer._shm_status,
            _INFERENCE + "SystemSharedMemoryRegister": Answerer._shm_register,
            _INFERENCE + "SystemSharedMemoryUnregister": Answerer._shm_unregister,
            _INFERENCE + "CudaSharedMemoryStatus": Answerer._cuda_shm_status,
            _INFERENCE + "CudaSharedMemoryRegister": Answerer._cuda_shm_register,
            _INFERENCE + "CudaSharedMemoryUnregister": Answerer._cuda_shm_unregister,
            f"/{_proto.HEALTH_SERVICE}/Check": Answerer._health_check,
        }
        self._streams: dict[str, Callable[[Answerer, Stream], Awaitable[None]]] = {
            _WATCH: Answerer._health_watch,
            **dict.fromkeys(_REFLECTION, Answerer._reflect),
        }

    @property
    def methods(self) -> list[str]:
        """The paths of the unary calls that it answers."""
        return list(self._handlers)

    @property
    def streams(self) -> list[str]:
        """The paths of the calls of many messages that it answers."""
        return list(self._streams)

    async def answer(self, path: str, message: bytes) -> bytes:
        """The serialised response. HeadraceError is a status for the caller; anything else is a fault of ours."""
        request = _parsed(path, message)
        response: bytes = (await self._handlers[path](self, request)).SerializeToString()
        return response

    async def converse(self, stream: Stream) -> None:
        """Answers a call of many messages; OK when it returns. Errors as answer."""
        await self._streams[stream.path](self, stream)

    # --- The server

    async def _server_live(self, _request: Any) -> Any:
        return _proto.ServerLiveResponse(live=self._service.live)

    async def _server_ready(self, _request: Any) -> Any:
        return _proto.ServerReadyResponse(ready=self._service.ready)

    async def _server_metadata(self, _request: Any) -> Any:
        about = self._service.server_metadata()
        return _proto.ServerMetadataResponse(name=about.name, version=about.version, extensions=about.extensions)

    # --- Shared memory of clients

    async def _shm_status(self, request: Any) -> Any:
        response = _proto.SystemSharedMemoryStatusResponse()
        for name, key, offset, byte_size in self._service.shared_memory(request.name):
            region = response.regions[name]
            region.name, region.key, region.offset, region.byte_size = name, key, offset, byte_size
        return response

    async def _shm_register(self, request: Any) -> Any:
        self._service.register_shared_memory(request.name, request.key, request.offset, request.byte_size)
        return _proto.SystemSharedMemoryRegisterResponse()

    async def _shm_unregister(self, request: Any) -> Any:
        self._service.unregister_shared_memory(request.name)
        return _proto.SystemSharedMemoryUnregisterResponse()

    async def _cuda_shm_status(self, request: Any) -> Any:
        self._service.cuda_shared_memory(request.name)
        return _proto.CudaSharedMemoryStatusResponse()

    async def _cuda_shm_register(self, request: Any) -> Any:
        self._service.register_cuda_shared_memory(request.name)
        return _proto.CudaSharedMemoryRegisterResponse()

    async def _cuda_shm_unregister(self, _request: Any) -> Any:
        return _proto.CudaSharedMemoryUnregisterResponse()  # there are none, so they are as gone as can be

    async def _health_check(self, request: Any) -> Any:
        status = _proto.HealthCheckResponse
        serving = self._service.health(request.service)
        return status(status=status.SERVING if serving else status.NOT_SERVING)

    async def _health_watch(self, stream: Stream) -> None:
        request = await stream.next()
        if request is None:
            raise InvalidArgument(f"the call of {stream.path} ended without a request message")
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def note() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(changed.set)

        told = None
        with self._service.watching(note):
            while True:
                changed.clear()
                now = self._health_status(request.service)
                if now != told:
                    told = now
                    await stream.send(_proto.HealthCheckResponse(status=now))
                await changed.wait()

    def _health_status(self, service: str) -> int:
        status = _proto.HealthCheckResponse
        try:
            return int(status.SERVING if self._service.health(service) else status.NOT_SERVING)
        except NotFound:
            return int(status.SERVICE_UNKNOWN)

    async def _reflect(self, stream: Stream) -> None:
        response = _proto.METHODS[stream.path].response
        while (request := await stream.next()) is not None:
            await stream.send(reflection.answer(request, response))

    # --- Models

    async def _model_ready(self, request: Any) -> Any:
        return _proto.ModelReadyResponse(ready=self._service.model_ready(request.name, request.version))

    async def _model_metadata(self, request: Any) -> Any:
        about = self._service.model_metadata(request.name, request.version)
        response = _proto.ModelMetadataResponse(
            name=about.name, versions=about.versions, platform=about.platform, properties=about.properties
        )
        for tensors, field in ((about.inputs, response.inputs), (about.outputs, response.outputs)):
            for tensor in tensors:
                field.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        return response

    async def _model_config(self, request: Any) -> Any:
        return _proto.ModelConfigResponse(config=self._service.model_config(request.name, request.version))

    async def _model_statistics(self, request: Any) -> Any:
        return _proto.ModelStatisticsResponse(model_stats=self._service.model_statistics(request.name, request.version))

    # --- The repository

    async def _repository_index(self, request: Any) -> Any:
        rows = await self._service.repository_index(ready=request.ready, repository=request.repository_name)
        index = [{"name": row.name, "version": row.version, "state": row.state, "reason": row.reason} for row in rows]
        return _proto.RepositoryIndexResponse(models=index)

    async def _model_load(self, request: Any) -> Any:
        await self._service.load_model(
            request.model_name, _parameters(request.parameters), repository=request.repository_name
        )
        return _proto.RepositoryModelLoadResponse()

    async def _model_unload(self, request: Any) -> Any:
        await self._service.unload_model(
            request.model_name, _parameters(request.parameters), repository=request.repository_name
        )
        return _proto.RepositoryModelUnloadResponse()

    # --- Settings

    async def _trace_setting(self, request: Any) -> Any:
        changes = {key: list(value.value) for key, value in request.settings.items()}
        now = self._service.update_trace_settings(request.model_name, changes)
        return _proto.TraceSettingResponse(settings={key: {"value": value} for key, value in now.items()})

    async def _log_settings(self, request: Any) -> Any:
        now = self._service.update_log_settings({key: _choice(value) for key, value in request.settings.items()})
        response = _proto.LogSettingsResponse()
        for key, value in now.items():
            field = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
            setattr(response.settings[key], field, value)
        return response


def _choice(value: Any) -> Any:
    """What a message of one `parameter_choice` holds, None for none."""
    choice = value.WhichOneof("parameter_choice")
    return None if choice is None else getattr(value, choice)


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _choice(value) for key, value in parameters.items()}
