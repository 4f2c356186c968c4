"""The same calls, byte for byte, to Headrace and to a `grpc.aio` server of the same services: what a client can tell
apart of the two is in DIFFERENCES, with the reason."""

import asyncio
import gzip
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from e2e.h2_peer import LIVE, LONG, READY, Answer, Peer, message
from server_process import ServerProcess

MODEL_READY = "/inference.GRPCInferenceService/ModelReady"
METADATA = "/inference.GRPCInferenceService/ModelMetadata"
CHECK = "/grpc.health.v1.Health/Check"
LIMIT = 1 << 20


# --- The twin ---------------------------------------------------------------------------------------------------------


class Twin(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # it has no types
    """The control plane's calls as anybody would write them for grpc.aio, for a server with the model add_sub."""

    async def ServerLive(self, _request: Any, _context: Any) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, _request: Any, _context: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=True)

    async def ModelReady(self, request: Any, _context: Any) -> Any:
        return service_pb2.ModelReadyResponse(ready=request.name == "add_sub")

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        if request.name != "add_sub":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"model '{request.name}' is not known")
        response = service_pb2.ModelMetadataResponse(name="add_sub", versions=["1"], platform="onnxruntime_onnx")
        for field, names in ((response.inputs, "a b"), (response.outputs, "sum difference")):
            for name in names.split():
                field.add(name=name, datatype="INT32", shape=[-1, 16])
        return response


@pytest.fixture(scope="module")
def twin() -> Iterator[str]:
    """Its address."""
    loop = asyncio.new_event_loop()
    addresses: list[str] = []
    servers: list[Any] = []

    async def start() -> None:
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", LIMIT)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Twin(), server)
        answering = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(answering, server)
        await answering.set("", health_pb2.HealthCheckResponse.SERVING)
        addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    yield addresses[0]
    asyncio.run_coroutine_threadsafe(servers[0].stop(1), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def headrace(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[str]:
    repository = tmp_path_factory.mktemp("twin")
    (repository / "add_sub/1").mkdir(parents=True)
    (repository / "add_sub/1/model.onnx").write_bytes((models / "add_sub.onnx").read_bytes())
    with ServerProcess(repository, "--max-request-bytes", str(LIMIT)) as server:
        yield server.grpc
        assert server.stop() == 0
        assert "0 bytes in 0 blocks in use" in server.output()


# --- The calls --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """What is sent: a header block, then pieces of DATA; the last of all ends the stream."""

    path: str = READY
    pieces: tuple[bytes, ...] = (message(b""),)
    fields: tuple[tuple[str, str], ...] = ()
    without: tuple[str, ...] = ()

    def send(self, peer: Peer, seconds: float) -> Answer:
        stream = peer.begin(self.path, self.fields, without=self.without, end=not self.pieces)
        for number, piece in enumerate(self.pieces):
            if not peer.send(stream, piece, end=number == len(self.pieces) - 1):
                break
        return peer.wait(stream, seconds)


def packed(**fields: Any) -> bytes:
    return message(service_pb2.ModelReadyRequest(**fields).SerializeToString())


def encoded(encoding: str, data: bytes, flag: int = 1) -> Call:
    return Call(MODEL_READY, (message(data, flag=flag),), (("grpc-encoding", encoding),))


ADD_SUB = service_pb2.ModelReadyRequest(name="add_sub").SerializeToString()
CALLS: dict[str, Call] = {
    # Good ones.
    "live": Call(LIVE),
    "ready": Call(),
    "model ready": Call(MODEL_READY, (packed(name="add_sub"),)),
    "model not known": Call(MODEL_READY, (packed(name="nothing"),)),
    "metadata": Call(METADATA, (packed(name="add_sub"),)),
    "health": Call(CHECK),
    "+proto": Call(fields=(("content-type", "application/grpc+proto"),)),
    "with parameters": Call(fields=(("content-type", "application/grpc;charset=utf-8"),)),
    "in time": Call(fields=(("grpc-timeout", "20S"),)),
    "longest time": Call(fields=(("grpc-timeout", "99999999H"),)),
    "metadata of all kinds": Call(fields=(("x-plain", "a, b"), ("x-some-bin", "AAEC/w=="), ("x-none-bin", ""))),
    "a -bin value without padding": Call(fields=(("x-some-bin", "AAEC/w"),)),
    "several -bin values": Call(fields=(("x-some-bin", "AAEC,/w=="),)),
    "byte by byte": Call(MODEL_READY, tuple(bytes([byte]) for byte in packed(name="add_sub"))),
    "the end comes alone": Call(pieces=(message(b""), b"")),
    "gzip": encoded("gzip", gzip.compress(ADD_SUB)),
    "deflate": encoded("deflate", zlib.compress(ADD_SUB)),
    "gzip, and this message is not": encoded("gzip", ADD_SUB, flag=0),
    "identity": encoded("identity", ADD_SUB, flag=0),
    "unknown field": Call(MODEL_READY, (message(ADD_SUB + b"\xf8\x01\x01"),)),
    "largest message": Call(MODEL_READY, (packed(name="n" * (LIMIT - 4)),)),
    # Errors of the service.
    "unknown model": Call(METADATA, (packed(name="nothing"),)),
    "unknown health service": Call(CHECK, (packed(name="nothing"),)),
    # Errors of the protocol.
    "unknown method": Call("/inference.GRPCInferenceService/Nothing"),
    "unknown service": Call("/no.Service/ServerLive"),
    "path of one part": Call("/ServerLive"),
    "path without a slash": Call("ServerLive"),
    "empty path": Call(""),
    "over the limit": Call(MODEL_READY, (packed(name="n" * (LIMIT + 1)),)),
    "over the limit by its prefix": Call(MODEL_READY, (message(b"", size=LIMIT + 1),)),
    "over the limit when inflated": encoded("gzip", gzip.compress(bytes(4 * LIMIT))),
    "no encoding": Call(fields=(("grpc-encoding", ""),)),
    "time is over": Call(fields=(("grpc-timeout", "0n"),)),
    "no time": Call(fields=(("grpc-timeout", ""),)),
    "time without a unit": Call(fields=(("grpc-timeout", "5"),)),
    "time of words": Call(fields=(("grpc-timeout", "soon"),)),
    "nine digits of time": Call(fields=(("grpc-timeout", "123456789S"),)),
    "no message": Call(pieces=()),
    "no message, an empty frame": Call(pieces=(b"",)),
    "two messages": Call(pieces=(message(b"") * 2,)),
    "half a prefix": Call(pieces=(b"\x00\x00",)),
    "half a message": Call(MODEL_READY, (packed(name="add_sub")[:-2],)),
    "not protobuf": Call(MODEL_READY, (message(b"\xff\xff\xff"),)),
    "flag without encoding": Call(pieces=(message(b"", flag=1),)),
    "flag of identity": encoded("identity", ADD_SUB),
    "flag 2": Call(pieces=(message(b"", flag=2),)),
    "unknown encoding": encoded("brotli", ADD_SUB),
    "broken gzip": encoded("gzip", b"not gzip"),
    "broken deflate": encoded("deflate", b"not deflate"),
    "content-type of text": Call(fields=(("content-type", "text/plain"),)),
    "content-type of gRPC-Web": Call(fields=(("content-type", "application/grpc-web"),)),
    "no content-type": Call(without=("content-type",)),
    "no te": Call(without=("te",)),
    "te of another kind": Call(fields=(("te", "gzip"),)),
    "GET": Call(fields=((":method", "GET"),)),
    "PUT": Call(fields=((":method", "PUT"),)),
    "-bin of no base64": Call(fields=(("x-some-bin", "!!!"),)),
}


class Seen(NamedTuple):
    """What of an answer the protocol defines. Texts of errors are everybody's own."""

    http: str
    status: int
    only_trailers: bool
    messages: list[bytes]
    reset: int | None

    @classmethod
    def of(cls, answer: Answer) -> "Seen":
        only = "grpc-status" in answer.fields
        return cls(answer.fields.get(":status", ""), answer.code, only, answer.messages, answer.reset)


SILENT = "the twin never answers: the call hangs until its deadline"
LAX = "the twin serves it; the specification does not allow it"
# Where Headrace answers otherwise: its HTTP status, gRPC status, reset code, and why.
DIFFERENCES: dict[str, tuple[str, int, int | None, str]] = {
    "metadata": ("200", 0, None, "the Open Inference Protocol's `properties`, which Triton's messages do not have"),
    "several -bin values": (
        "200",
        0,
        None,
        "the specification joins several values by commas: a server must split",
    ),
    "path without a slash": ("", -1, 1, "HTTP/2's own: a path that does not begin with a slash is malformed"),
    "empty path": ("", -1, 1, "HTTP/2's own: a path is not empty"),
    "nine digits of time": ("200", 13, None, f"{LAX}: eight digits at most"),
    "no message": ("200", 12, None, SILENT),
    "no message, an empty frame": ("200", 12, None, SILENT),
    "two messages": ("200", 12, None, "the twin drops the second in silence"),
    "half a prefix": ("200", 13, None, SILENT),
    "half a message": ("200", 13, None, SILENT),
    "not protobuf": ("200", 3, None, "the caller's fault, and no exception (UNKNOWN) of the server's"),
    "flag 2": ("200", 13, None, SILENT),  # or it serves it
    "unknown encoding": ("200", 12, None, "UNIMPLEMENTED with the known encodings, as the specification says"),
    "no encoding": ("200", 12, None, "as any that is not known"),
    "content-type of text": ("415", -1, None, "the specification wants it so, for clients that are not gRPC's"),
    "content-type of gRPC-Web": ("415", -1, None, "gRPC-Web is not this protocol: its trailers are in the body"),
    "no content-type": ("415", -1, None, "as any that is not application/grpc"),
    "no te": ("400", 13, None, "a status that says what is missing, where the twin resets the stream"),
    "te of another kind": ("", -1, 1, "HTTP/2's own: te may say nothing but trailers"),
    "GET": ("405", -1, None, "HTTP's own word, where the twin resets the stream"),
    "PUT": ("405", -1, None, "HTTP's own word, where the twin resets the stream"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call(headrace: str, twin: str, name: str) -> None:
    seen = []
    silent = name in DIFFERENCES and DIFFERENCES[name][3] == SILENT
    for address, seconds in ((headrace, LONG), (twin, 1.0 if silent else LONG)):
        with Peer(address) as peer:
            try:
                seen.append(Seen.of(CALLS[name].send(peer, seconds)))
            except (ConnectionError, TimeoutError) as error:
                seen.append(Seen(type(error).__name__, -1, False, [], -1))
    ours, theirs = seen
    if name not in DIFFERENCES:
        assert ours == theirs
        return
    http, status, reset, why = DIFFERENCES[name]
    assert (ours.http, ours.status, ours.reset) == (http, status, reset)
    assert ours != theirs, f"no longer a difference: {why}"
