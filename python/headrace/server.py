"""The composition root: start, drain and stop, read from the top down. `Server` is also the in-process API.

`Instance` is the server on the running loop (loop 0); `Server` runs one in a thread, so that a blocking client in the
caller's thread works; `serve` runs one in the main thread until a signal.
"""

import asyncio
import contextlib
import ctypes
import dataclasses
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import uvloop

from headrace.config import Config, resolve
from headrace.engine import Engine, LoopPort, TraceSampler, tensor_text, version
from headrace.errors import StartError
from headrace.grpc_calls import Answerer
from headrace.grpc_server import GrpcProtocol, MeasuredProtocol
from headrace.http_gateway import Gateway, Route
from headrace.http_measured import MeasuredHttpProtocol
from headrace.http_protocol import HttpProtocol
from headrace.listener import Doors, Listener, Seat
from headrace.log_settings import LogSettings
from headrace.providers import device_of
from headrace.repository import Repository
from headrace.router import ModelVersion, Router
from headrace.service import Service
from headrace.tracing import Trace, Tracer

if TYPE_CHECKING:
    from headrace.engine import TraceRow

__all__ = ["Instance", "ServedModel", "Server", "check", "headrace_version", "serve"]

log = logging.getLogger("headrace.server")
T = TypeVar("T")

headrace_version = version
_GIVE_BACK_SECONDS = 5.0  # what is given back was not needed for so long at least, and twice that at most
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """One version for people to read: what serves it, or `reason` why nothing does."""

    name: str
    version: str
    backend: str
    device: str
    batching: str
    reason: str

    @classmethod
    def of(cls, found: ModelVersion) -> "ServedModel":
        """From the router's row."""
        if found.model is None:
            return cls(found.name, found.version_text or "-", "", "", "", found.reason)
        device = device_of(found.model.provider)
        return cls(found.name, found.version_text, found.model.backend, device, found.model.batching_reason, "")


class IoThread:
    """An event loop in a thread of its own."""

    def __init__(self, name: str) -> None:
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the loop and waits for it, from another thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def stop(self) -> None:
        """Ends the loop and the thread. Idempotent."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just closed
                self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()


async def _give_back(engine: Engine) -> None:
    while True:
        await asyncio.sleep(_GIVE_BACK_SECONDS)
        engine.give_back()


# Not a method: that would make a ring that only the garbage collector ends, and the engine's memory with it.
def _hand_on(tracer: Tracer[TraceSampler], rows: "list[TraceRow]", dropped: int) -> None:
    tracer.put([Trace(*row) for row in rows], dropped)


class Instance:
    """One server, on the loop that runs `start`: loop 0."""

    def __init__(self, config: Config) -> None:
        """Starts the core's threads; nothing listens yet. StartError when the core refuses."""
        self.config = config
        self.engine = Engine(config)
        self.router = Router(self.engine.publish)
        self.repository = Repository(self.engine, self.router, config)
        self.tracer = Tracer(config, TraceSampler, self.engine.trace, tensor_text)
        self.log_settings = LogSettings(config)
        self.service = Service(
            self.engine,
            self.router,
            config,
            version(),
            repository=self.repository,
            tracer=self.tracer,
            log_settings=self.log_settings,
        )
        self.grpc_port = 0
        self.http_port = 0
        self._threads: list[IoThread] = []
        self._seats: list[Seat] = []
        self._listener: Listener | None = None
        self._giving_back: asyncio.Task[None] | None = None

    @property
    def models(self) -> list[ServedModel]:
        """What is served, and what is not and why."""
        return [ServedModel.of(found) for found in self.router.versions]

    async def start(self) -> None:
        """Listens, loads every model, and then is ready. Live, and not ready, while models load. StartError: a port
        that is taken, no repository, no runtime, no model that can be served."""
        try:
            answerer = Answerer(self.service, asyncio.get_running_loop())
            await self._open_seats(answerer)
            self._listen(answerer)
            await self.repository.load_initial()
            self.repository.require_served()
        except BaseException:
            await self.abandon()
            raise
        self.service.started = True
        self._giving_back = asyncio.create_task(_give_back(self.engine))

    async def _open_seats(self, answerer: Answerer) -> None:
        async def seat() -> Seat:
            loop = asyncio.get_running_loop()
            port = LoopPort(
                self.engine,
                loop,
                methods=answerer.methods,
                streams=answerer.streams,
                on_traces=partial(_hand_on, self.tracer),
            )
            return Seat(loop, port)

        self._seats.append(await seat())
        for number in range(1, self.config.io_threads):
            thread = IoThread(f"headrace-io-{number}")
            self._threads.append(thread)
            made = asyncio.run_coroutine_threadsafe(seat(), thread.loop)
            self._seats.append(await asyncio.wrap_future(made))

    def _listen(self, answerer: Answerer) -> None:
        kind = MeasuredProtocol if self.config.measure_steps else GrpcProtocol

        def grpc(seat: Seat, peer: str, refused: bool) -> GrpcProtocol:
            return kind(seat.port, answerer, peer, seat.gone, refused=refused)

        gateway, http_kind = Gateway(self.service, self.config, answerer), HttpProtocol
        if self.config.measure_steps:
            http_kind = MeasuredHttpProtocol
        routes: dict[Seat, dict[bytes, Route]] = {seat: {} for seat in self._seats}

        def http(seat: Seat, peer: str, refused: bool) -> HttpProtocol:
            return http_kind(seat.port, gateway, routes[seat], peer, seat.gone, refused=refused)

        # Both ports speak both: a connection's first bytes say which. One port may do for all.
        self._listener = Listener(self.config, self._seats)
        self.grpc_port = self._listener.open(self.config.grpc_port, Doors(grpc, http, grpc), "gRPC", "--grpc-port")
        if self.config.http_port and self.config.http_port == self.grpc_port:
            self.http_port = self.grpc_port
        else:
            self.http_port = self._listener.open(self.config.http_port, Doors(grpc, http, http), "HTTP", "--http-port")
        self._listener.start()

    async def stop(self) -> bool:
        """Drains and closes: not ready at once, serving on for --drain-delay, then GOAWAY and no new connections, then
        up to --drain-seconds for what is in flight. False when calls had to be ended with UNAVAILABLE."""
        self._begin_drain()
        if self.config.drain_delay:
            log.info("not ready any more; serving on for %g s", self.config.drain_delay)
            await asyncio.sleep(self.config.drain_delay)
        if self._listener is not None:
            self._listener.close()
        log.info("draining: no new connections, up to %g s for what is in flight", self.config.drain_seconds)
        aborted = sum(await asyncio.gather(*(s.call(s.drain(self.config.drain_seconds)) for s in self._seats)))
        if aborted:
            log.warning("%d call(s) did not end in %g s and got UNAVAILABLE", aborted, self.config.drain_seconds)
        await self._close()
        self._say_pool()
        return aborted == 0

    async def abandon(self) -> None:
        """Closes what has been opened so far, without a drain."""
        self._begin_drain()
        if self._listener is not None:
            self._listener.close()
        await asyncio.gather(*(seat.call(seat.drain(0.0)) for seat in self._seats))
        await self._close()

    def _begin_drain(self) -> None:
        self.service.draining = True
        for seat in self._seats:
            seat.port.begin_drain()

    async def _close(self) -> None:
        if self._giving_back is not None:
            self._giving_back.cancel()
        # The engine first: it answers what is queued and stops what runs, so that the loops have nothing to wait for.
        await asyncio.to_thread(self.engine.close)
        await self.repository.close()
        for seat in self._seats:
            await seat.call(seat.close())
        for thread in self._threads:
            await asyncio.to_thread(thread.stop)
        await asyncio.to_thread(self.tracer.close)
        self.log_settings.close()
        self.service.close()

    def _say_pool(self) -> None:
        pool = self.engine.snapshot()["pool"]
        log.info(
            "memory pool at the end: %d bytes in %d blocks in use, peak %d bytes, cap %d; %d allocations, %d of them "
            "reused, %d refused",
            pool["bytes_in_use"],
            pool["blocks_in_use"],
            pool["bytes_in_use_peak"],
            pool["cap"],
            pool["allocations"],
            pool["reuses"],
            pool["refusals"],
        )


class Server:
    """A server in this process: `with headrace.Server(model_repository="models", grpc_port=0) as server: ...`

    Options are those of the command, by name. The loops run in threads of their own. Start-up errors are
    `errors.StartError`, wrong options its subclass `config.ConfigError`.
    """

    def __init__(self, model_repository: str | os.PathLike[str], **options: Any) -> None:
        """Reads the options; nothing runs before `start` or `with`. The environment is not read."""
        flags = {"model_repository": os.fspath(model_repository), **options}
        self.config = resolve(flags, flag_source=lambda option: f"argument {option.name}")
        self._thread: IoThread | None = None
        self._instance: Instance | None = None

    def start(self) -> Self:
        """Listens and loads; returns when the server is ready."""
        if self._thread is not None:
            raise StartError("This server runs already.")
        instance = Instance(self.config)
        self._thread = IoThread("headrace-loop")
        try:
            self._thread.run(instance.start())
        except BaseException:
            self._thread.stop()
            self._thread = None
            raise
        self._instance = instance
        return self

    def stop(self) -> bool:
        """Drains and ends. False when calls had to be ended with UNAVAILABLE. Idempotent."""
        thread, instance = self._thread, self._instance
        self._thread = self._instance = None
        if thread is None or instance is None:
            return True
        try:
            return thread.run(instance.stop())
        finally:
            thread.stop()

    @property
    def _running(self) -> Instance:
        if self._instance is None:
            raise StartError("This server does not run: start it, or use it in a `with` block.")
        return self._instance

    @property
    def grpc_port(self) -> int:
        """The port that gRPC listens on."""
        return self._running.grpc_port

    @property
    def http_port(self) -> int:
        """The port that HTTP listens on."""
        return self._running.http_port

    @property
    def ready(self) -> bool:
        """As the protocol's ServerReady."""
        return self._instance is not None and self._instance.service.ready

    @property
    def models(self) -> list[ServedModel]:
        """What is served, and what is not and why."""
        return self._running.models

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)


def serve(config: Config, started: Callable[[Instance], None]) -> int:
    """Serves in the main thread until SIGTERM or SIGINT; a second signal ends the process at once. Returns the exit
    code: 0, or 1 when calls had to be ended. `started` is called once all models are loaded. StartError as `start`."""
    sys.setswitchinterval(0.0005)  # one busy Python thread else delays a wake-up of the loop by 5 ms
    _raise_descriptor_limit()
    _bound_free_heap()
    with _own_loop() as loop:
        return loop.run_until_complete(_serve(config, started))


async def _serve(config: Config, started: Callable[[Instance], None]) -> int:
    asked = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if asked.is_set():
            print(f"headrace: second signal ({number.name}), ending at once", file=sys.stderr, flush=True)
            os._exit(1)
        log.info("%s: shutting down; a second signal ends the process at once", number.name)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    instance = Instance(config)
    waiting = asyncio.create_task(asked.wait())
    start = asyncio.create_task(instance.start())
    await asyncio.wait({waiting, start}, return_when=asyncio.FIRST_COMPLETED)
    if not start.done():  # a signal while models load
        start.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await start
        return 0
    try:
        await start
    except StartError:
        asked.set()
        await waiting
        raise
    gc.collect()
    gc.freeze()  # what start-up made stays: no need to walk it again and again
    started(instance)
    await waiting
    return 0 if await instance.stop() else 1


def check(config: Config) -> list[ServedModel]:
    """Loads every model without a socket, and says what would be served and what would not. StartError: no repository,
    or nothing in it."""

    async def look() -> list[ServedModel]:
        engine = Engine(config)
        try:
            router = Router(engine.publish)
            await Repository(engine, router, config).load_all()
            return [ServedModel.of(found) for found in router.versions]
        finally:
            await asyncio.to_thread(engine.close)

    with _own_loop() as loop:
        return loop.run_until_complete(look())


@contextlib.contextmanager
def _own_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        asyncio.set_event_loop(None)
        loop.close()


def _bound_free_heap() -> None:
    """glibc learns to keep up to 64 MiB free at the top of each thread's heap, and trimming does not reach all of them:
    what a model that was unloaded had would stay. 1 MiB is more than a request leaves behind. Only for a process of
    our own; no effect on another libc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            mallopt(parameter, 1 << 20)


def _raise_descriptor_limit() -> None:
    """The soft limit is often 1,024, far under --max-connections; the hard one is ours to use."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
