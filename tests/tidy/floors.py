"""The floors of the house: which folder and module may use which. The tests check it, docs/architecture.md shows it.

`python tests/tidy/floors.py` prints the picture; `--write FILE` puts it between FILE's two `floors` markers.
"""

import sys
from pathlib import Path
from typing import NamedTuple

BEGIN, END = "<!-- floors: written by tests/tidy/floors.py -->", "<!-- floors end -->"


class Floor(NamedTuple):
    """One row of the picture: a level, the names on it (they do not see each other), and what they hold."""

    level: int
    names: tuple[str, ...]
    holds: str


# csrc/<folder>: may include itself and lower levels.
NATIVE = (
    Floor(0, ("base",), "error, clock, sync, check: a closed list"),
    Floor(1, ("memory",), "bytes and where they are: pool, budget, tensor, device"),
    Floor(
        2, ("wire", "backend", "batching"), "bytes <-> calls | a batch through a runtime | who is in a batch, and when"
    ),
    Floor(3, ("schedule",), "the threads: lanes, timer, worker; who runs where, next"),
    Floor(4, ("engine",), "the whole core seen from outside: load, submit, cancel, drain, snapshot"),
    Floor(5, ("front",), "the only place where protocol meets engine"),
    Floor(6, ("bindings",), "translation to Python only, one file a class"),
)

# python/headrace/<module>: may import lower levels. `_core` is the native core, for engine alone.
PYTHON = (
    Floor(
        0,
        (
            "errors",
            "header_pattern",
            "host",
            "steps",
            "farewell",
            "access_line",
            "sizes",
            "toml_file",
            "resources",
            "counters",
            "_proto",
        ),
        "one table of statuses | which headers are forwarded | cores and memory | how long steps take"
        " | a connection's end | the access log's line | bytes as people write them | its file"
        " | what rate limiters count | the core's counters | the wire's messages",
    ),
    Floor(
        1,
        ("option", "config_fields", "reflection", "http_message", "schedule", "sessions", "datatypes"),
        "one option of the server | config.pbtxt's fields | reflection | HTTP's values | the scheduler, as it is shown"
        " | what the core is told of sessions | names of element types",
    ),
    Floor(2, ("config",), "the only defaults, and where each value came from"),
    Floor(
        3,
        ("engine", "tracing", "metrics", "log_settings", "uploads", "grpc_web", "providers"),
        "the asyncio face of the core, the only importer of _core | traces and logs | files that callers brought"
        " | gRPC-Web's frames | on which device a model is to run",
    ),
    Floor(4, ("batching_config",), "batching, queues and priorities of config.pbtxt"),
    Floor(5, ("plans",), "what config.pbtxt must say of a TensorRT plan"),
    Floor(6, ("model_config",), "config.pbtxt, and what the model completes of it"),
    Floor(
        7,
        ("router", "layout", "labels", "warmup"),
        "names, versions, labels -> the catalog that the core resolves | what is on disk | classes | first runs",
    ),
    Floor(8, ("repository", "rollout"), "what is on disk -> what is served"),
    Floor(9, ("service",), "every operation, neutral of protocol"),
    Floor(
        10,
        ("grpc_calls", "http_docs", "http_generate", "http_json", "http_origins"),
        "gRPC's messages <-> the service | the API page | flat JSON <-> inference | JSON of values"
        " | which sites' pages may call",
    ),
    Floor(11, ("grpc_server", "http_gateway"), "gRPC's door | HTTP's paths"),
    Floor(12, ("http_reader",), "HTTP's requests as they arrive"),
    Floor(13, ("http_calls", "http_stream"), "calls that Python answers | answers in pieces"),
    Floor(14, ("http_protocol",), "HTTP's door"),
    Floor(15, ("listener", "http_measured"), "sockets, TLS, and which door a connection belongs to"),
    Floor(16, ("server",), "composition root: start, drain, stop; `headrace.Server`"),
    Floor(17, ("cli", "client", "bench"), "the command | a client and a load generator, of the wire alone"),
)

# Where a level alone says too much: these see only what is named.
NARROWER = {
    "grpc_calls": {"errors", "_proto", "config", "reflection", "service"},
    "farewell": set(),
    "grpc_server": {
        *("errors", "_proto", "config", "engine", "tracing", "metrics", "service", "grpc_calls"),
        "farewell",
    },
    "http_message": {"errors"},
    "http_docs": {"http_message", "service"},
    "http_json": {"errors", "http_message"},
    "http_generate": {"errors", "http_message", "service"},
    "grpc_web": {"errors", "http_message"},
    "http_gateway": {
        *("errors", "config", "_proto", "http_message", "http_docs", "http_generate", "http_json", "service"),
        *("grpc_calls", "grpc_web", "http_origins"),
    },
    "http_origins": {"errors", "config", "http_message"},
    "http_reader": {"errors", "header_pattern", "config", "engine", "http_message", "http_gateway", "grpc_web"},
    "http_calls": {"errors", "http_message", "http_gateway", "http_reader"},
    "http_stream": {"errors", "engine", "grpc_calls", "grpc_web", "http_message", "http_gateway", "http_reader"},
    "http_protocol": {
        *("errors", "config", "engine", "http_message", "http_generate", "http_gateway", "http_reader"),
        *("grpc_web", "farewell", "http_calls", "http_stream"),
    },
    "http_measured": {"http_gateway", "http_protocol"},
    "listener": {"errors", "config", "engine", "tracing", "metrics", "grpc_server", "http_protocol"},
    "cli": {"errors", "config", "log_settings", "server", "client", "bench"},
    "client": {"errors", "config", "_proto"},
    "bench": {"errors", "config", "_proto", "client"},
}

# The package's fronts: `import headrace` shows Server and the version, `python -m headrace` is the command.
FRONTS = {"__init__": {"server", "engine"}, "__main__": {"cli"}}


def level_of(floors: tuple[Floor, ...], name: str) -> int | None:
    """The level of a folder or module, None for one that has no floor yet."""
    return next((floor.level for floor in floors if name in floor.names), None)


def may_include(folder: str, used: str) -> bool:
    """Whether a file in csrc/`folder` may include a header of csrc/`used`."""
    mine, other = level_of(NATIVE, folder), level_of(NATIVE, used)
    return folder == used or (mine is not None and other is not None and other < mine)


def may_import(module: str, used: str) -> bool:
    """Whether python/headrace/`module` may import headrace.`used`."""
    if module in FRONTS:
        return used in FRONTS[module]
    if used == "_core":
        return module == "engine"
    if module == used:
        return True
    mine, other = level_of(PYTHON, module), level_of(PYTHON, used)
    if mine is None or other is None:
        return False
    return used in NARROWER[module] if module in NARROWER else other < mine


def picture(present: set[str] | None = None) -> str:
    """The drawing, top floor first. With `present`, what of the plan is not built yet is left out."""
    lines = ["```text"]
    for title, floors in (("python/headrace", PYTHON), ("csrc", NATIVE)):
        lines.append(f"{title + ' ':-<118}")
        for floor in reversed(floors):
            names = [name for name in floor.names if present is None or name in present]
            if names:
                lines.append(f"{floor.level:>2}  {' | '.join(names):<32} {floor.holds}")
        if title != "csrc":
            lines.append(f"{'_core (the extension module; engine is the only importer) ':-<118}")
    return "\n".join([*lines, "```"])


def names_present(root: Path) -> set[str]:
    """Folders of csrc/ and modules of python/headrace/ that exist."""
    modules = (root / "python/headrace").iterdir()
    folders = {path.name for path in (root / "csrc").iterdir() if path.is_dir() and any(path.iterdir())}
    return folders | {path.stem for path in modules if path.suffix == ".py" or (path / "__init__.py").exists()}


def with_picture(page: str, drawn: str) -> str:
    """`page` with what is between the markers replaced. ValueError without markers."""
    head, _, rest = page.partition(BEGIN)
    old, _, tail = rest.partition(END)
    if not old:
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n{drawn}\n{END}{tail}"


if __name__ == "__main__":
    drawing = picture(names_present(Path(__file__).resolve().parents[2]))
    if sys.argv[1:2] == ["--write"]:
        target = Path(sys.argv[2])
        target.write_text(with_picture(target.read_text(), drawing))
    else:
        print(drawing)
