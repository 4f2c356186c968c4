"""Headrace: an inference server that installs with pip. `headrace.Server` runs one in this process."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.server import Server

    __version__: str

__all__ = ["Server", "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded when it is asked for: `headrace --help` then needs neither the core nor an event loop.
    if name == "Server":
        from headrace.server import Server

        return Server
    if name == "__version__":  # the core was built with it, from pyproject.toml
        from headrace.engine import version

        return version()
    raise AttributeError(f"module 'headrace' has no attribute {name!r}")
