"""The protocol's log settings, on Python's logging."""

import logging
from collections.abc import Iterator

import pytest

from headrace import config, log_settings
from headrace.errors import InvalidArgument
from headrace.log_settings import LogSettings

HOST = config.Host(cores=2, memory_bytes=8 * config.GIB)
LOG = logging.getLogger("headrace.repository")
ACCESS = logging.getLogger("headrace.access")


@pytest.fixture
def settings() -> Iterator[LogSettings]:
    root = logging.getLogger("headrace")
    level = root.level
    made = LogSettings(config.resolve({}, host=HOST))
    yield made
    made.update(dict.fromkeys(("log_info", "log_warning", "log_error", "log_verbose_level", "log_format")))
    made.close()
    root.setLevel(level)


def shown(caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        LOG.log(level, "x")
    return [record.levelname[0] for record in caplog.records]


def test_each_switch_is_its_level(settings: LogSettings, caplog: pytest.LogCaptureFixture) -> None:
    settings.update({})
    assert shown(caplog) == ["I", "W", "E", "C"]
    settings.update({"log_info": False})
    assert shown(caplog) == ["W", "E", "C"]
    settings.update({"log_info": True, "log_warning": False, "log_error": False})
    assert shown(caplog) == ["I"]
    settings.update({"log_verbose_level": 1})
    assert shown(caplog) == ["D", "I"]
    settings.update({"log_warning": None, "log_error": None, "log_verbose_level": None})
    assert shown(caplog) == ["I", "W", "E", "C"]
    settings.update({"log_info": False, "log_warning": False, "log_error": False})
    assert shown(caplog) == []
    settings.close()
    assert shown(caplog) == ["I", "W", "E", "C"]


def test_the_access_log_is_not_touched(settings: LogSettings, caplog: pytest.LogCaptureFixture) -> None:
    settings.update({"log_info": False})
    with caplog.at_level(logging.INFO, "headrace.access"):
        ACCESS.info("a call")
    assert [record.message for record in caplog.records] == ["a call"]


@pytest.mark.parametrize(
    ("level", "switches"),
    [
        ("debug", [True, True, 1]),
        ("info", [True, True, 0]),
        ("warning", [False, True, 0]),
        ("error", [False, False, 0]),
    ],
)
def test_the_start_is_what_log_level_says(level: str, switches: list[object]) -> None:
    values = LogSettings(config.resolve({"log_level": level}, host=HOST)).values()
    assert [values[key] for key in ("log_info", "log_warning", "log_verbose_level")] == switches


@pytest.mark.parametrize(
    "changes",
    [
        {"log_file": "x"},
        {"log_format": "XML"},
        {"log_verbose_level": -1},
        {"log_verbose_level": True},
        {"log_info": 1},
        {"a": 1},
    ],
)
def test_what_cannot_be_set(settings: LogSettings, changes: dict[str, bool | int | str]) -> None:
    before = settings.values()
    with pytest.raises(InvalidArgument):
        settings.update({"log_warning": False, **changes})
    assert settings.values() == before


def test_the_two_forms_of_a_line(settings: LogSettings) -> None:
    record = logging.LogRecord("headrace.x", logging.WARNING, "/a/b.py", 7, "it is %d", (5,), None)
    record.created, record.msecs = 1_700_000_000.25, 250.0
    assert log_settings._LINE.format(record) == "2023-11-14T22:13:20.250Z WARNING headrace.x: it is 5"
    settings.update({"log_format": "ISO8601"})
    assert log_settings._LINE.format(record).startswith("2023-11-14T22:13:20Z W ")
    assert log_settings._LINE.format(record).endswith(" b.py:7] it is 5")
