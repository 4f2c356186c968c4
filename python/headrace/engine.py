"""The asyncio face of the native core, and the only importer of `_core`: models, memory, and one `LoopPort` a loop.

Errors of the core come out as `errors.HeadraceError`. Loading and unloading run in a bounded pool of threads.
"""

import asyncio
import contextlib
import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

from headrace import _core
from headrace._core import (
    CALL,
    END,
    HAS_CALLS,
    HAS_CANCELLED,
    HAS_OUTPUT,
    HAS_UNREAD,
    MESSAGE,
    OPEN,
    READ_ON,
    WANTS_CLOSE,
    Connection,
    CoreError,
    HttpConnection,
    Model,
    TraceSampler,
    tensor_text,
)
from headrace.access_line import access_line
from headrace.config import Config
from headrace.counters import BatchStats, DurationStats, ModelStats, ResponseStats, Snapshot
from headrace.errors import StartError, from_code
from headrace.header_pattern import header_matcher
from headrace.resources import resource_limits
from headrace.schedule import BatchingOptions, LevelQueueOptions, Schedule
from headrace.sessions import SessionOptions
from headrace.sizes import memory_budgets
from headrace.steps import Steps

if TYPE_CHECKING:  # these are of the stub only
    from headrace._core import (
        Call,
        HttpAnswer,
        Limits,
        TraceRow,
        WarmupInput,
        WarmupOptions,
    )

__all__ = [
    "CALL",
    "END",
    "HAS_CALLS",
    "HAS_CANCELLED",
    "HAS_OUTPUT",
    "HAS_UNREAD",
    "MESSAGE",
    "OPEN",
    "READ_ON",
    "WANTS_CLOSE",
    "BatchStats",
    "BatchingOptions",
    "Call",
    "Connection",
    "Door",
    "DurationStats",
    "Engine",
    "HttpAnswer",
    "HttpConnection",
    "LevelQueueOptions",
    "LoopPort",
    "Model",
    "ModelStats",
    "ResponseStats",
    "Schedule",
    "Snapshot",
    "TraceRow",
    "TraceSampler",
    "WarmupInput",
    "WarmupOptions",
    "find_onnxruntime",
    "limits_of",
    "tensor_text",
    "version",
]

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("headrace.engine")
_runtime_log = logging.getLogger("headrace.runtime")
_access_log = logging.getLogger("headrace.access")
_LEVELS = (logging.DEBUG, logging.DEBUG, logging.WARNING, logging.ERROR, logging.CRITICAL)  # a runtime's info is chatty
# A run that was told to stop because its callers have gone: no fault, and theirs to bring about as often as they like.
_STOPPED = "terminate flag being set to true"
_LONGEST_TICK = 1.0  # seconds between looks at the timers of connections that nobody told us about
_SHORTEST_WAIT = 0.001
_LINES_PER_STEP, _TRACES_PER_STEP = 32, 256  # formatting and writing a line of a log takes 40 to 80 us
_SETTLE_SECONDS = 0.002  # between looks whether large requests have been decoded


def version() -> str:
    """The version of Headrace, as the core was built with it."""
    return _core.version()


def find_onnxruntime() -> str:
    """Path of libonnxruntime.so in the installed `onnxruntime` package, which is not imported; "" if there is none."""
    try:
        spec = importlib.util.find_spec("onnxruntime")
    except (ImportError, ValueError):
        return ""
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = sorted(Path(folder, "capi").glob("libonnxruntime.so*"))
        if found:
            return str(found[-1])
    return ""


def limits_of(config: Config) -> "Limits":
    """The core's limits out of the configuration."""
    return {
        "max_message_bytes": config.max_request_bytes,
        "max_header_bytes": config.max_header_bytes,
        "max_concurrent_streams": config.max_concurrent_streams,
        "connection_inflight_bytes": config.connection_inflight_bytes,
        "process_inflight_bytes": config.process_inflight_bytes,
        "max_output_bytes": config.max_output_bytes,
        "max_tensors": config.max_tensors,
        "max_name_bytes": config.max_name_bytes,
        "max_dims": config.max_dims,
        "max_parameters": config.max_parameters,
        "write_stall_seconds": config.write_stall_seconds,
        "message_stall_seconds": config.message_stall_seconds,
        "message_whole_seconds": config.message_whole_seconds,
        "idle_seconds": config.idle_seconds,
        "pool_bytes": config.pool_bytes,
        "pool_retain_bytes": config.pool_retain_bytes,
        "max_shared_regions": config.max_shm_regions if config.allow_client_shm else 0,
    }


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except CoreError as error:
        raise from_code(error.code, error.message) from None


class Engine:
    """All models, lanes and memory of one server."""

    def __init__(self, config: Config) -> None:
        """Starts the lanes. StartError when the core refuses its limits."""
        self.config = config
        self.onnxruntime_library = find_onnxruntime()
        # Its wheels else keep a database of what was run in ~/.cache and send it to their maker, from a thread of their
        # own. The C API can only stop the events, once that has begun.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            self.core = _core.Engine(
                limits=limits_of(config),
                lanes=config.lanes,
                cores=config.host_limits.cores,
                model_memory=memory_budgets(config.model_memory_budget)["cpu"],
                load_threads=config.model_load_thread_count,
                onnxruntime_library=self.onnxruntime_library,
                learn=config.scheduler_learning == "on",
                resources=resource_limits(config.rate_limit_resource),
            )
        except CoreError as error:
            raise StartError(error.message) from None
        # Apart, so that unloads that wait for long runs keep no model from being loaded.
        self._loads = ThreadPoolExecutor(config.model_load_thread_count, "headrace-load")
        self._unloads = ThreadPoolExecutor(config.model_load_thread_count, "headrace-unload")
        self._ports: list[LoopPort] = []
        self._rows: list[tuple[str, str, Model | str]] = []
        self._samplers: dict[str, TraceSampler | None] = {}

    def backend_version(self, backend: str) -> str:
        """The runtime's own version. FailedPrecondition names the package when it is not installed."""
        with _translated():
            return self.core.backend_version(backend)

    async def load(
        self,
        *,
        name: str,
        version: int,
        backend: str,
        model_file: Path,
        model_dir: Path,
        session: SessionOptions,
        batching: BatchingOptions,
        labels: Mapping[str, Sequence[str]],
        warmup: "WarmupOptions",
    ) -> Model:
        """Loads one version and warms it up; raises with the runtime's words if it cannot be served. `labels`: of
        classes, by output."""
        call = partial(
            self.core.load,
            name=name,
            version=version,
            backend=backend,
            model_file=str(model_file),
            model_dir=str(model_dir),
            session=session,
            batching=batching,
            labels=labels,
            warmup=warmup,
        )
        try:
            with _translated():
                return await asyncio.get_running_loop().run_in_executor(self._loads, call)
        finally:
            self.log_runtime_lines()

    async def unload(self, model: Model, *, finish: bool = False) -> None:
        """Ends what waits for it with UNAVAILABLE, waits for what runs, and frees it. With `finish` what waits is
        served first: publish a catalog without it before, and `settle`."""
        call = partial(self.core.unload, model, finish=finish)
        with _translated():
            await asyncio.get_running_loop().run_in_executor(self._unloads, call)
        self.log_runtime_lines()

    async def settle(self) -> None:
        """Waits until no loop will submit a request by an older catalog than the published one: each has finished its
        step, and what it was decoding."""
        for port in list(self._ports):
            while not await port.settled():  # noqa: ASYNC110 (nobody tells when a decoding job has ended)
                await asyncio.sleep(_SETTLE_SECONDS)

    def attach(self, port: "LoopPort") -> None:
        """A loop is there to be waited for."""
        self._ports.append(port)

    def detach(self, port: "LoopPort") -> None:
        """It is closed."""
        self._ports.remove(port)

    def give_back(self) -> None:
        """To be called every few seconds: memory that is kept and was not needed since the last call goes back to the
        system, and whatever is free once no request came in between. Returns at once; a thread of the core does it."""
        self.core.give_back()

    def publish(self, rows: Iterable[tuple[str, str, Model | str]]) -> None:
        """Makes (name, version text, model or the reason why there is none) what requests are routed by."""
        self._rows = list(rows)
        catalog = _core.Catalog()
        for model, sampler in self._samplers.items():
            catalog.trace(model, sampler)
        for name, version_text, target in self._rows:
            if isinstance(target, str):
                catalog.add_unavailable(name, version_text, target)
            else:
                catalog.add(name, version_text, target)
        self.core.publish(catalog)

    def trace(self, samplers: Mapping[str, TraceSampler | None]) -> None:
        """From now on requests are traced so: model -> sampler or None, "" for all models that are not named."""
        self._samplers = dict(samplers) if any(samplers.values()) else {}
        self.publish(self._rows)

    def register_shared_memory(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Makes `byte_size` bytes from `offset` of the POSIX shared memory object `key` known as `name`.

        PermissionDenied without --allow-client-shm. AlreadyExists, ResourceExhausted (too many), NotFound (no such
        object), InvalidArgument (a key of another form, a region that ends behind the object).
        """
        with _translated():
            self.core.register_shared_memory(name, key, offset, byte_size)

    def unregister_shared_memory(self, name: str) -> None:
        """Forgets the region `name` ("": all of them); requests that use it go on with it."""
        if name:
            self.core.unregister_shared_memory(name)
        else:
            self.core.unregister_all_shared_memory()

    def shared_memory(self) -> list[tuple[str, str, int, int]]:
        """(name, key, offset, byte_size) of each region, sorted by name."""
        return self.core.shared_memory()

    def snapshot(self) -> "Snapshot":
        """Counters of now."""
        return self.core.snapshot()

    def schedule(self, model: Model) -> Schedule:
        """What the scheduler has learnt of the model, and why its last batches were closed."""
        return self.core.schedule(model)

    def log_runtime_lines(self) -> bool:
        """Hands what the runtime has said to the logger `headrace.runtime`: a step's worth; True when more may wait."""
        lines = self.core.take_log(_LINES_PER_STEP)
        for level, where, message in lines:
            _runtime_log.log(logging.DEBUG if _STOPPED in message else _LEVELS[min(level, 4)], "%s: %s", where, message)
        return len(lines) == _LINES_PER_STEP

    async def drain(self, seconds: float) -> bool:
        """Waits until no ticket is in flight; False when `seconds` were not enough."""
        return await asyncio.get_running_loop().run_in_executor(None, self.core.drain, seconds)

    def close(self) -> None:
        """Ends the lanes and the loading threads. Blocks; idempotent."""
        self.core.close()
        for threads in (self._loads, self._unloads):
            threads.shutdown(wait=True, cancel_futures=True)
        while self.log_runtime_lines():
            pass


class Door(Protocol):
    """A connection of a loop, as its port sees it."""

    def act(self, bits: int) -> None:
        """Does what the HAS_* and WANTS_CLOSE bits ask for."""


class LoopPort:
    """What one event loop owns of the core: wake-ups, timers and the logs. Made and used on that loop's thread only."""

    def __init__(
        self,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        *,
        methods: Sequence[str],
        streams: Sequence[str] = (),
        on_traces: "Callable[[list[TraceRow], int], None] | None" = None,
    ) -> None:
        """`on_traces` takes the requests that were traced, some at a time, and how many were lost."""
        config = engine.config
        self.config = config
        self.loop = loop
        self.write_stall_seconds = config.write_stall_seconds
        self.steps = Steps(loop) if config.measure_steps else None
        self._engine = engine
        self._on_traces = on_traces
        self._core = _core.Loop(
            engine.core,
            methods=methods,
            streams=streams,
            grpc_headers=header_matcher(config.grpc_header_forward_pattern),
            http_headers=header_matcher(config.http_header_forward_pattern),
            access_log=config.access_log,
            measure_steps=config.measure_steps,
        )
        self._doors: dict[int, Door] = {}
        self._next_token = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._writing = False  # a step that writes logs is due
        # A message that stops half-way arms a timer inside the core, of which a read tells us nothing (a question for
        # each read would cost more than it is worth): so the timers are looked at this often.
        shortest = min(config.message_stall_seconds, config.write_stall_seconds, config.idle_seconds)
        self._tick = min(_LONGEST_TICK, max(shortest / 4, _SHORTEST_WAIT))
        flush = self.measured("flush", self._flush)
        self._core.flush_soon = lambda: loop.call_soon(flush)
        loop.add_reader(self._core.fileno(), self.measured("completions", self._ready))
        engine.attach(self)

    async def settled(self) -> bool:
        """Whether no request will be submitted under an older catalog any more. From any loop."""

        async def ask() -> bool:
            return self._closed or self._core.settled()

        if asyncio.get_running_loop() is self.loop:
            return await ask()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask(), self.loop))

    def connect(self, door: Door, peer: str) -> tuple[int, Connection]:
        """A new connection of the core for `door`, and its token for `disconnect`."""
        self._next_token += 1
        connection = self._core.connect(self._next_token, peer)
        self._doors[self._next_token] = door
        self.arm()
        return self._next_token, connection

    def connect_http(self, door: Door, peer: str) -> tuple[int, HttpConnection]:
        """The same for HTTP/1.1."""
        self._next_token += 1
        connection = HttpConnection(self._core, self._next_token, peer)
        self._doors[self._next_token] = door
        self.arm()
        return self._next_token, connection

    def _flush(self) -> None:
        """Submits what HTTP connections have started, with all that was read in this turn of the loop."""
        if not self._closed:
            self._core.flush()

    def begin_drain(self) -> None:
        """Answers over HTTP say from now on that their connection ends. From any thread."""
        self._core.short_way = False

    def disconnect(self, token: int) -> None:
        """The door of `token` is gone; its completions are dropped."""
        self._doors.pop(token, None)
        if not self._doors and not self._writing:
            self._go_on_writing()  # the timer may not come any more

    def arm(self) -> None:
        """Looks when the core wants its timer, and sets ours. Call it when a call may have come with a deadline."""
        if self._closed:
            return
        due = self._core.next_timeout()
        if due is None or due > self._tick:
            if not self._doors and due is None:
                return
            due = self._tick
        at = self.loop.time() + max(due, _SHORTEST_WAIT)
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(at, self.measured("timer", self._on_timer))

    def measured(self, kind: str, step: Callable[[], None]) -> Callable[[], None]:
        """`step`, its CPU time measured as `kind` where --measure-steps asks for it."""
        return step if self.steps is None else partial(self.steps.run, kind, step)

    def _ready(self) -> None:
        doors = self._doors
        for token, bits in self._core.drain():
            door = doors.get(token)
            if door is not None:
                door.act(bits)

    def _on_timer(self) -> None:
        self._timer = None
        for token, bits in self._core.on_timer():
            door = self._doors.get(token)
            if door is not None:
                door.act(bits)
        self.arm()
        if not self._writing:
            self._go_on_writing()

    def _go_on_writing(self) -> None:
        # In steps: a second of a busy server is tens of thousands of lines.
        self._writing = not self._closed and self.write_logs()
        if self._writing:
            self.loop.call_soon(self.measured("logs", self._go_on_writing))

    def write_logs(self) -> bool:
        """Writes of the access log and of the runtime's log what is right for one step; True when more may wait."""
        more = False
        if self._engine.config.access_log:
            entries, dropped = self._core.take_access_log(_LINES_PER_STEP)
            for entry in entries:
                _access_log.info("%s", access_line(entry))
            if dropped:
                _access_log.warning("%d calls were not logged: they came faster than the log could be written", dropped)
            more = len(entries) == _LINES_PER_STEP
        more = self.take_traces() or more
        return self._engine.log_runtime_lines() or more

    def take_traces(self) -> bool:
        """Hands some of what was traced on to be written; True when there may be more."""
        if self._on_traces is None:
            return False
        rows, dropped = self._core.take_traces(_TRACES_PER_STEP)
        if rows or dropped:
            self._on_traces(rows, dropped)
        return bool(rows)  # long ones are fewer at a time

    def close(self) -> None:
        """Detaches from the core; connections must be gone. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._engine.detach(self)
        if self._timer is not None:
            self._timer.cancel()
        self.loop.remove_reader(self._core.fileno())
        while self.write_logs():
            pass  # connections are gone: nobody waits for a step of this loop
        if self.steps is not None:
            self.steps.longest_ns["core"] = self._core.max_step_ns()
            log.info("longest steps of the event loop, in ms of CPU: %s", self.steps)
        self._core.close()
