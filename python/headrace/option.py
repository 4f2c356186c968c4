"""One option of the server: its type, its bounds, and how a value is read and shown."""

import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from headrace.errors import StartError
from headrace.host import Host
from headrace.sizes import GIB, KIB, MIB, UNITS

__all__ = ["ENV_PREFIX", "ConfigError", "Derived", "Option"]

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
ENV_PREFIX = "HEADRACE_"


class ConfigError(StartError):
    """An option that is unknown, unreadable or out of range. The text names key, value and range."""


class Derived(NamedTuple):
    """A default that depends on the machine or on options above it in the table; `text` says how."""

    text: str
    value: Callable[[Host, Mapping[str, Any]], Any]


class Option(NamedTuple):
    """One row. `full` says what a caller sees when a limit is reached ("" where the option is no limit)."""

    name: str
    type: type
    group: str
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()
    full: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENV_PREFIX + self.name.upper()

    @property
    def default_text(self) -> str:
        return self.default.text if isinstance(self.default, Derived) else self.show(self.default)

    @property
    def range_text(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.type is bool:
            return "true or false"
        if self.type is tuple:
            return "a list: repeat the flag; in the environment, with spaces between; in the file, an array"
        if self.minimum is not None and self.maximum is not None:
            return f"{self.show(self.minimum)} to {self.show(self.maximum)}"
        return f"{self.show(self.minimum)} or more" if self.minimum is not None else ""

    def show(self, value: Any) -> str:
        """`value` for people: "64 MiB", "30 s", "false", "(none)"."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if self.unit == "bytes":
            for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
                if value and value % unit == 0:
                    return f"{value // unit} {name}"
            return f"{value} bytes"
        if self.unit == "s":
            return f"{value:g} s"
        if isinstance(value, tuple):
            return " ".join(value) or "(none)"
        return str(value) if value != "" else "(none)"

    def parse(self, value: Any, source: str) -> Any:
        """`value` (text, or what TOML made of it) as this option's type, in range; else ConfigError."""
        parsed = self._convert(value)
        fits = parsed is not None and (
            (self.minimum is None or parsed >= self.minimum)
            and (self.maximum is None or parsed <= self.maximum)
            and (not self.choices or parsed in self.choices)
        )
        if fits:
            return parsed
        wanted = self.range_text or {int: "a whole number", float: "a number", str: "a text"}[self.type]
        raise ConfigError(f"{self.name} is {value!r} ({source}), which it cannot be: give {wanted}.")

    def _convert(self, value: Any) -> Any:
        if self.type is str:
            return value if isinstance(value, str) else str(value) if isinstance(value, os.PathLike) else None
        if self.type is tuple:
            words = value.split() if isinstance(value, str) else value
            return tuple(words) if all(isinstance(word, str) for word in words) else None
        if self.type is bool:
            word = str(value).strip().lower()
            return True if word in _TRUE else False if word in _FALSE else None
        if isinstance(value, bool):
            return None
        if self.type is float:
            try:
                number = float(value)
            except (TypeError, ValueError):
                return None
            return number if math.isfinite(number) else None
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"\s*(-?\d{1,18})\s*([A-Za-z]*)\s*", value) if isinstance(value, str) else None
        if match is None or (match.group(2) and self.unit != "bytes"):
            return None
        factor = UNITS.get(match.group(2).upper())
        return int(match.group(1)) * factor if factor else None
