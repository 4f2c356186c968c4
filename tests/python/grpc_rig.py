"""A gRPC protocol between a scripted connection of the core and a transport that keeps what is written."""

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

from headrace.engine import CALL, HAS_CALLS, HAS_OUTPUT, WANTS_CLOSE
from headrace.errors import NotFound
from headrace.grpc_calls import Answerer
from headrace.grpc_server import GrpcProtocol


class FakeService:
    """Fixed answers; one of them is a fault of ours."""

    live = True

    def health(self, service: str) -> bool:
        if service == "other":
            raise NotFound("service 'other' is not known")
        return service == ""

    def model_ready(self, _name: str, _version: str) -> bool:
        raise ZeroDivisionError("secret")


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


# --- The glue


class FakeConnection:
    """The core's connection, scripted: what it is told is in `said`."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.outputs: list[list[bytes] | None] = []
        self.calls: list[Any] = []
        self.cancelled: list[int] = []
        self.on_receive = 0
        self.on_resume = 0
        self.on_send = 0
        self.open_calls = 0
        self.output_waiting = 0
        self.replied = asyncio.Event()
        self.buffer = memoryview(bytearray(16))

    def get_buffer(self, _hint: int) -> memoryview:
        return self.buffer

    def receive(self, nbytes: int) -> int:
        self.said.append(("receive", nbytes))
        return self.on_receive

    def receive_eof(self) -> int:
        self.said.append("eof")
        return 0

    def take_output(self) -> list[bytes] | None:
        return self.outputs.pop(0) if self.outputs else []

    def pause_writing(self) -> None:
        self.said.append("pause")

    def resume_writing(self) -> int:
        self.said.append("resume")
        return self.on_resume

    def take_calls(self) -> list[Any]:
        calls, self.calls = self.calls, []
        return calls

    def take_cancelled(self) -> list[int]:
        return self.cancelled

    def reply(self, call: int, message: bytes) -> int:
        self.said.append(("reply", call, message))
        self.replied.set()
        return 0

    def fail(self, call: int, code: int, message: str, _trailers: Any) -> int:
        self.said.append(("fail", call, code, message))
        self.replied.set()
        return 0

    def send_part(self, call: int, message: bytes) -> int:
        self.said.append(("send", call, message))
        self.replied.set()
        return self.on_send

    def finish(self, call: int) -> int:
        self.said.append(("finish", call))
        self.replied.set()
        return 0

    def release_message(self, call: int) -> int:
        self.said.append(("release", call))
        return 0

    def shutdown_notice(self) -> int:
        self.said.append("notice")
        return HAS_OUTPUT

    def shutdown_final(self) -> int:
        self.said.append("final")
        return WANTS_CLOSE

    def abort_calls(self, code: int, message: str) -> int:
        self.said.append(("abort", code, message))
        return 0

    def lost(self) -> None:
        self.said.append("lost")


class FakeTransport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.waiting: list[int] = []  # what get_write_buffer_size says, one after the other

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writelines(self, chunks: list[bytes]) -> None:
        self.written.append(tuple(chunks))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.written.append("eof")

    def get_write_buffer_size(self) -> int:
        return self.waiting.pop(0) if self.waiting else 0

    def close(self) -> None:
        self.written.append("close")

    def abort(self) -> None:
        self.written.append("abort")


class Rig:
    """A protocol between a scripted connection and a transport that keeps what is written."""

    def __init__(self, home: asyncio.AbstractEventLoop | None = None, *, refused: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.connection = FakeConnection()
        self.transport = FakeTransport()
        self.closed: list[Any] = []
        self.armed = 0
        self.disconnected: list[int] = []
        port = SimpleNamespace(
            loop=loop,
            write_stall_seconds=0.01,
            connect=lambda _door, _peer: (7, self.connection),
            disconnect=self.disconnected.append,
            arm=self._arm,
            measured=lambda _kind, step: step,
        )
        answerer = Answerer(cast(Any, FakeService()), home or loop)
        self.protocol = GrpcProtocol(cast(Any, port), answerer, "peer:1", self.closed.append, refused=refused)
        self.protocol.connection_made(cast(Any, self.transport))

    def _arm(self) -> None:
        self.armed += 1

    async def call(self, path: str, message: bytes, call_id: int = 1) -> Any:
        self.connection.calls.append((call_id, CALL, path, [], message))
        self.protocol.act(HAS_CALLS)
        await self.connection.replied.wait()
        self.connection.replied.clear()
        return self.connection.said.pop()
