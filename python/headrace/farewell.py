"""The end of a connection that is ours to end."""

import asyncio

__all__ = ["Farewell"]

_LINGER_SECONDS = 2.0  # after our last byte, this long for the peer to end its side


class Farewell:
    """Our side is shut down behind what is written, and the peer's end is waited for: a close with bytes unread would
    make the kernel reset the connection, and the peer would lose the last answers. A peer that reads, if slowly, has
    time; any other is cut off."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, stall_seconds: float) -> None:
        """`stall_seconds`: for a peer that has bytes to read, and reads none. Our side is shut down by the caller."""
        self._transport = transport
        self._loop = loop
        self._stall_seconds = stall_seconds
        self._linger(transport.get_write_buffer_size())

    def _linger(self, unsent: int) -> None:
        seconds = self._stall_seconds if unsent else _LINGER_SECONDS
        self._timer = self._loop.call_later(seconds, self._look, unsent)

    def _look(self, before: int) -> None:
        unsent = self._transport.get_write_buffer_size()
        if unsent < before:
            self._linger(unsent)
        else:
            self._transport.abort()

    def cancel(self) -> None:
        """The connection is gone."""
        self._timer.cancel()
