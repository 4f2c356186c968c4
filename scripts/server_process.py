"""`headrace serve` as a process of its own: for the demo, the end-to-end tests and the benchmarks."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

# Another server to run the same tests against (an instrumented core, say): a command without `serve`.
COMMAND_VARIABLE = "HEADRACE_TEST_SERVER"


class ServerFailed(Exception):
    """The server did not start, or ended by itself. The text has what it printed."""


def server_command() -> list[str]:
    """The `headrace` of this environment, or what HEADRACE_TEST_SERVER says."""
    other = os.environ.get(COMMAND_VARIABLE)
    return shlex.split(other) if other else [str(Path(sys.executable).with_name("headrace"))]


def server_environment() -> dict[str, str]:
    """This process's environment without settings of Headrace, so that a test sees defaults and its own flags only."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}


class ServerProcess:
    """A server on free ports. Ready once the `with` block is entered; ended when it is left (SIGKILL if need be)."""

    def __init__(
        self,
        repository: Path | str,
        *arguments: str,
        command: list[str] | None = None,
        environment: dict[str, str] | None = None,
        start_seconds: float = 60.0,
    ) -> None:
        self.arguments = [
            *(command or server_command()),
            *("serve", "--model-repository", str(repository), "--grpc-port", "0", "--http-port", "0"),
            *arguments,
        ]
        self._environment = server_environment() if environment is None else environment
        self._start_seconds = start_seconds
        self._log = tempfile.NamedTemporaryFile(prefix="headrace-", suffix=".log")  # noqa: SIM115 (lives as long as self)
        self._process: subprocess.Popen[bytes] | None = None
        self.grpc = ""  # host:port
        self.http = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self.arguments, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env=self._environment
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process. RuntimeError before the `with` block."""
        if self._process is None:
            raise RuntimeError("the server was not started: use `with`")
        return self._process

    def output(self) -> str:
        """All that it has printed so far, stdout and stderr together."""
        return Path(self._log.name).read_text(errors="replace")

    def wait_for_output(self, pattern: str, seconds: float) -> re.Match[str]:
        """Waits until what it printed matches. ServerFailed when it ends, or `seconds` pass, before that."""
        deadline = time.monotonic() + seconds
        while True:
            ended = self.process.poll()  # first, so that the last words of an ended process are still read
            found = re.search(pattern, self.output(), re.MULTILINE)
            if found:
                return found
            if ended is not None:
                raise ServerFailed(f"the server ended with code {ended}:\n{self.output()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"the server did not print {pattern!r} in {seconds:g} s:\n{self.output()}")
            time.sleep(0.02)

    def stop(self, seconds: float = 40.0) -> int:
        """SIGTERM, and the exit code. ServerFailed when it has not ended after `seconds`."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = 40.0) -> int:
        """The exit code. ServerFailed when it has not ended after `seconds`."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"the server did not end within {seconds:g} s:\n{self.output()}") from None

    def kill(self) -> None:
        """Ends it at once if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _wait_until_ready(self) -> None:
        self.wait_for_output(r"^ready$", self._start_seconds)
        self.grpc = self.wait_for_output(r"^gRPC +(\S+:\d+)$", 0).group(1)
        self.http = self.wait_for_output(r"^HTTP +(\S+:\d+)$", 0).group(1)
