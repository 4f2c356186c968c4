"""Traces of single requests: which are taken (settings, for all models and for one) and the file they are written to.

The core samples and stamps (`TraceSampler`); here are the settings by the protocol's names, and a thread of its own
that writes Triton's JSON. A setting of one model that is not set follows the setting for all. With the level TENSORS
the file holds what callers sent and got: their data, shortened where it is long.
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
from headrace.errors import InvalidArgument

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
_MOST_WAITING_BYTES = 32 << 20  # of tensors in these
_MOST_COLLECTED = 16 << 20  # characters that wait for their file to be complete
_LEVELS = ("TIMESTAMPS", "TENSORS")
_NAMES = ("trace_level", "trace_rate", "trace_count", "log_frequency")


TracedTensor = tuple[str, bool, str, tuple[int, ...], int, bytes]


class Trace(NamedTuple):
    """One traced request. `times`: nanoseconds of the steady clock, an entry for each of EVENTS; () without.
    `entered`: its inputs reached the runtime. `tensors`: (name, whether it is an output, datatype, shape, bytes of the
    whole, its first elements) of each, and how many more there were; None without."""

    sampler: int
    model: str
    version: str
    request_id: str
    times: tuple[int, ...]
    entered: bool = True
    tensors: tuple[Sequence[TracedTensor], int] | None = None

    @property
    def bytes(self) -> int:
        """Of its tensors, as far as they are here."""
        return sum(len(row[5]) for row in self.tensors[0]) if self.tensors is not None else 0


class Sampler(Protocol):
    """The core's: every so many requests, so often."""

    @property
    def remaining(self) -> int:
        """How many it will still take; -1: no bound."""


S = TypeVar("S", bound=Sampler)


@dataclasses.dataclass(frozen=True)
class _Setting:
    """What is set, and None for what follows the setting above."""

    trace_level: tuple[str, ...] | None = None  # of _LEVELS; () is OFF
    trace_rate: int | None = None
    trace_count: int | None = None
    log_frequency: int | None = None

    def changed(self, values: "Mapping[str, tuple[str, ...] | int | None]") -> "_Setting":
        return _Setting(**{**dataclasses.asdict(self), **values})

    def over(self, below: "_Setting") -> "_Setting":
        mine = dataclasses.asdict(self)
        return _Setting(**{k: v if v is not None else getattr(below, k) for k, v in mine.items()})


_DEFAULT = _Setting((), 1000, -1, 0)


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
        make_sampler: Callable[[int, int, int, bool, bool], S],
        publish: Callable[[Mapping[str, S | None]], None],
        tensor_text: Callable[[str, bytes], str],
    ) -> None:
        """`make_sampler(number, rate, count, times, tensors)`; `tensor_text` (datatype, elements) as JSON writes
        them, with commas between; `publish` takes the samplers by model, "" for all others, None where
        nothing is traced. ConfigError for a --trace-config that cannot be."""
        self.file, self._base = _from_flags(config.trace_config)
        self._make_sampler = make_sampler
        self._publish = publish
        self._global = _Setting()
        self._models: dict[str, _Setting] = {}
        self._active: dict[str, _Active[S]] = {}
        self._numbers = 0
        self._writer = _Writer(self.file, tensor_text) if self.file else None
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
            "trace_level": list(setting.trace_level or ("OFF",)),
            "trace_rate": [str(setting.trace_rate)],
            "trace_count": [str(count)],
            "log_frequency": [str(setting.log_frequency)],
            "trace_mode": ["triton"],
        }

    def update(self, model: str, changes: Mapping[str, Sequence[str] | None]) -> dict[str, list[str]]:
        """Sets these (None or empty: follow the setting above), all or none, and returns all. InvalidArgument: what
        cannot be set."""
        parsed = {key: _parsed(key, list(value or ())) for key, value in changes.items()}
        if (level := parsed.get("trace_level")) and not self.file:
            raise InvalidArgument(
                f"trace_level cannot be {level}: the server was started without a file for traces; start it with "
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
            if setting.trace_level and self._writer is not None:
                times, tensors = (level in setting.trace_level for level in _LEVELS)
                rate, count = setting.trace_rate or 1, -1 if setting.trace_count is None else setting.trace_count
                sampler = self._make_sampler(self._numbers, rate, count, times, tensors)
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
    file, values, levels = "", dict[str, tuple[str, ...] | int | None](), list[str]()
    names = {"level": "trace_level", "rate": "trace_rate", "count": "trace_count", "log-frequency": "log_frequency"}
    for word in words:
        mode, _, pair = word.rpartition(",")
        key, equals, value = pair.partition("=")
        if mode not in ("", "triton") or (key == "mode" and value != "triton"):
            raise ConfigError(f"trace_config is '{word}': traces are written in the mode triton only.")
        if not equals or (key not in names and key not in ("file", "mode")):
            raise ConfigError(f"trace_config is '{word}': write one of {', '.join(names)}, file or mode, as rate=100.")
        if key == "level":
            levels += value.split()  # said again, as Triton's, it adds one
        if key == "file":
            file = value
        elif key != "mode":
            try:
                values[names[key]] = _parsed(names[key], levels if key == "level" else value.split())
            except InvalidArgument as error:
                raise ConfigError(f"trace_config is '{word}': {error.message}.") from None
    if file and not os.access(Path(file).parent, os.W_OK):
        raise ConfigError(f"trace_config names the file {file}, whose folder cannot be written to.")
    if values.get("trace_level") and not file:
        raise ConfigError("trace_config has a level and no file: add --trace-config triton,file=PATH.")
    return file, _Setting(**values).over(_DEFAULT)  # type: ignore[arg-type]  # _parsed knows the types


def _parsed(key: str, value: list[str]) -> tuple[str, ...] | int | None:
    if key in ("trace_file", "trace_mode"):
        raise InvalidArgument(f"{key} cannot be changed while the server runs: start it with --trace-config")
    if key not in _NAMES:
        raise InvalidArgument(f"there is no trace setting '{key}'; there are {', '.join(_NAMES)}")
    if not value:
        return None
    if key == "trace_level":
        # MIN and MAX are Triton's old names.
        levels = {"TIMESTAMPS" if level in ("MIN", "MAX") else level for level in value if level != "OFF"}
        if not levels <= {*_LEVELS}:
            raise InvalidArgument(f"trace_level is {value}: it must be OFF, or TIMESTAMPS, TENSORS or both")
        return tuple(level for level in _LEVELS if level in levels)
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
    size: int = 0  # of these, in characters

    def clear(self) -> None:
        self.lines.clear()
        self.size = 0


class _Writer:
    """The file, on a thread of its own. With a log frequency, and when a count is reached, FILE.0, FILE.1, ... hold
    so many traces each, or fewer that are long; the rest goes to FILE when there is much of it, or its setting ends, or
    the server. Each file is whole at any time."""

    def __init__(self, path: str, tensor_text: Callable[[str, bytes], str]) -> None:
        self._path = path
        self._tensor_text = tensor_text
        self._threads = ThreadPoolExecutor(1, "headrace-trace")
        self._lock = threading.Lock()
        self._waiting = 0
        self._waiting_bytes = 0
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
        size = sum(trace.bytes for trace in traces)
        with self._lock:
            full = self._waiting >= _MOST_WAITING or self._waiting_bytes >= _MOST_WAITING_BYTES
            self._dropped += dropped + (len(traces) if full else 0)
            if not full:
                self._waiting += 1
                self._waiting_bytes += size
        if not full:
            self._do(lambda: self._write(traces, size))

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

    def _write(self, traces: Sequence[Trace], size: int) -> None:
        with self._lock:
            self._waiting -= 1
            self._waiting_bytes -= size
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("%d traces were lost: they came faster than they could be written", dropped)
        for trace in traces:
            self._next_id += 1
            batch = self._batches.get(trace.sampler)
            line = _entry(self._next_id, trace, self._tensor_text)
            if batch is None:  # its setting has ended while it was on its way
                self._append([line])
                continue
            batch.collected += 1
            batch.lines.append(line)
            batch.size += len(line)
            much = batch.size >= _MOST_COLLECTED
            many = batch.frequency and (much or len(batch.lines) >= batch.frequency)
            if batch.collected == batch.count or many:
                with open(f"{self._path}.{self._next_file}", "wb") as stream:
                    stream.write(_array(batch.lines))
                self._next_file += 1
                batch.clear()
            elif much:
                self._flush(batch)

    def _flush(self, batch: _Batch) -> None:
        if batch.lines:
            self._append(batch.lines)
            batch.clear()

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


def _entry(number: int, trace: Trace, tensor_text: Callable[[str, bytes], str]) -> str:
    """JSON objects, as Triton writes them: who it was, when what happened, and each tensor."""
    about: dict[str, object] = {"id": number, "model_name": trace.model, "model_version": int(trace.version)}
    if trace.request_id:
        about["request_id"] = trace.request_id
    rows = [about]
    if trace.times:
        stamps = [{"name": name, "ns": ns} for name, ns in zip(EVENTS, trace.times, strict=True) if ns]
        rows.append({"id": number, "timestamps": stamps})
    lines = [json.dumps(row) for row in rows]
    if trace.tensors is not None:
        given, left_out = trace.tensors
        said: dict[bool, list[str]] = {False: [], True: []}
        for tensor in given:
            said[tensor[1]].append(json.dumps(_tensor(tensor, tensor_text), ensure_ascii=False))
        activities = (("QUEUE_INPUT", said[False]), ("BACKEND_INPUT", said[False] if trace.entered else []))
        for activity, tensors in (*activities, ("BACKEND_OUTPUT", said[True])):
            lines += [f'{{"id": {number}, "activity": "TENSOR_{activity}", "tensor": {text}}}' for text in tensors]
        if left_out:
            lines.append(json.dumps({"id": number, "tensors_left_out": left_out}))
    return ",".join(lines)


def _tensor(row: TracedTensor, tensor_text: Callable[[str, bytes], str]) -> dict[str, object]:
    name, _, datatype, shape, size, data = row
    said: dict[str, object] = {"name": name, "data": tensor_text(datatype, data)}
    said |= {"shape": ",".join(map(str, shape)), "dtype": datatype}
    if len(data) != size:  # ours: Triton writes all of it
        said |= {"byte_size": size, "shortened_to": len(data)}
    return said
