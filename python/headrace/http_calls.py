"""The requests of one HTTP/1.1 connection that Python answers: tasks on loop 0, their answers on the connection's."""

import asyncio
import concurrent.futures
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from headrace.errors import HeadraceError, Internal, Unavailable
from headrace.http_gateway import Answer, Gateway
from headrace.http_message import Request, error_answer
from headrace.http_reader import Call

__all__ = ["PythonCalls"]

log = logging.getLogger("headrace.http")

_Future = asyncio.Future[Any] | concurrent.futures.Future[Any]


def _to_nobody(call: Call, answer: Answer) -> None:
    """The connection is gone."""


class PythonCalls:
    """Those of one connection. `on_answer` gets what each is answered."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, gateway: Gateway, on_answer: Callable[[Call, Answer], None]
    ) -> None:
        self._loop = loop
        self._gateway = gateway
        self._on_answer = on_answer
        self._open: dict[int, _Future] = {}

    def start(self, call: Call, request: Request, encoding: int, accepts: int) -> None:
        """Has the gateway answer it; `encoding` and `accepts` are the gateway's."""
        work = self._gateway.answer(call.route, request, encoding, accepts)
        home = self._gateway.home
        if home is self._loop:
            task = self._loop.create_task(work)
            self._open[call.number] = task
            task.add_done_callback(lambda done: self._answered(call, done))
        else:
            remote = asyncio.run_coroutine_threadsafe(work, home)
            self._open[call.number] = remote
            remote.add_done_callback(lambda done: self._hand_back(call, done))

    def abandon(self) -> list[int]:
        """Cancels all; their numbers. Nothing is heard of them any more."""
        numbers = list(self._open)
        for future in self._open.values():
            future.cancel()
        self._open.clear()
        return numbers

    def close(self) -> None:
        """The connection is gone: all are cancelled, and it is not referred to any more."""
        self.abandon()
        self._on_answer = _to_nobody

    def _hand_back(self, call: Call, done: "concurrent.futures.Future[Any]") -> None:
        with contextlib.suppress(RuntimeError):  # our loop is closed, and its connections with it
            self._loop.call_soon_threadsafe(self._answered, call, done)

    def _answered(self, call: Call, done: _Future) -> None:
        if self._open.pop(call.number, None) is None:
            return  # the connection is gone, or the time for it is over
        error = None if done.cancelled() else done.exception()
        answer: Answer
        if done.cancelled():
            answer = error_answer(Unavailable("the server is shutting down"))
        elif error is None:
            answer = done.result()
        elif isinstance(error, HeadraceError):
            answer = error_answer(error)
        else:
            path = "/" + "/".join(call.route.parts)
            log.error("%s failed", path, exc_info=error)
            answer = error_answer(Internal(f"{path} failed inside the server; its log says more"))
        self._on_answer(call, answer)
