"""Traces: settings over settings, what the core is told, and files that are whole at any time."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace import config
from headrace.config import ConfigError
from headrace.engine import tensor_text
from headrace.errors import InvalidArgument
from headrace.tracing import EVENTS, Trace, Tracer

HOST = config.Host(cores=2, memory_bytes=8 * config.GIB)


class Rig:
    """A tracer, and what it told the core."""

    def __init__(self, *words: str) -> None:
        self.made: list[tuple[int, int, int]] = []
        self.wants: list[tuple[bool, bool]] = []
        self.published: list[dict[str, Any]] = []
        settings = config.resolve({"trace_config": words}, host=HOST)
        self.tracer = Tracer(settings, self._make, lambda samplers: self.published.append(dict(samplers)), tensor_text)

    def _make(self, number: int, rate: int, count: int, times: bool, tensors: bool) -> Any:
        self.made.append((number, rate, count))
        self.wants.append((times, tensors))
        return SimpleNamespace(number=number, remaining=count)

    def put(self, sampler: int, *ids: str) -> None:
        self.tracer.put([Trace(sampler, "m", "3", name, (1, 2, 3, 4, 5, 6, 7)) for name in ids], 0)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def names(file: Path) -> list[str]:
    return [entry["request_id"] for entry in json.loads(file.read_text()) if "request_id" in entry]


def test_defaults_are_tritons_and_trace_nothing() -> None:
    rig = Rig()
    assert rig.tracer.values("m") == {
        "trace_file": [""],
        "trace_level": ["OFF"],
        "trace_rate": ["1000"],
        "trace_count": ["-1"],
        "log_frequency": ["0"],
        "trace_mode": ["triton"],
    }
    assert rig.published == [{"": None}]
    assert not rig.tracer.tracing


def test_a_model_follows_what_it_does_not_set(tmp_path: Path) -> None:
    rig = Rig(f"triton,file={tmp_path / 't'}", "rate=7")
    rig.tracer.update("", {"trace_level": ["TIMESTAMPS"]})
    rig.tracer.update("m", {"trace_count": ["5"]})
    assert rig.made[-1][1:] == (7, 5)
    rig.tracer.update("", {"trace_rate": ["9"]})
    assert [made[1:] for made in rig.made[-2:]] == [(9, -1), (9, 5)]
    assert rig.tracer.values("m")["trace_rate"] == ["9"]
    assert rig.tracer.values("other")["trace_count"] == ["-1"]
    rig.tracer.update("m", {"trace_count": None})
    assert set(rig.published[-1]) == {""}
    rig.tracer.update("m", {"trace_level": ["OFF"]})
    assert rig.published[-1]["m"] is None
    assert rig.published[-1][""] is not None
    rig.tracer.update("", {"trace_level": [], "trace_rate": None})
    assert rig.tracer.values("")["trace_rate"] == ["7"]
    rig.tracer.close()


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"trace_level": ["TENSORS"]}, InvalidArgument, "without a file"),
        ({"trace_level": ["TENSORS", "SOME"]}, InvalidArgument, "OFF, or TIMESTAMPS, TENSORS or both"),
        ({"trace_level": ["TIMESTAMPS"]}, InvalidArgument, "without a file"),
        ({"trace_rate": ["0"]}, InvalidArgument, "1 to"),
        ({"trace_rate": ["1", "2"]}, InvalidArgument, "one whole number"),
        ({"trace_count": ["x"]}, InvalidArgument, "one whole number"),
        ({"trace_count": ["-2"]}, InvalidArgument, "-1 to"),
        ({"log_frequency": ["-1"]}, InvalidArgument, "0 to"),
        ({"trace_file": ["x"]}, InvalidArgument, "trace_file cannot be changed"),
        ({"trace_mode": ["opentelemetry"]}, InvalidArgument, "trace_mode cannot be changed"),
        ({"other": ["x"]}, InvalidArgument, "no trace setting 'other'"),
    ],
)
def test_what_cannot_be_set(changes: dict[str, list[str]], kind: type[Exception], words: str) -> None:
    rig = Rig()
    with pytest.raises(kind, match=words):
        rig.tracer.update("", {"trace_rate": ["5"], **changes})
    assert rig.tracer.values("")["trace_rate"] == ["1000"]  # all or none
    assert len(rig.published) == 1


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("rate", "write one of"),
        ("speed=1", "write one of"),
        ("rate=0", "trace_rate is 0"),
        ("opentelemetry,url=x", "mode triton only"),
        ("mode=opentelemetry", "mode triton only"),
        ("level=TIMESTAMPS", "a level and no file"),
        ("level=TENSORS", "a level and no file"),
        ("level=ALL", "TIMESTAMPS, TENSORS or both"),
        ("triton,file=/nonexistent/x", "cannot be written to"),
    ],
)
def test_flags_that_cannot_be(word: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Rig(word)


def test_the_rest_goes_to_the_file_which_is_whole_at_any_time(tmp_path: Path) -> None:
    file = tmp_path / "t"
    rig = Rig(f"file={file}", "mode=triton", "level=TIMESTAMPS", "rate=1")
    (first, _, _) = rig.made[-1]
    rig.put(first, "a", "b")
    rig.tracer.update("", {"trace_rate": ["2"]})  # the setting ends: written
    rig.put(first, "late")  # it was on its way
    rig.put(rig.made[-1][0], "c")
    rig.tracer.close()
    assert names(file) == ["a", "b", "late", "c"]
    about, times = json.loads(file.read_text())[:2]
    assert about == {"id": 1, "model_name": "m", "model_version": 3, "request_id": "a"}
    assert times == {"id": 1, "timestamps": [{"name": n, "ns": t} for t, n in enumerate(EVENTS, 1)]}
    rig.tracer.close()


def test_a_frequency_and_a_count_make_files_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "t"
    rig = Rig(f"file={file}", "level=TIMESTAMPS", "rate=1", "log-frequency=2", "count=5")
    rig.put(rig.made[-1][0], *"abcde")
    rig.tracer.close()
    assert [names(Path(f"{file}.{number}")) for number in range(3)] == [["a", "b"], ["c", "d"], ["e"]]
    assert not file.exists()


def test_what_did_not_happen_has_no_time(tmp_path: Path) -> None:
    file = tmp_path / "t"
    rig = Rig(f"file={file}", "level=TIMESTAMPS")
    rig.tracer.put([Trace(rig.made[-1][0], "m", "1", "", (1, 0, 0, 0, 0, 0, 9))], 0)
    rig.tracer.close()
    about, times = json.loads(file.read_text())
    assert "request_id" not in about
    assert [stamp["name"] for stamp in times["timestamps"]] == ["REQUEST_START", "REQUEST_END"]


def test_levels_add_up(tmp_path: Path) -> None:
    rig = Rig(f"file={tmp_path / 't'}", "level=TENSORS", "triton,level=TIMESTAMPS")
    assert rig.tracer.values("")["trace_level"] == ["TIMESTAMPS", "TENSORS"]
    for level, wants in ((["TENSORS"], (False, True)), (["MAX"], (True, False)), (["TENSORS", "MIN"], (True, True))):
        rig.tracer.update("", {"trace_level": level})
        assert rig.wants[-1] == wants
    rig.tracer.update("", {"trace_level": ["OFF"]})
    assert (rig.tracer.values("")["trace_level"], rig.tracer.tracing) == (["OFF"], False)
    rig.tracer.close()


def test_tensors_are_written_as_triton_writes_them(tmp_path: Path) -> None:
    file = tmp_path / "t"
    settings = config.resolve({"trace_config": (f"file={file}", "level=TENSORS")}, host=HOST)
    tracer = Tracer(
        settings, lambda number, *_: SimpleNamespace(number=number, remaining=-1), lambda _: None, tensor_text
    )
    one = ("x", False, "INT32", (1, 2), 8, b"\1\0\0\0\2\0\0\0")
    long = ("ä", True, "BYTES", (3,), 99, b'\2\0\0\0a"\1\0\0\0b')
    wild = ("z", True, "BYTES", (1,), 5, b"\1\0\0\0\xff")
    tracer.put([Trace(1, "m", "3", "r", (), True, ([one, long, wild], 2))], 0)
    tracer.put([Trace(1, "m", "3", "", (1,) * 7, False, ([one], 0))], 0)
    tracer.close()
    rows = json.loads(file.read_text())
    x = {"name": "x", "data": "1,2", "shape": "1,2", "dtype": "INT32"}
    told = {"name": "ä", "data": '"a\\"","b"', "shape": "3", "dtype": "BYTES", "byte_size": 99, "shortened_to": 11}
    assert rows[:4] == [
        {"id": 1, "model_name": "m", "model_version": 3, "request_id": "r"},
        {"id": 1, "activity": "TENSOR_QUEUE_INPUT", "tensor": x},
        {"id": 1, "activity": "TENSOR_BACKEND_INPUT", "tensor": x},
        {"id": 1, "activity": "TENSOR_BACKEND_OUTPUT", "tensor": told},
    ]
    assert rows[4]["tensor"]["data"] == '{"b64":"/w=="}'
    assert rows[5] == {"id": 1, "tensors_left_out": 2}
    assert len(rows[7]["timestamps"]) == 7
    assert [row["activity"] for row in rows[8:]] == ["TENSOR_QUEUE_INPUT"], "it did not run"


@pytest.mark.parametrize("frequency", [0, 1000])
def test_what_waits_for_its_file_has_a_bound(tmp_path: Path, frequency: int) -> None:
    file = tmp_path / "t"
    rig = Rig(f"file={file}", "level=TENSORS", f"log-frequency={frequency}")
    tensor = ("x", True, "INT8", (1 << 20,), 1 << 20, b"7" * (1 << 20))
    for _ in range(20):
        rig.put(rig.made[-1][0], "a")
        rig.tracer.put([Trace(rig.made[-1][0], "m", "3", "b", (), True, ([tensor], 0))], 0)
    until((Path(f"{file}.0") if frequency else file).exists)
    rig.tracer.close()
    assert sum(len(names(each)) for each in tmp_path.iterdir()) == 40


def test_tensors_that_wait_for_the_writer_have_a_bound(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate = threading.Event()

    def slow(datatype: str, data: bytes) -> str:
        gate.wait(60)
        return ""

    settings = config.resolve({"trace_config": (f"file={tmp_path / 't'}", "level=TENSORS")}, host=HOST)
    tracer = Tracer(settings, lambda number, *_: SimpleNamespace(number=number, remaining=-1), lambda _: None, slow)
    trace = Trace(1, "m", "3", "r", (), True, ([("x", True, "INT8", (1,), 8 << 20, b"7" * (8 << 20))], 0))
    for _ in range(10):
        tracer.put([trace], 0)
    gate.set()
    tracer.put([], 0)
    tracer.close()
    assert "traces were lost" in caplog.text
    assert len(names(tmp_path / "t")) == 4


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "t"
    rig = Rig(f"file={file}", "level=TIMESTAMPS")
    file.mkdir()
    rig.tracer.put([Trace(rig.made[-1][0], "m", "1", "", (1,) * 7)], 4)
    rig.tracer.close()
    assert "cannot be written" in caplog.text
    assert "4 traces were lost" in caplog.text
