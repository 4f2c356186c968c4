"""The only place with defaults: every option, its bounds, and what it means when a limit is full.

A value comes from a TOML file (`--config FILE`, keys as in the table), from the environment (`HEADRACE_<NAME>`) or from
a flag (`--<name>`), the later winning; `Config.sources` says which. Sizes are bytes and take KiB, MiB and GiB; times
are seconds. `scripts/configuration_page.py` makes docs/configuration.md of the table.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, get_origin

from headrace.header_pattern import header_matcher
from headrace.host import Host
from headrace.option import ENV_PREFIX, ConfigError, Derived, Option
from headrace.resources import resource_limits
from headrace.sizes import GIB, KIB, MIB, memory_budgets
from headrace.toml_file import read_toml

if TYPE_CHECKING:
    import argparse

__all__ = [
    "GIB",
    "KIB",
    "MIB",
    "OPTIONS",
    "Config",
    "ConfigError",
    "Host",
    "Option",
    "add_arguments",
    "resolve",
]

CONFIG_FILE_VARIABLE = "HEADRACE_CONFIG"


# --- The table -------------------------------------------------------------------------------------------------------


def _option(group: str, default: Any, help: str, **more: Any) -> Any:
    return dataclasses.field(metadata={"group": group, "default": default, "help": help, **more})


def _bytes(default: Any, help: str, full: str, minimum: int = KIB) -> Any:
    return _option("Limits", default, help, full=full, unit="bytes", minimum=minimum, maximum=1 << 50)


def _count(default: Any, help: str, full: str, maximum: int) -> Any:
    return _option("Limits", default, help, full=full, minimum=1, maximum=maximum)


def _seconds(group: str, default: float, help: str, full: str = "", minimum: float = 0.01) -> Any:
    return _option(group, default, help, full=full, unit="s", minimum=minimum, maximum=86400.0)


_PORT = {"minimum": 0, "maximum": 65535}
_EXHAUSTED = "RESOURCE_EXHAUSTED / 429"
_INVALID = "INVALID_ARGUMENT / 400"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """All options, resolved. Each field is one row of the table; `sources` says where its value came from."""

    model_repository: str = _option("Models", "", "Folder of models, each as MODEL/VERSION/model.onnx.")
    model_load_thread_count: int = _option("Models", 4, "Models that load at one time.", minimum=1, maximum=64)
    model_memory_budget: tuple[str, ...] = _option(
        "Models",
        Derived("75 % of the memory limit", lambda host, _: (f"cpu={host.memory_bytes * 3 // 4}",)),
        "Memory for loaded models, loads at their peak included: BYTES, or DEVICE=BYTES (cpu=2GiB). What does not fit "
        "sleeps, and is loaded when it is asked for.",
        full="the model of least worth that is not in use goes to sleep",
    )
    model_control_mode: str = _option(
        "Models",
        "none",
        "What is served: all that the repository holds at the start (none), or what load requests ask for (explicit).",
        choices=("none", "poll", "explicit"),
    )
    load_model: tuple[str, ...] = _option(
        "Models", (), "A model to load at the start in mode explicit; * is all of them."
    )
    allow_model_upload: bool = _option("Models", False, "A load request may bring the model's files with it.")
    max_upload_bytes: int = _option(
        "Models",
        GIB,
        "Files that load requests have brought, all models together.",
        full=_EXHAUSTED,
        unit="bytes",
        minimum=KIB,
        maximum=1 << 50,
    )
    exit_on_error: bool = _option("Models", False, "End the start-up if any model cannot be loaded.")
    strict_readiness: bool = _option("Models", False, "The server is ready only if every model is.")
    default_max_batch_size: int = _option(
        "Models",
        32,
        "Rows of a batch where a model can be batched and its config does not say.",
        minimum=1,
        maximum=1 << 20,
    )

    host: str = _option("Network", "127.0.0.1", "Address to listen on; 0.0.0.0 is every interface.")
    grpc_port: int = _option("Network", 8001, "Port of gRPC; 0 takes a free one and prints it.", **_PORT)
    http_port: int = _option("Network", 8000, "Port of HTTP/1.1; 0 takes a free one and prints it.", **_PORT)
    reuse_port: bool = _option(
        "Network", False, "SO_REUSEPORT: several servers share the ports (replicas on one host)."
    )
    allow_client_shm: bool = _option(
        "Network",
        False,
        "Clients may name POSIX shared memory of this host that holds inputs and takes outputs; the server reads and "
        "writes any that its user may open.",
    )
    cors_allow_origin: tuple[str, ...] = _option(
        "Network", (), "A site whose pages may call this server, as https://site[:port]; * is every site."
    )
    grpc_header_forward_pattern: str = _option(
        "Network",
        "",
        "A regular expression (Python's): metadata of ModelInfer and ModelStreamInfer whose whole name matches, in any "
        "case, become string parameters of the request. None by default.",
    )
    http_header_forward_pattern: str = _option(
        "Network", "", "The same of headers of inference requests over HTTP/1.1 (gRPC-Web's are metadata)."
    )
    io_threads: int = _option("Network", 1, "Event loops, each in a thread of its own.", minimum=1, maximum=64)

    lanes: int = _option(
        "Compute",
        Derived("the cores", lambda host, _: host.cores),
        "Threads that run batches, for all models together; at most as many as there are cores.",
        minimum=1,
        maximum=1024,
    )
    compute_threads: int = _option(
        "Compute",
        0,
        "Threads that one run of a model may use, where its config does not say; 0: found for each model by short "
        "trials when it is loaded.",
        minimum=0,
        maximum=1024,
    )

    scheduler_learning: str = _option(
        "Compute",
        "on",
        "off: no costs are learnt, and nothing is predicted. For measuring what learning is worth.",
        choices=("on", "off"),
    )
    rate_limit: str = _option(
        "Compute",
        "off",
        "execution_count: a batch waits for the resources that its model's rate_limiter names. off: they are ignored.",
        choices=("execution_count", "off"),
    )
    rate_limit_resource: tuple[str, ...] = _option(
        "Compute",
        (),
        "How much there is of a resource: NAME:COUNT, on each device, or NAME:COUNT:DEVICE. What is not said is as "
        "much as the model that needs most of it.",
    )
    device: str = _option(
        "Compute",
        "auto",
        "Where a model runs whose config does not say: auto (CUDA where the runtime has it, else the CPU), cpu, cuda, "
        "or cuda:N for GPU number N.",
    )
    strict_device: bool = _option(
        "Compute", False, "A model that cannot run where it is asked to is not served, instead of on the CPU."
    )
    cache_dir: str = _option(
        "Compute", "", "Folder where engines that TensorRT builds are kept; none: they are built at each load."
    )

    max_request_bytes: int = _bytes(
        64 * MIB, "One request message, as sent and after inflating.", f"{_EXHAUSTED}; HTTP 413"
    )
    max_header_bytes: int = _bytes(64 * KIB, "Header block of one request.", "stream reset / 431")
    max_concurrent_streams: int = _count(1024, "Calls open at one time on one connection.", "REFUSED_STREAM", 1 << 20)
    max_connections: int = _count(10_000, "Connections, all ports together.", "accepted, then GOAWAY / 503", 1 << 20)
    connection_inflight_bytes: int = _bytes(
        Derived("4 x max_request_bytes (256 MiB)", lambda _, values: 4 * values["max_request_bytes"]),
        "Request bytes in flight on one connection.",
        _EXHAUSTED,
    )
    process_inflight_bytes: int = _bytes(
        Derived(
            "25 % of the memory limit, at least 2 x max_request_bytes",
            lambda host, values: max(host.memory_bytes // 4, 2 * values["max_request_bytes"]),
        ),
        "Request bytes in flight in the whole process.",
        _EXHAUSTED,
    )
    max_output_bytes: int = _bytes(
        64 * MIB,
        "Response bytes that wait on one connection (one larger response may stand alone).",
        "new calls are refused",
    )
    max_queue_size: int = _count(4096, "Requests that wait for one model.", _EXHAUSTED, 1 << 24)
    max_queue_bytes: int = _bytes(
        Derived("4 x max_request_bytes (256 MiB)", lambda _, values: 4 * values["max_request_bytes"]),
        "Bytes of requests that wait for one model.",
        _EXHAUSTED,
    )
    max_tensors: int = _count(256, "Inputs and outputs of one request.", _INVALID, 1 << 16)
    max_name_bytes: int = _count(1024, "Length of one name in a request.", _INVALID, 1 << 16)
    max_dims: int = _count(32, "Dimensions of one tensor.", _INVALID, 255)
    max_parameters: int = _count(256, "Parameters of one request, input or output.", _INVALID, 1 << 16)
    max_shm_regions: int = _count(1024, "Regions of shared memory that clients have registered.", _EXHAUSTED, 1 << 20)
    write_stall_seconds: float = _seconds("Limits", 30.0, "Output waits and the peer reads none of it.", "closed")
    message_stall_seconds: float = _seconds("Limits", 30.0, "Half a request and not one more byte.", "closed")
    message_whole_seconds: float = _seconds("Limits", 300.0, "From a request's first byte to its last.", "closed")
    idle_seconds: float = _seconds("Limits", 600.0, "A connection with no call and no byte.", "closed")
    pool_bytes: int = _bytes(
        Derived(
            "50 % of the memory limit, at least 4 x max_request_bytes",
            lambda host, values: max(host.memory_bytes // 2, 4 * values["max_request_bytes"]),
        ),
        "Memory for requests, batches and outputs; an eighth more for each GPU (512 MiB at most), page-locked.",
        _EXHAUSTED,
        MIB,
    )
    pool_retain_bytes: int = _bytes(
        Derived("256 MiB, at most pool_bytes", lambda _, values: min(256 * MIB, values["pool_bytes"])),
        "Memory that the pool keeps for reuse when it is free.",
        "goes back to the system",
        0,
    )

    drain_delay: float = _seconds(
        "Shutdown", 0.0, "After a signal: not ready, but serving on, for this long (5 suits Kubernetes).", minimum=0.0
    )
    drain_seconds: float = _seconds(
        "Shutdown",
        30.0,
        "Then this long for what is in flight.",
        "UNAVAILABLE to the callers, exit code 1",
        minimum=0.0,
    )

    access_log: bool = _option("Logging", False, "One line for each ModelInfer, on stderr with the rest of the log.")
    log_level: str = _option("Logging", "info", "What is logged.", choices=("debug", "info", "warning", "error"))
    trace_config: tuple[str, ...] = _option(
        "Logging",
        (),
        "A setting of tracing as Triton writes it: level=TIMESTAMPS, rate=100, count=-1, triton,file=PATH, "
        "triton,log-frequency=0. level=TENSORS writes what callers send and get to the file.",
    )
    measure_steps: bool = _option("Logging", False, "Measure the longest step of each event loop; logged at the end.")

    host_limits: Host
    sources: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    def changed(self) -> list[str]:
        """One line, "lanes = 2 (--lanes)", for each option that somebody set."""
        return [
            f"{o.name} = {o.show(getattr(self, o.name))} ({self.sources[o.name]})"
            for o in OPTIONS
            if self.sources[o.name] != "default"
        ]


OPTIONS: tuple[Option, ...] = tuple(
    Option(name=field.name, type=kind, **field.metadata)
    for field in dataclasses.fields(Config)
    if field.metadata and isinstance(kind := get_origin(field.type) or field.type, type)
)
_BY_NAME = {option.name: option for option in OPTIONS}


# --- Where values come from ------------------------------------------------------------------------------------------


def resolve(
    flags: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    file: str | None = None,
    host: Host | None = None,
    flag_source: Callable[[Option], str] = lambda option: option.flag,
) -> Config:
    """File < environment < flags. `flags`: option name -> value. ConfigError names key, value and range."""
    environ = {} if environ is None else environ
    host = host or Host.detect()
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    file = file or environ.get(CONFIG_FILE_VARIABLE)
    if file:
        try:
            table = read_toml(file)
        except ValueError as error:
            raise ConfigError(f"The configuration file {file} {error}.") from None
        for key, value in table.items():
            source = f"file {file}"
            values[key], sources[key] = _option_named(key, source).parse(value, source), source
    for option in OPTIONS:
        if option.variable in environ:
            values[option.name] = option.parse(environ[option.variable], option.variable)
            sources[option.name] = option.variable
    for key, value in flags.items():
        option = _option_named(key, "argument")
        source = flag_source(option)
        values[key], sources[key] = option.parse(value, source), source
    for option in OPTIONS:
        if option.name not in values:
            default = option.default
            values[option.name] = default.value(host, values) if isinstance(default, Derived) else default
            sources[option.name] = "default"
    _check_together(values, host)
    return Config(**values, host_limits=host, sources=sources, warnings=tuple(_unknown_variables(environ)))


def _option_named(key: str, source: str) -> Option:
    option = _BY_NAME.get(key)
    if option is None:
        near = difflib.get_close_matches(key, _BY_NAME, 1)
        hint = f"did you mean {near[0]!r}?" if near else "`headrace serve --help` lists the options."
        raise ConfigError(f"There is no option {key!r} ({source}): {hint}")
    return option


def _unknown_variables(environ: Mapping[str, str]) -> Iterable[str]:
    # A warning, not an error: Kubernetes sets HEADRACE_SERVICE_HOST and the like for a service of that name.
    known = {option.variable for option in OPTIONS} | {CONFIG_FILE_VARIABLE}
    injected = re.compile(ENV_PREFIX + r"(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT(_\d+_\w+)?)")
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in known and not injected.fullmatch(name):
            yield f"The environment variable {name} is not an option and has no effect."


def _check_together(values: Mapping[str, Any], host: Host) -> None:
    try:
        memory_budgets(values["model_memory_budget"])
    except ValueError as error:
        raise ConfigError(f"model_memory_budget {error}.") from None
    try:
        limits = resource_limits(values["rate_limit_resource"])
    except ValueError as error:
        raise ConfigError(f"rate_limit_resource {error}.") from None
    if limits and values["rate_limit"] == "off":
        raise ConfigError("rate_limit_resource has no meaning without --rate-limit execution_count: add it.")
    for name in ("lanes", "compute_threads"):
        if values[name] > host.cores:
            raise ConfigError(
                f"{name} is {values[name]}, but this process has {host.cores} core(s): lower {_BY_NAME[name].flag}."
            )
    if re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", values["device"]) is None:
        raise ConfigError(
            f"device is {values['device']!r}: give auto, cpu, cuda or cuda:N ({_BY_NAME['device'].flag})."
        )
    for name in ("connection_inflight_bytes", "process_inflight_bytes", "max_queue_bytes", "pool_bytes"):
        if values[name] < values["max_request_bytes"]:
            option = _BY_NAME[name]
            raise ConfigError(
                f"{name} is {option.show(values[name])}, less than one request may have (max_request_bytes, "
                f"{option.show(values['max_request_bytes'])}): raise {option.flag} or lower --max-request-bytes."
            )
    for name in ("grpc_header_forward_pattern", "http_header_forward_pattern"):
        try:
            header_matcher(values[name])
        except ValueError as error:
            raise ConfigError(
                f"{name} is {values[name]!r}, which is no regular expression ({error}): correct {_BY_NAME[name].flag}."
            ) from None
    if values["model_control_mode"] == "poll":
        raise ConfigError(
            "model_control_mode is poll, which is not built yet: use none or explicit (--model-control-mode)."
        )
    if values["load_model"] and values["model_control_mode"] != "explicit":
        raise ConfigError("load_model has a meaning in mode explicit only: add --model-control-mode explicit.")
    if values["pool_retain_bytes"] > values["pool_bytes"]:
        raise ConfigError("pool_retain_bytes is more than pool_bytes: lower --pool-retain-bytes or raise --pool-bytes.")


# --- Showing it ------------------------------------------------------------------------------------------------------


def add_arguments(
    parser: "argparse.ArgumentParser", *, groups: Iterable[str] | None = None, skip: Iterable[str] = ()
) -> None:
    """Adds a flag for each option (of these groups). Values stay text: `resolve` reads and checks them."""
    import argparse

    for title in dict.fromkeys(option.group for option in OPTIONS):
        if groups is not None and title not in groups:
            continue
        section = parser.add_argument_group(title)
        for option in OPTIONS:
            if option.group != title or option.name in skip:
                continue
            text = f"{option.help} Default: {option.default_text}." + (
                f" When full: {option.full}." if option.full else ""
            )
            more: dict[str, Any] = {"nargs": "?", "const": "true"} if option.type is bool else {}
            if option.type is tuple:
                more = {"action": "append"}
            text_like = option.type in (str, tuple)
            metavar = "BOOL" if option.type is bool else option.unit.upper() or ("TEXT" if text_like else "N")
            section.add_argument(
                option.flag,
                dest=option.name,
                metavar=metavar,
                default=argparse.SUPPRESS,
                help=text.replace("%", "%%"),
                **more,
            )
