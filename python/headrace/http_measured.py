"""HTTP's connections with their callbacks measured, for --measure-steps."""

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from headrace.http_gateway import Answer
from headrace.http_protocol import Call, HttpProtocol

__all__ = ["MeasuredHttpProtocol"]

P = ParamSpec("P")
T = TypeVar("T")


class MeasuredHttpProtocol(HttpProtocol):
    """The same with its callbacks measured, for --measure-steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As HttpProtocol's."""
        super().__init__(*args, **kwargs)
        read = self._core.buffer_updated
        self.buffer_updated = lambda nbytes: self._run("http read", read, nbytes)  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._run("http connect", super().connection_made, transport)

    def resume_writing(self) -> None:
        self._run("http resume", super().resume_writing)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run("http lost", super().connection_lost, exc)

    def _answered(self, call: Call, answer: Answer) -> None:
        self._run("http answered", super()._answered, call, answer)

    def _run(self, kind: str, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        steps = self._port.steps
        return step(*args, **kwargs) if steps is None else steps.run(kind, step, *args, **kwargs)
