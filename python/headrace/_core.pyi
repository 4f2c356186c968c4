"""The native core, as Python sees it. `engine.py` is the only module that imports it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypedDict

from headrace.counters import Snapshot
from headrace.resources import Resource
from headrace.schedule import BatchingOptions, Schedule
from headrace.sessions import SessionOptions, TensorInfo

class CoreError(Exception):
    """A status of the core: `code` is gRPC's number, `message` one sentence for the caller."""

    code: int
    message: str

class Limits(TypedDict):
    """The bounds of the core, all required; see config.py for meanings and defaults. Bytes, counts and seconds."""

    max_message_bytes: int
    max_header_bytes: int
    max_concurrent_streams: int
    connection_inflight_bytes: int
    process_inflight_bytes: int
    max_output_bytes: int
    max_tensors: int
    max_name_bytes: int
    max_dims: int
    max_parameters: int
    write_stall_seconds: float
    message_stall_seconds: float
    message_whole_seconds: float
    idle_seconds: float
    pool_bytes: int
    pool_retain_bytes: int
    max_shared_regions: int  # of clients' shared memory; 0: none may be named

class WarmupInput(TypedDict, total=False):
    name: str
    datatype: str
    dims: list[int]  # of one row; whole where the model is not batched
    data: str  # "zero", "random" or "given"
    bytes: bytes  # given: of one row

class WarmupSample(TypedDict):
    name: str
    batch_size: int
    count: int
    inputs: list[WarmupInput]

class WarmupOptions(TypedDict):
    """What is run before a version takes traffic. Without samples, and with `made_up`, the core makes up its own."""

    samples: list[WarmupSample]
    made_up: bool

class ThreadTrial(TypedDict):
    """One plan in one comparison; figures are medians of its rounds. Rates are rows/s with all of its lanes busy."""

    threads: int
    lanes: int
    batch_size: int
    rate_of_one: float  # with batches of one row
    rate_of_batch: float  # with batches of batch_size rows; 0 where that is 1
    alone_ns: int  # a run of one row with nothing beside it
    rounds: int

class Model:
    """A loaded model version: a handle that keeps it loaded in the core until `Engine.unload`."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def backend(self) -> str: ...
    @property
    def inputs(self) -> list[TensorInfo]: ...
    @property
    def outputs(self) -> list[TensorInfo]: ...
    @property
    def metadata(self) -> dict[str, str]: ...
    @property
    def max_batch_size(self) -> int: ...
    @property
    def dynamic_batching(self) -> bool: ...
    @property
    def batching_reason(self) -> str:
        """One sentence: which rule decided about batching, and why."""
    @property
    def warmup_note(self) -> str:
        """One clause: what was run before it took traffic, or why nothing was."""
    @property
    def intra_op_threads(self) -> int:
        """Compute threads of one run, its lane included."""
    @property
    def lanes(self) -> int:
        """How many lanes run the model at one time at most."""
    @property
    def threads_reason(self) -> str:
        """One clause: why so many threads and lanes."""
    @property
    def thread_trials(self) -> list[ThreadTrial]:
        """What was measured when the model was loaded, in order: each plan beside the best one before it."""
    @property
    def provider(self) -> str:
        """Where it really runs: "cpu", "cuda" or "tensorrt"."""
    @property
    def providers(self) -> list[str]: ...  # of each device that has it
    @property
    def provider_note(self) -> str:
        """Why it does not run where it was asked to; "" where it does."""
    @property
    def max_lanes(self) -> int:
        """As it was asked for; 0: as many as the cores are enough for."""

class TraceSampler:
    """Of the requests that it is asked about, it takes every `rate`-th, and at most `count` of them (-1: no bound)."""

    def __init__(self, id: int, rate: int, count: int, times: bool, tensors: bool) -> None:
        """`id`, not 0, marks what it takes; `times` and `tensors` say what is noted of them."""
    @property
    def remaining(self) -> int: ...

class Catalog:
    """Names and versions -> models. Built once, then published; never changed after."""

    def __init__(self) -> None: ...
    def add(self, name: str, version: str, model: Model) -> None:
        """`version` "" is what a request without a version gets."""
    def trace(self, name: str, sampler: TraceSampler | None) -> None:
        """`name` "" is for all models that are not named; None: not traced."""
    def add_unavailable(self, name: str, version: str, reason: str) -> None:
        """Requests for it get UNAVAILABLE with this reason."""

class Engine:
    """The whole core: models, lanes, memory. Any method may be called on any thread; load, unload and close block and
    release the GIL."""

    def __init__(
        self,
        *,
        limits: Limits,
        lanes: int,
        cores: int,
        onnxruntime_library: str,
        model_memory: int = ...,
        load_threads: int = ...,
        learn: bool = True,
        resources: Sequence[Resource] = ...,
    ) -> None:
        """`lanes` threads run batches, with compute threads for `cores` in all. Models get `model_memory` bytes, and
        load on `load_threads` threads; what does not fit sleeps until it is asked for. `onnxruntime_library`: its path,
        "" if there is none (an ONNX model then cannot be loaded). `learn`: what runs cost is learnt and used.
        `resources`: so many there are of what rate limiters name."""
    def backend_version(self, backend: str) -> str:
        """Raises CoreError when it cannot be opened."""
    def load(
        self,
        *,
        name: str,
        version: int,
        backend: str,
        model_file: str,
        model_dir: str,
        session: SessionOptions,
        batching: BatchingOptions,
        labels: Mapping[str, Sequence[str]] = ...,
        warmup: WarmupOptions = ...,
    ) -> Model: ...
    def unload(self, model: Model, *, finish: bool = False) -> None:
        """Refuses new requests for it, ends the queued ones with UNAVAILABLE (with `finish`, serves them first), waits
        for the running ones, frees the session."""
    def publish(self, catalog: Catalog) -> None: ...
    def give_back(self) -> None: ...
    def register_shared_memory(self, name: str, key: str, offset: int, byte_size: int) -> None: ...
    def unregister_shared_memory(self, name: str) -> None: ...
    def unregister_all_shared_memory(self) -> None: ...
    def shared_memory(self) -> list[tuple[str, str, int, int]]:
        """(name, key, offset, byte_size), sorted by name."""
    def snapshot(self) -> Snapshot: ...
    def schedule(self, model: Model, /) -> Schedule: ...
    def take_log(self, most: int, /) -> list[tuple[int, str, str]]:
        """The oldest of the runtime's own log lines, at most `most`: (0 verbose .. 4 fatal, where, message). Bounded:
        the oldest are dropped."""
    def drain(self, seconds: float) -> bool:
        """Waits until no ticket is in flight; False when time ran out."""
    def close(self) -> None:
        """Ends the lanes; what is still queued is answered UNAVAILABLE, what runs is told to stop. Idempotent."""

# What `Connection.receive` and friends ask their caller to do, as bits.
HAS_OUTPUT: Final[int]
HAS_CALLS: Final[int]
HAS_CANCELLED: Final[int]
WANTS_CLOSE: Final[int]
HAS_UNREAD: Final[int]  # to read no more, until READ_ON comes
READ_ON: Final[int]

# What a row of `Connection.take_calls` is: a unary call with its message; or of a call of many messages its start, one
# of them, or that the client has sent its last.
CALL: Final[int]
OPEN: Final[int]
MESSAGE: Final[int]
END: Final[int]

# (call id, which of the four, path, metadata, message); path and metadata are with CALL and OPEN, a message with CALL
# and MESSAGE
Call = tuple[int, int, str, list[tuple[str, str | bytes]], bytes]

class AccessEntry(TypedDict):
    peer: str
    path: str
    model: str
    version: str
    request_id: str
    code: int
    request_bytes: int
    response_bytes: int
    rows: int
    batch_rows: int
    queue_ns: int
    compute_ns: int
    total_ns: int
    headers: list[tuple[str, str]]  # those that became parameters; bounded

# (sampler id, model, version, request id, (received, queued, started, infer start, infer end, finished, answered),
# whether the runtime was entered, (tensors, how many more there were)): times are nanoseconds of the steady clock, 0
# where the request did not get that far; () and None for what the sampler does not want. A tensor: (name, whether it is
# an output, datatype, shape, bytes of the whole, its first elements).
TraceRow = tuple[int, str, str, str, tuple[int, ...], bool, tuple[list[tuple[Any, ...]], int] | None]

class Loop:
    """What one event loop owns of the core. All methods but `fileno` on that loop's thread."""

    flush_soon: Callable[[], object] | None
    """Called when `flush` is wanted at the end of this turn of the event loop. None again after `close`."""
    short_way: bool
    """Whether HTTP connections may take it. May be set on any thread."""

    def __init__(
        self,
        engine: Engine,
        *,
        methods: Sequence[str],
        streams: Sequence[str],
        grpc_headers: Callable[[str], object | None] | None,
        http_headers: Callable[[str], object | None] | None,
        access_log: bool,
        measure_steps: bool,
    ) -> None:
        """`methods`: paths of unary calls that Python answers ("/inference.GRPCInferenceService/ServerLive"),
        `streams`: of those with many messages, either way.
        ModelInfer is answered by the core; any other path gets UNIMPLEMENTED. `grpc_headers` and `http_headers`: not
        None for the name, in lower case, of a header that becomes a parameter of an inference request; asked once for
        each name, by whatever receives."""
    def fileno(self) -> int:
        """Readable when `drain` has something to do."""
    def drain(self) -> list[tuple[int, int]]:
        """Handles completions that are ready: (connection token, HAS_* bits) for each connection that needs its
        caller."""
    def connect(self, token: int, peer: str) -> Connection: ...
    def next_timeout(self) -> float | None:
        """Seconds from now until `on_timer` is due; None: never."""
    def on_timer(self) -> list[tuple[int, int]]:
        """As drain."""
    def settled(self) -> bool:
        """Takes the catalog of now in. True when no request will be submitted under an older one any more."""
    def flush(self) -> None:
        """Submits what `HttpConnection.receive` has started: wanted once for all that a turn of the event loop read."""
    def take_access_log(self, most: int, /) -> tuple[list[AccessEntry], int]:
        """The oldest entries, at most `most`, and how many were dropped since the last call because 65,536 were
        waiting."""
    def take_traces(self, limit: int) -> tuple[list[TraceRow], int]:
        """The oldest traced requests, and how many were dropped because 65,536 were waiting."""
    def max_step_ns(self) -> int:
        """Longest thread CPU time of one call into this loop or its connections, with measure_steps; else 0."""
    def close(self) -> None:
        """Detaches from the engine. Completions that still come are dropped. The file descriptor is closed last."""

class Connection:
    """One gRPC connection, sans I/O."""

    def get_buffer(self, sizehint: int, /) -> memoryview:
        """The loop's read buffer: asyncio.BufferedProtocol's get_buffer."""
    def receive(self, nbytes: int, /) -> int:
        """`nbytes` have been read into the buffer. Bits."""
    def receive_bytes(self, data: bytes, /) -> int:
        """The same for bytes that were read elsewhere (the first bytes of a connection)."""
    def receive_eof(self) -> int: ...
    def take_output(self) -> list[bytes | memoryview] | None:
        """What is to be written now. Responses over 64 KiB are memoryviews of pooled blocks, the rest is joined. Empty
        when there is nothing; None when, besides, nothing more will come and the connection is to be closed."""
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> int: ...
    def take_calls(self) -> list[Call]: ...
    def take_cancelled(self) -> list[int]: ...
    def reply(self, call_id: int, message: bytes, /) -> int:
        """Answers a call of take_calls with one message and OK. No effect for a call that is gone."""
    def send_part(self, call_id: int, message: bytes, /) -> int:
        """One more answer of a call of many messages. Nothing bounds what waits but the caller: see output_waiting."""
    def finish(self, call_id: int, /) -> int:
        """Ends it with OK."""
    def release_message(self, call_id: int, /) -> int:
        """The caller is done with the oldest message that it was given of this call. At most 64 may be on its hands;
        with more the call ends with RESOURCE_EXHAUSTED."""
    def fail(self, call_id: int, code: int, message: str, trailers: list[tuple[str, str]], /) -> int: ...
    def shutdown_notice(self) -> int: ...
    def shutdown_final(self) -> int: ...
    def abort_calls(self, code: int, message: str, /) -> int:
        """Ends every open call with this status (drain time is over)."""
    def lost(self) -> None:
        """The transport is gone: open calls are cancelled, the object is dead."""
    @property
    def output_waiting(self) -> int:
        """Bytes of answers that are not taken for writing yet."""
    @property
    def open_calls(self) -> int: ...

# (exchange, gRPC code, HTTP status or 0, the answer's bytes or, with a code that is not 0, its sentence); None in place
# of bytes: the answer comes from `take_pieces`
HttpAnswer = tuple[int, int, int, Any]

class HttpConnection:
    """One HTTP/1.1 connection, as far as inference goes. The caller parses HTTP and keeps the order of answers."""

    def __init__(self, loop: Loop, token: int, peer: str, /) -> None: ...
    def get_buffer(self, sizehint: int, /) -> memoryview:
        """The loop's read buffer: asyncio.BufferedProtocol's get_buffer."""
    def connect_protocol(
        self,
        transport: asyncio.Transport,
        read: Callable[[int], None],
        received: Callable[[int, int], None],
        collect: Callable[[list[HttpAnswer]], None],
        /,
    ) -> None:
        """Whom the short way asks: the transport, and the protocol's functions for bytes that nobody has looked at, for
        bytes and what `receive` says of them, and for answers that are not plain. While the transport has nothing to
        write, answers go to its socket without it, unless it encrypts."""
    def enter_short_way(self, number: int, /) -> None:
        """Until `leave_short_way`, plain inferences, numbered from `number`, come from `buffer_updated` and are
        answered past the protocol. Nothing else may be open. The loop's `short_way` may forbid it."""
    def leave_short_way(self) -> tuple[int, int, float] | None:
        """The first number that is not answered, the next to be given, and seconds since the last read; None when it
        was not on the short way. Whatever is called of `connect_protocol` must ask this first."""
    def buffer_updated(self, nbytes: int, /) -> None:
        """asyncio.BufferedProtocol's buffer_updated."""
    def receive(self, nbytes: int, number: int, room: int, /) -> int:
        """`nbytes` have been read into the buffer, and no request of the caller's parser is open. Takes plain
        inferences, at most `room`, as exchanges `number`, `number` + 1, ..., for the next Loop.flush. Returns bits |
        exchanges << 8 | bytes << 32, the last for what is left at the end of the buffer for the caller's parser."""
    @property
    def receiving_for(self) -> float | None:
        """Seconds since an inference began whose body `receive` has not seen the end of; None: there is none."""
    def begin_body(self, size: int, align_at: int, encoding: int, here: int, /) -> tuple[int, str] | None:
        """The body of the request that is being read: `size` bytes (-1: not known), `here` of them about to come.
        `align_at`: offset that is aligned to 64 bytes. `encoding`: 0 none, 1 gzip, 2 deflate. (code, message) when it
        is refused."""
    def append_body(self, piece: bytes, /) -> tuple[int, str] | None: ...
    def drop_body(self) -> None: ...
    def take_body(self) -> bytes:
        """A copy of the body, which then counts no longer."""
    def infer(
        self,
        exchange: int,
        model: str,
        version: str,
        body: bytes | None,
        json_bytes: int,
        timeout: float,
        accepts: int,
        headers: bytes,
        form: int,
        request_headers: Sequence[tuple[bytes, bytes]],
        /,
    ) -> int:
        """Infers with `body`, or with the one that was begun and is whole (None). `json_bytes`: of
        Inference-Header-Content-Length, -1 without it. `timeout`: seconds, negative for none. `accepts`: an encoding
        that the answer may have. `headers`: lines for its head. `form`: 0 the Open Inference Protocol's, 1 the
        same answered with a flat object (generate), 2 TensorFlow Serving's, 3 a ModelInferRequest in gRPC-Web's frame
        (`model` and `version` are "" then), 4 the same without a head, 5 as 1 with each answer a server-sent event.
        `request_headers`: those that may become parameters. HAS_OUTPUT when `take_answers` has something."""
    def take_answers(self) -> list[HttpAnswer]: ...
    def infer_stream(
        self, exchange: int, body: bytes, request_headers: Sequence[tuple[bytes, bytes]], /
    ) -> tuple[int, str] | None:
        """A ModelStreamInfer whose requests are the gRPC-Web frames of `body`. (code, message): there is no room for
        it. Its answers come from `take_pieces`."""
    def take_pieces(self, exchange: int, most: int, /) -> tuple[list[bytes | memoryview], tuple[int, str] | None]:
        """What is ready of an answer in pieces, about `most` bytes, to be called only when they can be sent; and, once,
        behind the last of it, (code, message) of how it ended. HAS_OUTPUT says when there is something."""
    def cancel_stream(self, exchange: int, code: int, message: str, /) -> int:
        """Cancels what is open of a stream, which ends with this status."""
    def abort_calls(self, code: int, message: str, /) -> int:
        """Answers every open exchange with this status (drain time is over)."""
    def lost(self) -> None:
        """The transport is gone: open exchanges are cancelled, the object is dead."""
    @property
    def open_calls(self) -> int: ...

def tensor_text(datatype: str, data: bytes, /) -> str:
    """Whole elements as JSON writes them, commas between; BYTES that are not all UTF-8 as {"b64": ...}. Any thread."""

def version() -> str: ...
