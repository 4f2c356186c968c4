"""Traces: settings over settings, what the core is told, and files that are whole at any time."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headrace import config
from headrace.config import ConfigError
from headrace.errors import InvalidArgument, Unimplemented
from headrace.tracing import EVENTS, Trace, Tracer

HOST = config.Host(cores=2, memory_bytes=8 * config.GIB)


class Rig:
    """A tracer, and what it told the core."""

    def __init__(self, *words: str) -> None:
        self.made: list[tuple[int, int, int]] = []
        self.published: list[dict[str, Any]] = []
        settings = config.resolve({"trace_config": words}, host=HOST)
        self.tracer = Tracer(settings, self._make, lambda samplers: self.published.append(dict(samplers)))

    def _make(self, number: int, rate: int, count: int) -> Any:
        self.made.append((number, rate, count))
        return SimpleNamespace(number=number, remaining=count)

    def put(self, sampler: int, *ids: str) -> None:
        self.tracer.put([Trace(sampler, "m", "3", name, (1, 2, 3, 4, 5, 6, 7)) for name in ids], 0)


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
        ({"trace_level": ["TENSORS"]}, Unimplemented, "time stamps and no tensors"),
        ({"trace_level": ["SOME"]}, InvalidArgument, "OFF or TIMESTAMPS"),
        ({"trace_level": ["TIMESTAMPS"]}, InvalidArgument, "without a file"),
        ({"trace_rate": ["0"]}, InvalidArgument, "1 to"),
        ({"trace_rate": ["1", "2"]}, InvalidArgument, "one whole number"),
        ({"trace_count": ["x"]}, InvalidArgument, "one whole number"),
        ({"trace_count": ["-2"]}, InvalidArgument, "-1 to"),
        ({"log_frequency": ["-1"]}, InvalidArgument, "0 to"),
        ({"trace_file": ["x"]}, InvalidArgument, "cannot be changed"),
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
        ("level=TENSORS", "no tensors"),
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


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "t"
    rig = Rig(f"file={file}", "level=TIMESTAMPS")
    file.mkdir()
    rig.tracer.put([Trace(rig.made[-1][0], "m", "1", "", (1,) * 7)], 4)
    rig.tracer.close()
    assert "cannot be written" in caplog.text
    assert "4 traces were lost" in caplog.text
