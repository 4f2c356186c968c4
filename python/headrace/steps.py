"""How long the steps of an event loop take, for --measure-steps."""

import asyncio
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["Steps"]

P = ParamSpec("P")
T = TypeVar("T")


class Steps:
    """CPU time of the loop's thread in what it does, for --measure-steps: the longest callback of each kind ("read",
    "completions", ...), and the longest turn, which is all that a loop did between two looks at its sockets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._turn_began = 0
        self.longest_ns: dict[str, int] = {}

    def run(self, kind: str, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls `step` as one callback of the loop."""
        began = time.thread_time_ns()
        if not self._turn_began:
            self._turn_began = began
            self._loop.call_soon(self._end_turn)
        try:
            return step(*args, **kwargs)
        finally:
            self._note(kind, time.thread_time_ns() - began)

    def _end_turn(self) -> None:
        self._note("turn", time.thread_time_ns() - self._turn_began)
        self._turn_began = 0

    def _note(self, kind: str, ns: int) -> None:
        if ns > self.longest_ns.get(kind, 0):
            self.longest_ns[kind] = ns

    def __str__(self) -> str:
        return ", ".join(f"{kind} {ns / 1e6:.3f}" for kind, ns in sorted(self.longest_ns.items()))
