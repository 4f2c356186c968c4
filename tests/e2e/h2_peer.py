"""HTTP/2 below gRPC: frames made by hand, for what no library sends, and a small client that shows all that comes.

Libraries forbid what these tests must do (h2 reads nothing after a GOAWAY), so only header compression is a library."""

import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

import hpack
import numpy as np
from tritonclient.grpc import service_pb2

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
READY = "/inference.GRPCInferenceService/ServerReady"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK, PADDED = 1, 4, 1, 8
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5  # settings
LONG = 120.0  # seconds: when something is wrong, and not merely slow

Fields = Iterable[tuple[str, str]]


# --- Bytes ------------------------------------------------------------------------------------------------------------


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    """One HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def request_fields(path: str, extra: Fields = (), without: Iterable[str] = ()) -> list[tuple[str, str]]:
    """A gRPC request's header fields; those of `extra` replace others of their name."""
    extra = list(extra)
    gone = {*without, *(name for name, _ in extra)}
    plain = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    fields = [row for row in plain if row[0] not in gone] + extra
    return sorted(fields, key=lambda row: not row[0].startswith(":"))


def headers(stream: int, path: str, extra: Fields = (), *, end: bool = False) -> bytes:
    """A HEADERS frame that leaves the peer's compression table as it is, so that it may be sent at any time."""
    block = hpack.Encoder()
    block.header_table_size = 0
    fields = [hpack.NeverIndexedHeaderTuple(*row) for row in request_fields(path, extra)]
    return frame(HEADERS, stream, block.encode(fields), END_HEADERS | (END_STREAM if end else 0))


def message(body: bytes, *, size: int | None = None, flag: int = 0) -> bytes:
    """A gRPC message: five bytes of prefix (which may lie about the size), then the body."""
    return struct.pack(">BI", flag, len(body) if size is None else size) + body


def infer(model: str, **tensors: np.ndarray) -> bytes:
    """A ModelInferRequest with raw contents, as bytes."""
    kinds = {"int32": "INT32", "int64": "INT64", "float32": "FP32", "uint8": "UINT8"}
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in tensors.items():
        request.inputs.add(name=name, datatype=kinds[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return bytes(request.SerializeToString())


def add_sub(rows: int = 1) -> bytes:
    """A small good request of the model add_sub."""
    ones = np.ones((rows, 16), dtype=np.int32)
    return infer("add_sub", a=ones * 3, b=ones)


def slow(iterations: int) -> bytes:
    """A request of the model slow: it runs for as many steps as `iterations` says."""
    return infer("slow", iterations=np.array([[iterations]], dtype=np.int64))


ENDLESS = 10**12  # iterations of slow: until it is told to stop


# --- A socket ---------------------------------------------------------------------------------------------------------


def connect(address: str, *, receive_buffer: int | None = None) -> socket.socket:
    """A blocking TCP connection to "host:port"."""
    host, port = address.rsplit(":", 1)
    plug = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if receive_buffer is not None:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plug.settimeout(LONG)
    plug.connect((host, int(port)))
    plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plug


def hello(*more: bytes) -> bytes:
    """The start of a connection made by hand, and what follows."""
    return PREFACE + frame(SETTINGS) + b"".join(more)


def kill(plug: socket.socket) -> None:
    """Ends a connection as a killed process without a goodbye does: a reset."""
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    plug.close()


def read_to_end(plug: socket.socket, seconds: float = LONG) -> bytes:
    """All that still comes, up to the end of the connection or its reset. TimeoutError when it does not end."""
    deadline = time.monotonic() + seconds
    parts = []
    while True:
        plug.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            part = plug.recv(1 << 20)
        except (ConnectionResetError, BrokenPipeError):
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def frames_of(data: bytes | bytearray) -> Iterator[tuple[int, int, int, bytes]]:
    """(kind, flags, stream, payload) of each whole frame."""
    at = 0
    while at + 9 <= len(data):
        end = at + 9 + int.from_bytes(data[at : at + 3], "big")
        if end > len(data):
            return
        stream = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
        yield data[at + 3], data[at + 4], stream, bytes(data[at + 9 : end])
        at = end


# --- A client ---------------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """What has come on one stream."""

    window: int  # what may still be sent
    fields: dict[str, str] = field(default_factory=dict)  # of the first header block
    body: bytearray = field(default_factory=bytearray)
    trailers: dict[str, str] = field(default_factory=dict)
    reset: int | None = None  # the code of an RST_STREAM that came before the end
    ended: bool = False
    done_at: float = 0.0  # time.monotonic() when it was over

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def code(self) -> int:
        """gRPC's status; -1 without one."""
        return int(self.trailers.get("grpc-status", self.fields.get("grpc-status", "-1")))

    @property
    def text(self) -> str:
        return self.trailers.get("grpc-message", self.fields.get("grpc-message", ""))

    @property
    def messages(self) -> list[bytes]:
        found, at = [], 0
        while at + 5 <= len(self.body):
            size = int.from_bytes(self.body[at + 1 : at + 5], "big")
            found.append(bytes(self.body[at + 5 : at + 5 + size]))
            at += 5 + size
        return found


class Peer:
    """A client on one connection. Blocking; `pump` reads what is there."""

    def __init__(self, address: str, *, window: int = 1 << 24, receive_buffer: int | None = None) -> None:
        """`window` bytes of answers may come unread, for each stream and for the connection."""
        self.plug = connect(address, receive_buffer=receive_buffer)
        self.answers: dict[int, Answer] = {}
        self.goaways: list[tuple[int, int, bytes]] = []  # (last stream, code, reason)
        self.closed = False  # the server has ended the connection
        self.was_reset = False  # and not by shutting its side down behind all that it had to say
        self._next_stream = 1
        self._window = 65535  # of the connection, to send
        self._first_window = 65535  # of a new stream
        self._max_frame = 16384
        self._decoder = hpack.Decoder()
        self._encoder = hpack.Encoder()
        self._unread = bytearray()
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
        self.write(PREFACE + frame(SETTINGS, payload=settings))
        if window > 65535:
            self.write(frame(WINDOW_UPDATE, payload=struct.pack(">I", window - 65535)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.plug.close()

    def write(self, data: bytes) -> None:
        """Bytes as they are. What cannot be sent any more is dropped, and `closed` is set."""
        if self.closed:
            return
        try:
            self.plug.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.closed = self.was_reset = True

    def begin(self, path: str, extra: Fields = (), *, without: Iterable[str] = (), end: bool = False) -> int:
        """Opens a stream with its header block."""
        stream = self._next_stream
        self._next_stream += 2
        self.answers[stream] = Answer(self._first_window)
        block = self._encoder.encode(request_fields(path, extra, without))
        self.write(frame(HEADERS, stream, block, END_HEADERS | (END_STREAM if end else 0)))
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> bool:
        """Sends DATA as flow control lets it. False when the stream was over before all of it was sent."""
        answer = self.answers[stream]
        view = memoryview(data)
        while True:
            if answer.over or self.closed:
                return False
            part = view[: max(0, min(self._window, answer.window, self._max_frame))]
            if not part and view:
                self.pump()
                continue
            view = view[len(part) :]
            self._window -= len(part)
            answer.window -= len(part)
            self.write(frame(DATA, stream, bytes(part), END_STREAM if end and not len(view) else 0))
            if not len(view):
                return True

    def call(self, path: str, body: bytes, extra: Fields = ()) -> int:
        """Begins a unary call and sends its message."""
        stream = self.begin(path, extra)
        self.send(stream, message(body), end=True)
        return stream

    def ask(self, path: str, body: bytes, extra: Fields = (), seconds: float = LONG) -> Answer:
        """A unary call and its answer."""
        return self.wait(self.call(path, body, extra), seconds)

    def reset(self, stream: int, code: int = 8) -> None:
        """Cancels a stream."""
        self.write(frame(RST_STREAM, stream, struct.pack(">I", code)))

    def wait(self, stream: int, seconds: float = LONG) -> Answer:
        """Until the stream is over. TimeoutError, or ConnectionError when the connection ends before."""
        answer = self.answers[stream]
        deadline = time.monotonic() + seconds
        while not answer.over:
            if self.closed:
                raise ConnectionError(f"the connection ended before stream {stream} was answered: {self.goaways}")
            self.pump(deadline - time.monotonic())
        return answer

    def wait_closed(self, seconds: float = LONG) -> None:
        """Until the server has ended the connection. TimeoutError."""
        deadline = time.monotonic() + seconds
        while not self.closed:
            self.pump(deadline - time.monotonic())

    def pump(self, seconds: float = LONG) -> None:
        """Reads once, waiting for `seconds` at most. TimeoutError when nothing has come."""
        if not select.select([self.plug], [], [], max(0.0, seconds))[0]:
            raise TimeoutError("nothing came from the server")
        try:
            data = self.plug.recv(1 << 20)
        except ConnectionResetError:
            self.closed = self.was_reset = True
            return
        if not data:
            self.closed = True
            return
        self._unread += data
        read = 0
        for kind, flags, stream, payload in frames_of(self._unread):
            self._note(kind, flags, stream, payload)
            read += 9 + len(payload)
        del self._unread[:read]

    def _note(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        answer = self.answers.get(stream)
        if kind == SETTINGS and not flags & ACK:
            self._apply(payload)
        elif kind == PING and not flags & ACK:
            self.write(frame(PING, payload=payload, flags=ACK))
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self._window += more
            elif answer is not None:
                answer.window += more
        elif kind == GOAWAY:
            last, code = struct.unpack(">II", payload[:8])
            self.goaways.append((last & 0x7FFFFFFF, code, payload[8:]))
        elif kind == HEADERS:
            assert flags & END_HEADERS, "the server sent CONTINUATION, which this client does not read"
            fields = {str(name): str(value) for name, value in self._decoder.decode(payload)}
            if answer is not None:
                if answer.fields:
                    answer.trailers = fields
                else:
                    answer.fields = fields
        elif kind == DATA:
            if payload:
                again = struct.pack(">I", len(payload))
                self.write(frame(WINDOW_UPDATE, 0, again) + frame(WINDOW_UPDATE, stream, again))
            if answer is not None:
                answer.body += payload
        elif kind == RST_STREAM and answer is not None and not answer.ended:
            answer.reset = int.from_bytes(payload, "big")
        if answer is not None:
            answer.ended = answer.ended or (kind in (HEADERS, DATA) and bool(flags & END_STREAM))
            if answer.over and not answer.done_at:
                answer.done_at = time.monotonic()

    def _apply(self, payload: bytes) -> None:
        for key, value in struct.iter_unpack(">HI", payload):
            if key == INITIAL_WINDOW_SIZE:
                for answer in self.answers.values():
                    answer.window += value - self._first_window
                self._first_window = value
            elif key == MAX_FRAME_SIZE:
                self._max_frame = value
        self.write(frame(SETTINGS, flags=ACK))
