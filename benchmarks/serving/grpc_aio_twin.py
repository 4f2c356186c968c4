"""The other side of each comparison: a `grpc.aio` server on uvloop whose generic handler does no work at all.

It answers ModelInfer with the request's own bytes (`--answer 0`) or with that many zero bytes, and counts what it
answered (`/bench/Count`, eight little-endian bytes), so that a rate can be checked against the server's own count.
"""

import argparse
import asyncio
import struct
from collections.abc import Awaitable, Callable

import grpc
import uvloop

Handler = Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]


class Twin(grpc.GenericRpcHandler):
    """Unary calls as raw bytes."""

    def __init__(self, answer_bytes: int) -> None:
        self._answer = bytes(answer_bytes)
        self._count = 0

    async def _infer(self, request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        self._count += 1
        return self._answer or request

    async def _report(self, _request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        return struct.pack("<Q", self._count)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of a call."""
        return grpc.unary_unary_rpc_method_handler(self._report if details.method == "/bench/Count" else self._infer)


async def serve(answer_bytes: int) -> None:
    """Serves on a free port of loopback, which it prints, until it is ended."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=unlimited)
    server.add_generic_rpc_handlers((Twin(answer_bytes),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answer", type=int, default=0, help="bytes of each answer; 0: the request's own")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(parser.parse_args().answer))
