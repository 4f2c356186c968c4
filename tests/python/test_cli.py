"""The command: what it prints, to where, and its exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ECHO = "input x FP32 [-1,3]\n"


def headrace(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return subprocess.run(
        [sys.executable, "-m", "headrace", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**inherited, **environment},
    )


def put(root: Path, name: str, *, model: str | None = ECHO, config: str = 'backend: "echo"') -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(config)
    if model is not None:
        (folder / "model.echo").write_text(model)


def test_version_and_help() -> None:
    shown = headrace("--version")
    assert (shown.returncode, shown.stdout.split()[0]) == (0, "headrace")
    helped = headrace("serve", "--help")
    assert helped.returncode == 0
    assert "--max-request-bytes" in helped.stdout


def test_help_needs_neither_core_nor_event_loop() -> None:
    code = (
        "import sys\nfrom headrace import cli\n"
        "try:\n    cli.main(['serve', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'asyncio', 'uvloop', 'google.protobuf', 'headrace._core', 'tomllib'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


def test_no_command_and_a_wrong_one_say_how() -> None:
    for arguments in ([], ["served"]):
        shown = headrace(*arguments)
        assert shown.returncode == 2
        assert "usage: headrace" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model-repository", "/nonexistent"], "The model repository /nonexistent cannot be read"),
        ([], "give --model-repository DIR"),
        (["--grpc-port", "x"], "grpc_port is 'x' (--grpc-port), which it cannot be: give 0 to 65535."),
        (["--config", "/nonexistent.toml"], "The configuration file /nonexistent.toml cannot be read"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(arguments: list[str], words: str) -> None:
    shown = headrace("serve", *arguments, HEADRACE_GRPC_PORT="0", HEADRACE_HTTP_PORT="0")
    assert shown.returncode == 2
    assert shown.stdout == ""
    (line,) = shown.stderr.splitlines()
    assert line.startswith("headrace: ")
    assert words in line


def test_check_says_what_would_be_served_and_what_is_wrong(tmp_path: Path) -> None:
    put(tmp_path, "good", config='backend: "echo" max_batch_size: 4')
    shown = headrace("check", str(tmp_path))
    assert shown.returncode == 0
    heading, row, _, total = shown.stdout.splitlines()
    assert heading.split() == ["MODEL", "VERSION", "BACKEND", "DEVICE", "BATCHING"]
    assert row.split()[:4] == ["good", "1", "echo", "CPU"]
    assert total == "1 of 1 model version(s) would be served."

    put(tmp_path, "missing", model=None)
    put(tmp_path, "wrong", config="max_batch_size: x")
    shown = headrace("check", str(tmp_path))
    assert shown.returncode == 1
    assert "2 model version(s)" not in shown.stdout
    assert "1 of 3 model version(s) would be served." in shown.stdout
    assert "NOT SERVED: " in shown.stdout
    for name in ("missing", "wrong"):
        assert f"model '{name}' version 1 is not served: " in shown.stderr


def test_check_of_nothing(tmp_path: Path) -> None:
    shown = headrace("check", str(tmp_path))
    assert shown.returncode == 2
    assert "has no model in it" in shown.stderr


def test_the_environment_and_the_log_level(tmp_path: Path) -> None:
    put(tmp_path, "good")
    shown = headrace("check", str(tmp_path), HEADRACE_LOG_LEVEL="debug", HEADRACE_NO_SUCH="1")
    assert "log_level = debug (HEADRACE_LOG_LEVEL)" in shown.stderr
    assert "HEADRACE_NO_SUCH is not an option" in shown.stderr
    quiet = headrace("check", str(tmp_path), "--log-level", "error", HEADRACE_LOG_LEVEL="debug")
    assert quiet.stderr == ""
