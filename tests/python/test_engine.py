"""The face of the core: limits, the runtime's library, the access log's lines, and a loop's wake-ups and timers."""

import asyncio
import logging
import os
import re
import sys
import time
from collections.abc import Coroutine
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace import config, engine
from headrace.engine import LoopPort

HOST = config.Host(cores=2, memory_bytes=8 * config.GIB)
ENTRY: Any = {
    "peer": "127.0.0.1:5",
    "path": "/a/B",
    "model": "m",
    "version": "1",
    "request_id": "",
    "code": 0,
    "request_bytes": 10,
    "response_bytes": 20,
    "rows": 1,
    "batch_rows": 4,
    "queue_ns": 1500,
    "compute_ns": 2500,
    "total_ns": 9999,
    "headers": [],
}


def test_limits_come_from_the_options() -> None:
    settings = config.resolve({"max_request_bytes": "1 MiB", "max_dims": 7, "idle_seconds": 5}, host=HOST)
    limits = engine.limits_of(settings)
    assert (limits["max_message_bytes"], limits["max_dims"], limits["idle_seconds"]) == (1 << 20, 7, 5.0)


def test_the_runtimes_library_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "onnxruntime"
    (package / "capi").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)  # other tests compare with the real one
    assert engine.find_onnxruntime() == ""
    (package / "capi/libonnxruntime.so.1.31.1").touch()
    assert engine.find_onnxruntime() == str(package / "capi/libonnxruntime.so.1.31.1")


class FakeLoop:
    """The core's loop, scripted."""

    def __init__(self, _engine: Any, **_options: Any) -> None:
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK)
        self.ready: list[tuple[int, int]] = []
        self.due: float | None = None
        self.timers = 0
        self.entries: list[Any] = []

    def fileno(self) -> int:
        return self.descriptor

    def drain(self) -> list[tuple[int, int]]:
        os.eventfd_read(self.descriptor)
        return self.ready

    def connect(self, token: int, peer: str) -> Any:
        return f"connection {token} of {peer}"

    def next_timeout(self) -> float | None:
        return self.due

    def on_timer(self) -> list[tuple[int, int]]:
        self.timers += 1
        self.due = None
        return self.ready

    def take_access_log(self, most: int, /) -> tuple[list[Any], int]:
        taken, self.entries = self.entries[:most], self.entries[most:]
        return taken, 0

    def max_step_ns(self) -> int:
        return 0

    def close(self) -> None:
        os.close(self.descriptor)


class FakeDoor:
    """Remembers what it was asked to do."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.told = asyncio.Event()

    def act(self, bits: int) -> None:
        self.asked.append(bits)
        self.told.set()


def port(**flags: object) -> tuple[LoopPort, FakeLoop]:
    settings = config.resolve(flags, host=HOST)
    nothing: Any = lambda *_: None  # noqa: E731
    whole = SimpleNamespace(core=None, config=settings, log_runtime_lines=lambda: False, attach=nothing, detach=nothing)
    made = LoopPort(cast(Any, whole), asyncio.get_running_loop(), methods=["/a/B"])
    return made, cast(Any, made)._core


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["headrace._core"], "Loop", FakeLoop)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def test_a_wake_up_goes_to_the_doors_that_it_names() -> None:
    async def work() -> None:
        made, core = port()
        one, two = FakeDoor(), FakeDoor()
        token, connection = made.connect(one, "a")
        other, _ = made.connect(two, "b")
        assert cast(Any, connection) == f"connection {token} of a"
        made.disconnect(other)
        core.ready = [(other, 1), (99, 2), (token, 4)]
        os.eventfd_write(core.descriptor, 1)
        await one.told.wait()
        assert (one.asked, two.asked) == ([4], [])
        made.close()
        made.close()

    run(work())


def test_the_cores_timer_is_kept_and_moved_up() -> None:
    async def work() -> None:
        made, core = port()
        door = FakeDoor()
        token, _ = made.connect(door, "a")
        first = cast(Any, made._timer)
        assert not first.cancelled()  # nothing is due, but a read may bring something without a word
        core.due = 0.0
        core.ready = [(token, 8)]
        made.arm()
        assert first.cancelled()
        await door.told.wait()
        assert (door.asked, core.timers) == ([8], 1)
        made.disconnect(token)
        made.close()

    run(work())


def test_steps_are_measured_by_kind_and_by_turn(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        made, core = port(measure_steps=True)
        assert made.steps is not None
        door = FakeDoor()
        token, _ = made.connect(door, "a")
        core.ready = [(token, 4)]
        os.eventfd_write(core.descriptor, 1)
        await door.told.wait()
        burnt = made.steps.run("read", burn, 2_000_000)
        assert made.steps.longest_ns["read"] >= 2_000_000
        assert burnt >= 2_000_000
        made.steps.run("read", burn, 1)
        await asyncio.sleep(0)  # the turn ends
        await asyncio.sleep(0)
        longest = made.steps.longest_ns
        assert longest["turn"] >= longest["read"] >= 2_000_000
        assert longest["completions"] > 0
        made.close()

    with caplog.at_level(logging.INFO, "headrace.engine"):
        run(work())
    assert re.search(r"in ms of CPU: completions [\d.]+, core [\d.]+, read [\d.]+, turn [\d.]+", caplog.text)


def test_the_access_log_is_written_in_steps_and_none_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    def written() -> int:
        return sum(record.name == "headrace.access" for record in caplog.records)

    async def work() -> None:
        made, core = port(access_log=True)
        door = FakeDoor()
        token, _ = made.connect(door, "a")
        core.entries = [ENTRY] * 1000
        core.due = 0.0
        core.ready = [(token, 8)]
        made.arm()
        await door.told.wait()
        seen = [written()]
        while core.entries:  # each turn of the loop writes some, and others have theirs between
            await asyncio.sleep(0)
            seen.append(written())
        steps = [after - before for before, after in pairwise(seen)]
        assert 0 < max(seen[0], *steps) <= 32
        assert written() == 1000
        core.entries = [ENTRY] * 300
        made.close()
        assert written() == 1300

    with caplog.at_level(logging.INFO, "headrace.access"):
        run(work())


def burn(ns: int) -> int:
    """Uses that much CPU; returns how much it was."""
    began = time.thread_time_ns()
    while time.thread_time_ns() - began < ns:
        pass
    return time.thread_time_ns() - began


def test_short_limits_are_looked_at_often_enough() -> None:
    async def work() -> None:
        made, _ = port(message_stall_seconds=0.04)
        made.connect(FakeDoor(), "a")
        timer = made._timer
        assert timer is not None
        assert timer.when() - made.loop.time() <= 0.01
        made.close()
        assert timer.cancelled()

    run(work())
