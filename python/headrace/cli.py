"""The command `headrace`: `serve`, `check`, `--version`. Imports late, so that `--help` is fast.

Exit codes: 0; 1 when `check` found something wrong or calls had to be ended at shutdown; 2 when the server cannot start
or an option is wrong. The table of what is served goes to stdout, the log to stderr.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from headrace.config import Config, add_arguments, resolve
from headrace.errors import StartError
from headrace.log_settings import start_log

if TYPE_CHECKING:
    from headrace.server import Instance, ServedModel

__all__ = ["main"]

_NOT_CHECKED = (
    "model_repository",
    "exit_on_error",
    "strict_readiness",
    "access_log",
    "model_control_mode",
    "load_model",
    "allow_model_upload",
    "max_upload_bytes",
    "trace_config",
)
_CHECK_GROUPS = ("Models", "Compute", "Limits", "Logging")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from headrace.server import headrace_version

        print(f"headrace {headrace_version()}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headrace", description="An inference server: ONNX models over gRPC and HTTP."
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="print the version and end"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    sources = "Options come from --config FILE, then HEADRACE_<OPTION> in the environment, then flags; the later wins."
    serve = commands.add_parser("serve", help="serve a model repository", description=f"Serve models. {sources}")
    serve.add_argument("--config", metavar="FILE", dest="config_file", help="TOML file of options")
    add_arguments(serve)
    check = commands.add_parser(
        "check",
        help="say what would be served, and what is wrong",
        description=f"Load every model of a repository, serve none, and say what is wrong. {sources}",
    )
    check.add_argument("directory", metavar="DIR", help="the model repository")
    check.add_argument("--config", metavar="FILE", dest="config_file", help="TOML file of options")
    add_arguments(check, groups=_CHECK_GROUPS, skip=_NOT_CHECKED)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    flags = vars(_parser().parse_args(arguments))
    command, file = flags.pop("command"), flags.pop("config_file")
    if "directory" in flags:
        flags["model_repository"] = flags.pop("directory")
    try:
        config = resolve(flags, environ=os.environ, file=file)
        start_log(config)
        return _serve(config) if command == "serve" else _check(config)
    except StartError as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 2


def _serve(config: Config) -> int:
    from headrace.server import serve

    return serve(config, lambda instance: _announce(config, instance))


def _announce(config: Config, instance: "Instance") -> None:
    host = f"[{config.host}]" if ":" in config.host else config.host
    lines = _table(instance.models)
    lines += [
        "",
        f"gRPC  {host}:{instance.grpc_port}",
        f"HTTP  {host}:{instance.http_port}",
        f"{config.lanes} lane(s) and {config.io_threads} event loop(s) on {config.host_limits.cores} core(s)",
        "ready",
    ]
    print("\n".join(lines), flush=True)


def _check(config: Config) -> int:
    from headrace.server import check

    models = check(config)
    print("\n".join(_table(models)), flush=True)
    wrong = sum(1 for model in models if model.reason)
    print(f"\n{len(models) - wrong} of {len(models)} model version(s) would be served.", flush=True)
    return 1 if wrong else 0


def _table(models: "Sequence[ServedModel]") -> list[str]:
    """Aligned columns: model, version, backend, device, and how it is batched or why it is not served."""
    rows = [("MODEL", "VERSION", "BACKEND", "DEVICE", "BATCHING")]
    for model in models:
        if model.reason:
            rows.append((model.name, model.version, "-", "-", f"NOT SERVED: {model.reason}"))
        else:
            rows.append((model.name, model.version, model.backend, model.device, model.batching))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows]
