"""gRPC on asyncio: the protocol that glues a transport to the core's connection, and the calls that Python answers.

A ModelInfer never comes up here: `buffer_updated` hands the bytes to the core and writes what it gives back. The other
calls are tasks on loop 0; a connection of another loop hands over to it and takes the reply back on its own loop.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from google.protobuf.message import DecodeError

from headrace import _proto
from headrace.engine import HAS_CALLS, HAS_CANCELLED, HAS_OUTPUT, WANTS_CLOSE, LoopPort
from headrace.errors import HeadraceError, InvalidArgument
from headrace.service import EXTENSIONS, Service

__all__ = ["Answerer", "GrpcProtocol", "MeasuredProtocol"]

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("headrace.grpc")

_LINGER_SECONDS = 2.0  # after our last byte, this long for the peer to close its side
_INTERNAL = 13
_UNAVAILABLE = 14

Handler = Callable[["Answerer", Any], Awaitable[Any]]


class Answerer:
    """Protobuf in, protobuf out, for each call that Python answers. Its coroutines run on the loop `home`."""

    def __init__(self, service: Service, home: asyncio.AbstractEventLoop) -> None:
        self.home = home
        self._service = service
        inference = f"/{_proto.INFERENCE_SERVICE}/"
        # Functions, not bound methods: those would make a ring that only the garbage collector ends, and the engine's
        # memory with it.
        self._handlers: dict[str, Handler] = {
            inference + "ServerLive": Answerer._server_live,
            inference + "ServerReady": Answerer._server_ready,
            inference + "ServerMetadata": Answerer._server_metadata,
            inference + "ModelReady": Answerer._model_ready,
            inference + "ModelMetadata": Answerer._model_metadata,
            inference + "ModelConfig": Answerer._model_config,
            inference + "ModelStatistics": Answerer._model_statistics,
            f"/{_proto.HEALTH_SERVICE}/Check": Answerer._health_check,
        }
        self._requests = {path: _proto.METHODS[path].request for path in self._handlers}

    @property
    def methods(self) -> list[str]:
        """The paths that it answers."""
        return list(self._handlers)

    async def answer(self, path: str, message: bytes | None) -> bytes:
        """The serialised response. HeadraceError is a status for the caller; anything else is a fault of ours."""
        if message is None:
            raise InvalidArgument(f"the call of {path} ended without a request message")
        request = self._requests[path]()
        try:
            request.ParseFromString(message)
        except DecodeError:
            raise InvalidArgument(f"the request of {path} is not a valid {request.DESCRIPTOR.full_name}") from None
        response: bytes = (await self._handlers[path](self, request)).SerializeToString()
        return response

    async def _server_live(self, _request: Any) -> Any:
        return _proto.ServerLiveResponse(live=self._service.live)

    async def _server_ready(self, _request: Any) -> Any:
        return _proto.ServerReadyResponse(ready=self._service.ready)

    async def _server_metadata(self, _request: Any) -> Any:
        return _proto.ServerMetadataResponse(name="headrace", version=self._service.version, extensions=EXTENSIONS)

    async def _model_ready(self, request: Any) -> Any:
        return _proto.ModelReadyResponse(ready=self._service.model_ready(request.name, request.version))

    async def _model_metadata(self, request: Any) -> Any:
        about = self._service.model_metadata(request.name, request.version)
        response = _proto.ModelMetadataResponse(name=about.name, versions=about.versions, platform=about.platform)
        for tensors, field in ((about.inputs, response.inputs), (about.outputs, response.outputs)):
            for tensor in tensors:
                field.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        return response

    async def _model_config(self, request: Any) -> Any:
        return _proto.ModelConfigResponse(config=self._service.model_config(request.name, request.version))

    async def _model_statistics(self, request: Any) -> Any:
        response = _proto.ModelStatisticsResponse()
        for stats in self._service.model_statistics(request.name, request.version):
            # To a caller these are all failures; the core tells them apart.
            fail = {key: stats["fail"][key] + stats["cancel"][key] + stats["reject"][key] for key in ("count", "ns")}
            stages = {stage: stats[stage] for stage in ("compute_input", "compute_infer", "compute_output")}
            response.model_stats.add(
                name=stats["name"],
                version=str(stats["version"]),
                last_inference=stats["last_inference_ms"],
                inference_count=stats["inference_count"],
                execution_count=stats["execution_count"],
                inference_stats={"success": stats["success"], "fail": fail, "queue": stats["queue"], **stages},
                batch_stats=stats["batch_stats"],
            )
        return response

    async def _health_check(self, request: Any) -> Any:
        status = _proto.HealthCheckResponse
        serving = self._service.health(request.service)
        return status(status=status.SERVING if serving else status.NOT_SERVING)


class GrpcProtocol(asyncio.BufferedProtocol):
    """One connection. uvloop asks a protocol for `get_buffer` once, so the core's is there from the start."""

    def __init__(
        self,
        port: LoopPort,
        answerer: Answerer,
        peer: str,
        on_close: Callable[["GrpcProtocol"], None],
        *,
        refused: bool = False,
    ) -> None:
        """`refused`: there are too many connections, so this one gets a GOAWAY and no calls."""
        self._port = port
        self._answerer = answerer
        self._on_close = on_close
        self._refused = refused
        self._token, connection = port.connect(self, peer)
        self._connection = connection
        self.get_buffer = connection.get_buffer  # type: ignore[method-assign, assignment]
        self._receive = connection.receive
        self._take_output = connection.take_output
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._paused_at = 0.0  # the loop's time
        self._lost = False
        self._ended = False  # our side is shut down, behind all that was written
        self._eof = False  # the peer has shut its side down
        self._linger: asyncio.TimerHandle | None = None
        self._calls: dict[int, asyncio.Future[bytes] | concurrent.futures.Future[bytes]] = {}

    # --- The transport's side: as few operations for each read as can be.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a socket: it reads and writes
        self._write()  # our SETTINGS need not wait for the peer's
        if self._refused:
            self.shutdown_notice()
            self.shutdown_final()

    def buffer_updated(self, nbytes: int) -> None:
        bits = self._receive(nbytes)
        if bits:
            self.act(bits)

    def eof_received(self) -> bool:
        self._eof = True
        if self._ended:
            return False
        self.act(self._connection.receive_eof())
        return True  # we close when the core wants it: calls that are open are answered first

    def pause_writing(self) -> None:
        self._paused = True
        self._paused_at = self._port.loop.time()
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._paused = False
        self.act(self._connection.resume_writing())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        if self._linger is not None:
            self._linger.cancel()
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()
        self._port.disconnect(self._token)
        self._connection.lost()
        self._on_close(self)

    # --- The core's side.

    def act(self, bits: int) -> None:
        """Does what the core asks for. Called after each read, and by the loop's port."""
        if self._lost:
            return
        if bits & HAS_OUTPUT and self._write():
            bits |= WANTS_CLOSE
        if bits & HAS_CALLS:
            for call_id, path, _metadata, message in self._connection.take_calls():
                self._start(call_id, path, message)
            self._port.arm()  # a call may have brought a deadline
        if bits & HAS_CANCELLED:
            for call_id in self._connection.take_cancelled():
                gone = self._calls.pop(call_id, None)
                if gone is not None:
                    gone.cancel()
        if bits & WANTS_CLOSE:
            self._close()

    def _write(self) -> bool:
        """True when the last that there will be is written, and the connection is to be closed."""
        transport = self._transport
        if transport is None:
            return False
        while not self._paused:
            chunks = self._take_output()
            if not chunks:
                return chunks is None
            if len(chunks) == 1:
                transport.write(chunks[0])
            else:
                transport.writelines(chunks)
        return False

    def _close(self) -> None:
        """Shuts our side down behind what is written, and waits for the peer's: a close with bytes unread would make
        the kernel reset the connection, and the peer would lose the last answers."""
        if self._ended or self._transport is None:
            return
        self._receive = self._drop
        if self._linger is not None:
            self._linger.cancel()
        if self._paused:
            # resume_writing brings the same bits again. A peer that reads nothing is cut off.
            waited = self._port.loop.time() - self._paused_at
            self._linger = self._port.loop.call_later(max(0.0, self._port.write_stall_seconds - waited), self.abort)
            return
        self._ended = True
        self._await_eof(self._transport.get_write_buffer_size())
        if not self._eof and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()  # once what is written has left

    def _await_eof(self, waiting: int) -> None:
        seconds = self._port.write_stall_seconds if waiting else _LINGER_SECONDS
        self._linger = self._port.loop.call_later(seconds, self._end_linger, waiting)

    def _end_linger(self, before: int) -> None:
        waiting = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if waiting < before:  # it reads, if slowly
            self._await_eof(waiting)
        else:
            self.abort()

    @staticmethod
    def _drop(_nbytes: int, /) -> int:
        return 0

    # --- The server's side: shutting down.

    @property
    def open_calls(self) -> int:
        """Calls that are not answered yet."""
        return 0 if self._lost else self._connection.open_calls

    def shutdown_notice(self) -> None:
        """Tells the peer to open no more calls; those on their way are still served."""
        if not self._lost:
            self.act(self._connection.shutdown_notice())

    def shutdown_final(self) -> None:
        """No call that comes from now on is served; the connection ends behind the last answer."""
        if not self._lost:
            self.act(self._connection.shutdown_final())

    def abort_calls(self, message: str) -> None:
        """Answers every open call UNAVAILABLE."""
        if not self._lost:
            self.act(self._connection.abort_calls(_UNAVAILABLE, message))

    def abort(self) -> None:
        """Closes at once, whatever is still to be written."""
        if self._transport is not None:
            self._transport.abort()

    # --- Calls that Python answers.

    def _start(self, call_id: int, path: str, message: bytes | None) -> None:
        loop, home = self._port.loop, self._answerer.home
        answer = self._answerer.answer(path, message)
        call: asyncio.Future[bytes] | concurrent.futures.Future[bytes]
        if home is loop:
            call = task = loop.create_task(answer)
            task.add_done_callback(lambda done: self._answered(call_id, path, done))
        else:
            call = remote = asyncio.run_coroutine_threadsafe(answer, home)
            remote.add_done_callback(lambda done: self._hand_back(call_id, path, done))
        self._calls[call_id] = call

    def _hand_back(self, call_id: int, path: str, done: "concurrent.futures.Future[bytes]") -> None:
        with contextlib.suppress(RuntimeError):  # our loop is closed, and its connections with it
            self._port.loop.call_soon_threadsafe(self._answered, call_id, path, done)

    def _answered(
        self, call_id: int, path: str, done: "asyncio.Future[bytes] | concurrent.futures.Future[bytes]"
    ) -> None:
        error = None if done.cancelled() else done.exception()
        if self._calls.pop(call_id, None) is None:
            return  # the caller has gone, or the connection
        if done.cancelled():
            bits = self._connection.fail(call_id, _UNAVAILABLE, "the server is shutting down", [])
        elif error is None:
            bits = self._connection.reply(call_id, done.result())
        elif isinstance(error, HeadraceError):
            bits = self._connection.fail(call_id, error.code, error.message, [])
        else:
            log.error("%s failed", path, exc_info=error)
            bits = self._connection.fail(call_id, _INTERNAL, f"{path} failed inside the server; its log says more", [])
        self.act(bits)


class MeasuredProtocol(GrpcProtocol):
    """The same with its callbacks measured, for --measure-steps."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._run("connect", super().connection_made, transport)

    def buffer_updated(self, nbytes: int) -> None:
        self._run("read", super().buffer_updated, nbytes)

    def eof_received(self) -> bool:
        return self._run("eof", super().eof_received)

    def resume_writing(self) -> None:
        self._run("resume", super().resume_writing)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run("lost", super().connection_lost, exc)

    def _run(self, kind: str, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        steps = self._port.steps
        return step(*args, **kwargs) if steps is None else steps.run(kind, step, *args, **kwargs)
