"""What is logged, and how: the protocol's log settings on Python's logging, for the loggers under `headrace`.

One process has one log, so its settings are the process's. Any thread.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping

from headrace.config import Config
from headrace.errors import InvalidArgument

__all__ = ["LogSettings", "Value", "start_log"]

Value = bool | int | str

_ROOT = logging.getLogger("headrace")
_ACCESS = "headrace.access"  # asked for by a flag of its own, whatever the rest says
_SWITCHES = {"log_error": logging.ERROR, "log_warning": logging.WARNING, "log_info": logging.INFO}
_FORMATS = ("default", "ISO8601")
_MOST_VERBOSE = 1 << 16


class _Line(logging.Formatter):
    """One line an event, with the time in UTC. "ISO8601" is the line that Triton writes under that name."""

    form = "default"

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{moment}Z" if self.form == "ISO8601" else f"{moment}.{int(record.msecs):03d}Z"

    def formatMessage(self, record: logging.LogRecord) -> str:
        if self.form == "ISO8601":
            where = f"{record.filename}:{record.lineno}"
            return f"{record.asctime} {record.levelname[0]} {os.getpid()} {where}] {record.message}"
        return f"{record.asctime} {record.levelname} {record.name}: {record.message}"

    def usesTime(self) -> bool:
        return True


_LINE = _Line()


def start_log(config: Config) -> None:
    """One line an event on stderr, from --log-level on. For a process of our own: `headrace.Server` leaves the log to
    the program that it is in."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LINE)
    _ROOT.addHandler(handler)
    _ROOT.setLevel(config.log_level.upper())
    if config.access_log:
        logging.getLogger(_ACCESS).setLevel(logging.INFO)
    for warning in config.warnings:
        _ROOT.warning("%s", warning)
    for line in config.changed():
        _ROOT.debug("%s", line)


class LogSettings:
    """The protocol's names for it: log_info, log_warning and log_error switch their level on and off, one by one;
    log_verbose_level 1 or more shows what is for debugging; log_format is the form of a line on stderr; log_file is
    read-only and empty, because the log goes to stderr."""

    def __init__(self, config: Config) -> None:
        level = logging.getLevelName(config.log_level.upper())
        self._start: dict[str, Value] = {
            "log_file": "",
            "log_info": level <= logging.INFO,
            "log_warning": level <= logging.WARNING,
            "log_error": True,
            "log_verbose_level": 1 if level <= logging.DEBUG else 0,
            "log_format": "default",
        }
        self._now = dict(self._start)
        self._filter = self._passes  # one object, so that it can be taken off again
        self._filtered: list[logging.Logger] = []

    def values(self) -> dict[str, Value]:
        """All settings, by the protocol's names."""
        return dict(self._now)

    def update(self, changes: Mapping[str, Value | None]) -> dict[str, Value]:
        """Sets these (None: as at the start), all or none, and returns all. InvalidArgument names what is wrong."""
        values = dict(self._now)
        for key, value in changes.items():
            if key not in values:
                raise InvalidArgument(f"there is no log setting '{key}'; there are {', '.join(values)}")
            values[key] = self._start[key] if value is None else _checked(key, value)
        self._now = values
        self._apply()
        return dict(values)

    def _apply(self) -> None:
        # A logger hears its own records and not its children's filters, so each gets ours. Loggers are made at import.
        if not self._filtered:
            names = [name for name in logging.root.manager.loggerDict if name.startswith("headrace.")]
            self._filtered = [_ROOT, *(logging.getLogger(name) for name in names if name != _ACCESS)]
            for logger in self._filtered:
                logger.addFilter(self._filter)
        _ROOT.setLevel(logging.DEBUG if self._now["log_verbose_level"] else logging.INFO)
        _LINE.form = str(self._now["log_format"])

    def _passes(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO:
            return bool(self._now["log_verbose_level"])
        switch = next((key for key, level in _SWITCHES.items() if record.levelno >= level), "log_info")
        return bool(self._now[switch])

    def close(self) -> None:
        """Takes its filters off again. Idempotent."""
        for logger in self._filtered:
            logger.removeFilter(self._filter)
        self._filtered.clear()


def _checked(key: str, value: Value) -> Value:
    if key == "log_file":
        raise InvalidArgument("log_file cannot be changed while the server runs: the log goes to stderr")
    if key == "log_format":
        if value not in _FORMATS:
            raise InvalidArgument(f"log_format is {value!r}: it must be one of {', '.join(_FORMATS)}")
        return value
    if key == "log_verbose_level":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_VERBOSE:
            raise InvalidArgument(f"log_verbose_level is {value!r}: it must be a whole number, 0 or more")
        return value
    if not isinstance(value, bool):
        raise InvalidArgument(f"{key} is {value!r}: it must be true or false")
    return value
