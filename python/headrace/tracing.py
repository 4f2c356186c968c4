"""Traces of single requests: which are taken (settings, for all models and for one) and the file they are written to.

The core samples and stamps (`TraceSampler`); here are the settings by the protocol's names, and a thread of its own
that writes Triton's JSON. A setting of one model that is not set follows the setting for all.
"""

import dataclasses
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Generic, NamedTuple, Protocol, TypeVar

from headrace.config import Config, ConfigError
from headrace.errors import InvalidArgument, Unimplemented

__all__ = ["EVENTS", "Sampler", "Trace", "Tracer"]

log = logging.getLogger("headrace.tracing")

# Of Trace.times, in this order; 0 where the request did not get that far.
EVENTS = (
    "REQUEST_START",
    "QUEUE_START",
    "COMPUTE_START",
    "COMPUTE_INPUT_END",
    "COMPUTE_OUTPUT_START",
    "COMPUTE_END",
    "REQUEST_END",
)
_MOST = 1 << 31  # of a rate, a count, a frequency
_MOST_WAITING = 256  # chunks that the writer has not come to; more are dropped, and that is said
_NAMES = ("trace_level", "trace_rate", "trace_count", "log_frequency")


class Trace(NamedTuple):
    """One traced request. `times`: nanoseconds of the steady clock, an entry for each of EVENTS."""

    sampler: int
    model: str
    version: str
    request_id: str
    times: tuple[int, ...]


class Sampler(Protocol):
    """The core's: every so many requests, so often."""

    @property
    def remaining(self) -> int:
        """How many it will still take; -1: no bound."""


S = TypeVar("S", bound=Sampler)


@dataclasses.dataclass(frozen=True)
class _Setting:
    """What is set, and None for what follows the setting above."""

    trace_level: str | None = None
    trace_rate: int | None = None
    trace_count: int | None = None
    log_frequency: int | None = None

    def changed(self, values: "Mapping[str, str | int | None]") -> "_Setting":
        return _Setting(**{**dataclasses.asdict(self), **values})

    def over(self, below: "_Setting") -> "_Setting":
        mine = dataclasses.asdict(self)
        return _Setting(**{k: v if v is not None else getattr(below, k) for k, v in mine.items()})


_DEFAULT = _Setting("OFF", 1000, -1, 0)


class _Active(NamedTuple, Generic[S]):
    """A setting in force: `sampler` is None when it traces nothing."""

    setting: _Setting
    number: int
    sampler: S | None


class Tracer(Generic[S]):
    """Settings and file of one server. Settings on loop 0; `put` on any thread."""

    def __init__(
        self,
        config: Config,
        make_sampler: Callable[[int, int, int], S],
        publish: Callable[[Mapping[str, S | None]], None],
    ) -> None:
        """`make_sampler(number, rate, count)`; `publish` takes the samplers by model, "" for all others, None where
        nothing is traced. ConfigError for a --trace-config that cannot be."""
        self.file, self._base = _from_flags(config.trace_config)
        self._make_sampler = make_sampler
        self._publish = publish
        self._global = _Setting()
        self._models: dict[str, _Setting] = {}
        self._active: dict[str, _Active[S]] = {}
        self._numbers = 0
        self._writer = _Writer(self.file) if self.file else None
        self._rebuild("")

    @property
    def tracing(self) -> bool:
        """Some request may be traced."""
        return any(active.sampler is not None for active in self._active.values())

    def values(self, model: str) -> dict[str, list[str]]:
        """The settings of a model, or of all others for "", by the protocol's names. trace_count is what is left."""
        active = self._active.get(model) or self._active[""]
        setting = active.setting
        count = setting.trace_count if active.sampler is None else active.sampler.remaining
        return {
            "trace_file": [self.file],
            "trace_level": [setting.trace_level or "OFF"],
            "trace_rate": [str(setting.trace_rate)],
            "trace_count": [str(count)],
            "log_frequency": [str(setting.log_frequency)],
            "trace_mode": ["triton"],
        }

    def update(self, model: str, changes: Mapping[str, Sequence[str] | None]) -> dict[str, list[str]]:
        """Sets these (None or empty: follow the setting above), all or none, and returns all. InvalidArgument,
        Unimplemented: what cannot be set."""
        parsed = {key: _parsed(key, list(value or ())) for key, value in changes.items()}
        if parsed.get("trace_level") == "TIMESTAMPS" and not self.file:
            raise InvalidArgument(
                "trace_level cannot be TIMESTAMPS: the server was started without a file for traces; start it with "
                "--trace-config triton,file=PATH"
            )
        if parsed:
            if model:
                self._models[model] = self._models.get(model, _Setting()).changed(parsed)
                if self._models[model] == _Setting():
                    del self._models[model]
            else:
                self._global = self._global.changed(parsed)
            self._rebuild(model)
        return self.values(model)

    def _rebuild(self, changed: str) -> None:
        """New samplers for what has changed: with the global setting all that follow it, else one model's."""
        above = self._global.over(self._base)
        wanted = {"": above, **{name: setting.over(above) for name, setting in self._models.items()}}
        before = self._active
        self._active = {}
        for name, setting in wanted.items():
            old = before.pop(name, None)
            if old is not None and name != changed and old.setting == setting:
                self._active[name] = old
                continue
            self._numbers += 1
            sampler = None
            if setting.trace_level == "TIMESTAMPS" and self._writer is not None:
                rate, count = setting.trace_rate or 1, -1 if setting.trace_count is None else setting.trace_count
                sampler = self._make_sampler(self._numbers, rate, count)
                self._writer.begin(self._numbers, count, setting.log_frequency or 0)
            self._active[name] = _Active(setting, self._numbers, sampler)
            if old is not None and old.sampler is not None and self._writer is not None:
                self._writer.end(old.number)
        for old in before.values():
            if old.sampler is not None and self._writer is not None:
                self._writer.end(old.number)
        self._publish({name: active.sampler for name, active in self._active.items()})

    def put(self, traces: Sequence[Trace], dropped: int) -> None:
        """Requests that were traced, to be written; `dropped` were lost before."""
        if self._writer is not None:
            self._writer.put(traces, dropped)

    def close(self) -> None:
        """Writes what is left. Blocks; idempotent."""
        if self._writer is not None:
            self._writer.close()


def _from_flags(words: Sequence[str]) -> tuple[str, _Setting]:
    """--trace-config as Triton takes it: [MODE,]KEY=VALUE."""
    file, values = "", dict[str, str | int | None]()
    names = {"level": "trace_level", "rate": "trace_rate", "count": "trace_count", "log-frequency": "log_frequency"}
    for word in words:
        mode, _, pair = word.rpartition(",")
        key, equals, value = pair.partition("=")
        if mode not in ("", "triton") or (key == "mode" and value != "triton"):
            raise ConfigError(f"trace_config is '{word}': traces are written in the mode triton only.")
        if not equals or (key not in names and key not in ("file", "mode")):
            raise ConfigError(f"trace_config is '{word}': write one of {', '.join(names)}, file or mode, as rate=100.")
        if key == "file":
            file = value
        elif key != "mode":
            try:
                values[names[key]] = _parsed(names[key], value.split())
            except (InvalidArgument, Unimplemented) as error:
                raise ConfigError(f"trace_config is '{word}': {error.message}.") from None
    if file and not os.access(Path(file).parent, os.W_OK):
        raise ConfigError(f"trace_config names the file {file}, whose folder cannot be written to.")
    if values.get("trace_level") == "TIMESTAMPS" and not file:
        raise ConfigError("trace_config has a level and no file: add --trace-config triton,file=PATH.")
    return file, _Setting(**values).over(_DEFAULT)  # type: ignore[arg-type]  # _parsed knows the types


def _parsed(key: str, value: list[str]) -> str | int | None:
    if key == "trace_file":
        raise InvalidArgument("trace_file cannot be changed while the server runs: start it with --trace-config")
    if key not in _NAMES:
        raise InvalidArgument(f"there is no trace setting '{key}'; there are {', '.join(_NAMES)}")
    if not value:
        return None
    if key == "trace_level":
        levels = [level for level in value if level != "OFF"]
        if "TENSORS" in levels:
            raise Unimplemented("trace_level TENSORS is not served: traces have time stamps and no tensors")
        if any(level not in ("TIMESTAMPS", "MIN", "MAX") for level in levels):
            raise InvalidArgument(f"trace_level is {value}: it must be OFF or TIMESTAMPS")
        return "TIMESTAMPS" if levels else "OFF"
    lowest = {"trace_rate": 1, "trace_count": -1, "log_frequency": 0}[key]
    try:
        (number,) = (int(word) for word in value)
    except ValueError:
        raise InvalidArgument(f"{key} is {value}: it must be one whole number") from None
    if not lowest <= number < _MOST:
        raise InvalidArgument(f"{key} is {number}: it must be {lowest} to {_MOST - 1}")
    return number


# --- The file --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Batch:
    """What one sampler has given and is not written yet."""

    count: int
    frequency: int
    collected: int = 0
    lines: list[str] = dataclasses.field(default_factory=list)


class _Writer:
    """The file, on a thread of its own. With a log frequency, and when a count is reached, FILE.0, FILE.1, ... hold
    so many traces each; the rest goes to FILE when its setting ends, or the server. Each file is whole at any time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(1, "headrace-trace")
        self._lock = threading.Lock()
        self._waiting = 0
        self._dropped = 0
        self._closed = False
        # Of the thread alone.
        self._batches: dict[int, _Batch] = {}
        self._next_id = 0
        self._next_file = 0
        self._main: IO[bytes] | None = None

    def begin(self, number: int, count: int, frequency: int) -> None:
        self._do(lambda: self._batches.update({number: _Batch(count, frequency)}))

    def end(self, number: int) -> None:
        self._do(lambda: self._flush(self._batches.pop(number)))

    def put(self, traces: Sequence[Trace], dropped: int) -> None:
        with self._lock:
            full = self._waiting >= _MOST_WAITING
            self._dropped += dropped + (len(traces) if full else 0)
            if not full:
                self._waiting += 1
        if not full:
            self._do(lambda: self._write(traces))

    def close(self) -> None:
        if not self._closed:
            self._do(self._flush_all)
        self._closed = True
        self._threads.shutdown(wait=True)

    def _do(self, work: Callable[[], None]) -> None:
        if not self._closed:
            self._threads.submit(self._guarded, work)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            log.error("traces cannot be written to %s: %s", error.filename or self._path, error.strerror)
        except Exception:
            log.exception("traces could not be written")

    def _write(self, traces: Sequence[Trace]) -> None:
        with self._lock:
            self._waiting -= 1
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("%d traces were lost: they came faster than they could be written", dropped)
        for trace in traces:
            self._next_id += 1
            batch = self._batches.get(trace.sampler)
            if batch is None:  # its setting has ended while it was on its way
                self._append([_entry(self._next_id, trace)])
                continue
            batch.collected += 1
            batch.lines.append(_entry(self._next_id, trace))
            if batch.collected == batch.count or (batch.frequency and len(batch.lines) >= batch.frequency):
                with open(f"{self._path}.{self._next_file}", "wb") as stream:
                    stream.write(_array(batch.lines))
                self._next_file += 1
                batch.lines.clear()

    def _flush(self, batch: _Batch) -> None:
        if batch.lines:
            self._append(batch.lines)
            batch.lines.clear()

    def _flush_all(self) -> None:
        for batch in self._batches.values():
            self._flush(batch)
        if self._main is not None:
            self._main.close()

    def _append(self, lines: Sequence[str]) -> None:
        if self._main is None:
            self._main = open(self._path, "wb")  # noqa: SIM115 (open until the end)
            self._main.write(_array(lines))
        else:
            self._main.seek(-1, os.SEEK_END)
            self._main.write(b"," + _array(lines)[1:])
        self._main.flush()


def _array(lines: Sequence[str]) -> bytes:
    return ("[" + ",".join(lines) + "]").encode()


def _entry(number: int, trace: Trace) -> str:
    """Two JSON objects, as Triton writes them: who it was, and when what happened."""
    about: dict[str, object] = {"id": number, "model_name": trace.model, "model_version": int(trace.version)}
    if trace.request_id:
        about["request_id"] = trace.request_id
    stamps = [{"name": name, "ns": ns} for name, ns in zip(EVENTS, trace.times, strict=True) if ns]
    return f"{json.dumps(about)},{json.dumps({'id': number, 'timestamps': stamps})}"
